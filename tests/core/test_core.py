"""Errors, randomness, records, units, and the door of the package."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import swath.core as core
from swath.core import SENSORS, Protocol, Result, Sensor, SwathError, UnknownName, UserError
from swath.core.records import append, read, write_whole
from swath.core.rng import at, coins, generator, numpy_generator, seed_of
from swath.core.sensor import Band
from swath.core.units import convert


def test_the_door():
    assert len(set(core.__all__)) == len(core.__all__) >= 33
    for name in core.__all__:
        assert getattr(core, name) is not None
    with pytest.raises(AttributeError):
        _ = core.nothing


def test_errors_read_as_a_block():
    error = UserError("it broke", where="a.tif, band red", remedy="mend it")
    assert error.lines() == ["it broke", "  where:  a.tif, band red", "  remedy: mend it"] and error.exit_code == 2
    assert SwathError("x").exit_code == 1
    assert "did you mean sentinel2-l2a" in str(UnknownName("sensor", "sentinel2-l2b", SENSORS.names()))


def test_addresses_do_not_collide():
    seeds = {seed_of(a, b, c) for a in range(12) for b in range(12) for c in ("crop", "mask")}
    assert len(seeds) == 288
    assert seed_of(1, "2") != seed_of("1", 2) and seed_of("ab", "c") != seed_of("a", "bc")
    assert torch.equal(torch.rand(3, generator=generator(7, 1, "x")), torch.rand(3, generator=generator(7, 1, "x")))
    assert numpy_generator(7, "x").integers(1 << 40) == numpy_generator(7, "x").integers(1 << 40)


def test_seeds_are_frozen():
    """A changed hash would change every run: this number may never change."""
    assert seed_of(7, 0, 42, "crop") == 366398048399466873


def result(**other):
    facts = dict(protocol="p", dataset="d", encoder="e", tuning="full", seed=1, metric="iou", value=0.5, origin="rerun")
    return Result(**{**facts, **other})


def test_records_round_trip(tmp_path):
    file = tmp_path / "r.jsonl"
    for value in (0.1, float("nan"), 0.3):
        append(file, result(value=value, failed=math.isnan(value), licences={"weights": "MIT"}))
    rows = list(read(file))
    assert [r.failed for r in rows] == [False, True, False]
    assert rows[2] == result(value=0.3, licences={"weights": "MIT"})
    file.write_text(file.read_text() + '{"schema": 1, "val')
    with pytest.raises(UserError, match=r"r\.jsonl:4"):
        list(read(file))
    file.write_text(result().line().replace('"seed"', '"seeed"'))
    with pytest.raises(UserError, match="seeed"):
        list(read(file))


def test_a_protocol_is_its_rules():
    assert Protocol("a", {"lr": 1, "x": [1, 2]}).digest == Protocol("a", {"x": [1, 2], "lr": 1}).digest
    assert Protocol("a", {"lr": 1}).digest != Protocol("a", {"lr": 2}).digest


@given(st.floats(-50, 20))
def test_units_round_trip(db):
    x = torch.tensor([db], dtype=torch.float64)
    for unit in ("linear", "amplitude"):
        assert torch.allclose(convert(convert(x, "db", unit), unit, "db"), x, atol=1e-6)


def test_units_are_never_guessed():
    with pytest.raises(UserError, match="'reflectance' to 'db'"):
        convert(torch.zeros(1), "reflectance", "db", where="a.tif")
    assert convert(torch.tensor([0.0]), "celsius", "kelvin").item() == pytest.approx(273.15)


def test_nearest_says_what_it_did():
    s2 = SENSORS.get("sentinel2-l2a")
    wide = Sensor("x", "optical", (Band("pink", nm=650.0), Band("far", nm=12000.0), Band("vv")))
    match = s2.nearest(wide, max_nm=40)
    assert match.pairs == {"pink": ("red", pytest.approx(14.6))}
    assert "more than 40 nm" in match.unmatched["far"] and "no band of that name" in match.unmatched["vv"]
    assert "pink <- red (15 nm apart)" in match.describe()


def test_a_sensor_refuses_two_bands_of_one_name():
    with pytest.raises(SwathError, match="names two bands"):
        Sensor("x", "optical", (Band("red", ("B4",)), Band("nir", ("b4",))))
    with pytest.raises(UnknownName, match="did you mean red"):
        SENSORS.get("sentinel2-l2a").band("redd")


def test_a_whole_record_is_plain_json(tmp_path):
    path = tmp_path / "record.json"
    path.write_text("old")
    write_whole(path, {"a": float("nan"), 2: [1.5, float("-inf"), (True, None)], "at": Path("x")})
    assert json.loads(path.read_text()) == {"a": None, "2": [1.5, None, [True, None]], "at": "x"}
    with pytest.raises(TypeError):
        write_whole(path, {"deep": {(1, 2): object}, "bad": _Unspoken()})
    assert json.loads(path.read_text())["at"] == "x"


class _Unspoken:
    def __str__(self):
        raise TypeError("no words")


def test_a_device_is_tried_before_it_is_used():
    from swath.core.device import usable

    assert usable("cpu").type == "cpu"
    with pytest.raises(UserError, match=r"'warp9' cannot be used(.|\n)*loop\.device"):
        usable("warp9", "loop.device")


def test_coins_are_each_samples_own():
    """Splitmix64 in wrapping integers, against Python's; no batch, order or part changes a sample's number."""
    keys = torch.tensor([0, 7, -3, 2**62, -(2**63)])

    def plain(key, seed):
        z, mask = (key + seed - 2**62) % 2**64, 2**64 - 1
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return ((z ^ z >> 31) >> 11) / 2**53

    try:
        at(3, 14, "coins")
        own = coins(keys, "alone")
        seed = seed_of(seed_of(3, 14, "coins"), "alone")
        assert own.tolist() == pytest.approx([plain(int(k), seed) for k in keys], abs=1e-6)
        assert torch.equal(coins(keys.flip(0)[:2], "alone"), own.flip(0)[:2])
        assert not torch.equal(coins(keys, "time"), own)
        many = coins(torch.arange(100_000), "alone")
        assert abs(float(many.mean()) - 0.5) < 0.005 and abs(float(many.var()) - 1 / 12) < 0.001
        at(3, 15, "coins")
        assert not torch.equal(coins(keys, "alone"), own)
    finally:
        at()
    torch.manual_seed(0)  # nobody said where we are: torch's own generator
    first = coins(keys, "alone")
    assert torch.equal(first, torch.rand(5, generator=torch.Generator().manual_seed(0)))
