"""Records of published weights: typed, complete, and true to the encoders they name."""

import json
from importlib import resources

import pytest
import torch

from swath.core import SwathError, UnknownName, UserError
from swath.core.config import parse
from swath.models import ENCODERS, build_encoder, encoder_config
from swath.models.tokenizers import build_tokenizer
from swath.models.weights import SPDX, WEIGHTS, WeightsRecord, choose, count_of, fetch_record

OWN = {"swath-vit", "mosaiks", "pixels"}
NAMES = WEIGHTS.names()
FIRST = list({WEIGHTS.get(n).encoder.split("/")[0]: n for n in reversed(NAMES)}.values())
GOOD = dict(
    name="x", title="X", licence="MIT", params=1, data="d", sensors=("naip",), paper="p", url="u", encoder="a/b"
)


def test_every_published_family_has_records():
    families = {r.encoder.split("/")[0] for _, r in WEIGHTS if r.encoder}
    assert families == set(ENCODERS.names()) - OWN
    assert len(NAMES) >= 95 and {"Apache-2.0", "MIT", "CC-BY-NC-4.0", "LicenseRef-DINOv3"} <= {
        r.licence for _, r in WEIGHTS
    }


def test_every_record_names_a_size_and_a_place():
    for name, record in WEIGHTS:
        if record.encoder:
            family, _, size = record.encoder.partition("/")
            assert size in ENCODERS.get(family).sizes, name
        assert record.url or (record.repo and record.file), name
        assert record.paper.startswith("https://") and record.params > 0 and record.data, name
        assert record.licence in SPDX or record.licence_note, name
        if record.licence.startswith("CC-BY-NC"):
            assert "non-commercial" in record.licence_note, name


def check(name):
    record = WEIGHTS.get(name)
    with torch.device("meta"):
        module = encoder_config(record.encoder).build() if record.encoder else build_tokenizer(record.tokenizer)
    assert record.params == sum(p.numel() for p in module.parameters())
    if not record.encoder:
        return
    for mine, theirs in zip(record.input, module.spec.inputs, strict=True):
        for key in ("sensor", "bands", "unit", "mean", "std", "gain", "bias", "clip"):
            assert (
                getattr(mine, key) == pytest.approx(getattr(theirs, key))
                if key in ("mean", "std")
                else (getattr(mine, key) == getattr(theirs, key))
            ), key


@pytest.mark.parametrize("name", FIRST)
def test_bands_statistics_and_size_are_the_encoders(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(NAMES) - set(FIRST)))
def test_bands_statistics_and_size_of_all(name):
    check(name)


def test_filters():
    assert [count_of(t) for t in ("100M", "1.5B", "20k", "7")] == [1e8, 1.5e9, 2e4, 7]
    found = choose("sentinel1-grd", "100M", "apache-2.0")
    assert {"terramind-base", "terramind-tiny"} <= {r.name for r in found}
    for r in found:
        assert "sentinel1-grd" in r.sensors and r.params <= 1e8 and r.licence == "Apache-2.0"
    assert [r.params for r in choose()] == sorted(r.params for _, r in WEIGHTS)
    with pytest.raises(UserError, match="number"):
        count_of("many")
    with pytest.raises(UnknownName, match="sentinel"):
        choose("sentinel1-gdr")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"licence": "Apache 2"}, "SPDX"),
        ({"sha256": "abc"}, "hexadecimal"),
        ({"sensors": ("sentinel9",)}, "not known"),
        ({"tokenizer": "dem"}, "an encoder or of a tokenizer"),
        ({"url": "", "repo": "a/b"}, "a hub repository with a file"),
    ],
)
def test_a_wrong_record_is_refused(change, words):
    WeightsRecord(**GOOD)
    with pytest.raises(SwathError, match=words):
        WeightsRecord(**{**GOOD, **change})


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(UnknownName, match="licence"):
        parse({**GOOD, "sensors": ["naip"], "license": "MIT"}, WeightsRecord)


def test_no_file_is_fetched_without_a_pin(monkeypatch):
    with pytest.raises(UserError, match="no pinned hub revision"):
        fetch_record("terramind-base")
    with pytest.raises(UserError, match="no pinned hub revision"):
        build_encoder("terramind/tiny", weights="terramind-tiny")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="not in the cache"):
        fetch_record("panopticon-base")


def test_a_record_says_what_its_name_does(capsys):
    """Nobody learns only at load time that a file is not fetched."""
    from swath.cli.main import main

    for name, words in (("presto", "give weights=PATH"), ("croma-base", "at 387883f08af79d777167519c57cd826eda89a16f")):
        with pytest.raises(SystemExit):
            main(["show", "weights", name])
        assert words in " ".join(capsys.readouterr().out.split())
    for record in (WEIGHTS.get(n) for n in NAMES):
        assert ("of the hub at" in record.fetch) == bool(record.revision) != ("fetch " in record.fetch)


def test_records_are_files_of_their_names():
    files = [p.name for p in resources.files("swath.models.weights").iterdir() if p.name.endswith(".toml")]
    assert sorted(f.removesuffix(".toml") for f in files) == NAMES


def test_the_command(capsys):
    from swath.cli.main import main

    with pytest.raises(SystemExit) as end:
        main(["list", "weights", "--for", "sentinel1-grd", "--max-params", "100M", "--licence", "apache-2.0", "--json"])
    assert end.value.code == 0
    rows = json.loads(capsys.readouterr().out)
    assert "terramind-base" in [r["name"] for r in rows] and all(r["licence"] == "Apache-2.0" for r in rows)
    with pytest.raises(SystemExit) as end:
        main(["list", "encoders", "--licence", "mit"])
    assert end.value.code == 2 and "only weights" in capsys.readouterr().err
