"""The world as a data set: disjoint splits, the same chip whoever asks, missing sensors, shifts, events."""

import numpy as np
import pytest
import torch

from swath.core import UnknownName, UserError, collate
from swath.core.config import parse_member, plain
from swath.data.sources import SOURCES
from swath.data.sources.world import WorldConfig, WorldShift, _apart

SMALL = dict(chips={"train": 4, "val": 2, "test": 3}, size=24, dates=("06-20",), labels=("land_cover",))


def test_splits_are_disjoint_and_apart():
    source = WorldConfig(**SMALL).build()
    splits = source.splits()
    assert [len(v) for v in splits.values()] == [4, 2, 3] and len(source) == 9
    assert len({i for v in splits.values() for i in v}) == 9
    places = [(s, (site.lon, site.lat)) for s, site in source._index]
    for split, place in places:
        assert _apart(place, [q for s, q in places if s != split], 5.0)
    keys = [int(source.sample(i).where.key) for i in range(9)]
    assert len(set(keys)) == 9


def test_the_same_chip_for_any_asker():
    a, b = WorldConfig(**SMALL).build(), WorldConfig(**SMALL, keep=1).build()
    for i in (3, 0, 5, 3):
        x, y = a.sample(i), b.sample(i)
        assert torch.equal(x.layers["sentinel2-l2a"].x, y.layers["sentinel2-l2a"].x)
        assert torch.equal(x.labels["land_cover"].value, y.labels["land_cover"].value)
    assert a.fingerprint == b.fingerprint != WorldConfig(**{**SMALL, "size": 32}).build().fingerprint


def test_bands_and_unknown_names():
    source = WorldConfig(**SMALL).build()
    part = source.sample(0, {"sentinel2-l2a": ["nir", "B04"]})
    assert part.layers["sentinel2-l2a"].sensor.names == ("nir", "red")
    with pytest.raises(UnknownName, match="sentinel2-l2a"):
        source.sample(0, {"sentinel2": ["red"]})
    with pytest.raises(UnknownName, match="land_cover"):
        WorldConfig(labels=("landcover",)).build()
    with pytest.raises(UserError, match="no sample 9"):
        source.sample(9)
    with pytest.raises(UserError, match="no date"):
        WorldConfig(dates=("June",)).build()


def test_a_missing_sensor_is_missing_only_where_asked():
    config = WorldConfig(
        **{**SMALL, "chips": {"train": 4, "test": 6}}, sensors={"sentinel2-l2a": ("red",), "sentinel1-rtc": ()},
        missing={"sentinel1-rtc": 0.5},
    )  # fmt: skip
    source = config.build()
    have = ["sentinel1-rtc" in source.sample(i).layers for i in range(10)]
    assert all(have[:4]) and not all(have[4:])
    batch = collate([source.sample(i) for i in range(10)])
    assert batch.layers["sentinel1-rtc"].valid.flatten(1).any(1).tolist() == have


def test_a_shift_moves_only_its_split():
    home = WorldConfig(**SMALL).build()
    moved = WorldConfig(**SMALL, shift=WorldShift("season", 1.0)).build()
    assert torch.equal(home.sample(0).layers["sentinel2-l2a"].x, moved.sample(0).layers["sentinel2-l2a"].x)
    assert not torch.equal(home.sample(8).layers["sentinel2-l2a"].x, moved.sample(8).layers["sentinel2-l2a"].x)


def test_events_have_their_days():
    config = WorldConfig(chips={"train": 2}, size=48, near="fire", offsets=(-20, 12), labels=("burn_scar",), clouds=0.0)
    source = config.build()
    times = source.sample(0).layers["sentinel2-l2a"].times
    assert int(times[0, 1] - times[0, 0]) == 32
    assert np.mean([float((source.sample(i).labels["burn_scar"].value == 1).float().mean()) for i in range(2)]) > 0.02
    with pytest.raises(UserError, match="event"):
        WorldConfig(chips={"train": 1}, offsets=(1,), size=16).build().sample(0)


def test_it_is_a_value():
    config = WorldConfig(**SMALL, shift=WorldShift("sensor", 0.3))
    assert parse_member(plain(config), SOURCES) == config
