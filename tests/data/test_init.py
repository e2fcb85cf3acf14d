"""`swath init`: what is found becomes a card and a run file that the schema of runs accepts."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from tests.data.chips import S2, S2_NAMES, folder, write

from swath.core import UserError
from swath.core.config import load
from swath.data.card import load_card
from swath.data.open import open_source
from swath.data.propose import Hints
from swath.data.start import start


def test_a_card_and_a_run_file_that_parse(tmp_path):
    folder(tmp_path / "d", n=20)
    done = start(tmp_path / "d", "segment", Hints("sentinel2-l2a", S2), tmp_path / "o")
    assert not done.assumed
    source = open_source(yaml.safe_load(done.run.read_text())["data"])
    assert source.labels["label"].classes == ("class0", "class1")
    rows = {k: set(v) for k, v in source.splits().items()}
    assert set(rows) == {"train", "val", "test"} and sum(map(len, rows.values())) == 20
    x = torch.cat([source.sample(i).layers["sentinel2-l2a"].x for i in sorted(rows["train"])]).double()
    held = load_card(done.card).statistics["sentinel2-l2a"]
    np.testing.assert_allclose(held["mean"], x.mean((0, 1, 3, 4)), rtol=1e-5)
    np.testing.assert_allclose(held["std"], x.std((0, 1, 3, 4), correction=0), rtol=1e-5)


def test_the_run_file_fits_the_schema_of_runs(tmp_path):
    run = pytest.importorskip("swath.adapt.run")
    folder(tmp_path / "d", n=12)
    done = start(tmp_path / "d", "segment", Hints("sentinel2-l2a", S2), tmp_path / "o")
    parsed = load(done.run, run.TuneRun)
    assert len(parsed.data.build()) == 12
    assert parsed.loop.batch_size <= len(parsed.data.build().splits()["train"])


def test_written_into_the_folder_itself_it_opens_without_options(tmp_path):
    folder(tmp_path, n=12, names=S2_NAMES)
    done = start(tmp_path, "segment", Hints())
    assert any("sentinel2-l2a" in a for a in done.assumed), "B02, B03, B04, B08 fit several sensors: an assumption"
    assert set(open_source(tmp_path).splits()) == {"train", "val", "test"}
    assert "# assumed:" in done.card.read_text()
    with pytest.raises(UserError, match=r"run\.yaml is there already"):
        start(tmp_path, "segment", Hints())


def test_unnamed_bands_are_scaled_and_said_to_be_unknown(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        write(tmp_path / "images" / f"{i}.tif", rng.integers(0, 9000, (5, 16, 16)).astype("uint16"))
        write(tmp_path / "masks" / f"{i}.tif", rng.choice([3, 7, 255], (1, 16, 16)).astype("uint8"))
    done = start(tmp_path, "segment", Hints())
    text = " ".join(done.assumed)
    assert "unit is not known" in text and "[255]" in text and "neighbouring" in text
    source = open_source(tmp_path)
    sample = source.sample(0)
    assert 200 < float(sample.layers["unknown"].x.max()) < 300
    label = sample.labels["label"]
    assert set(label.value[label.valid].tolist()) == {0, 1} and not label.valid.all()


def test_splits_of_neighbours_stay_together(tmp_path):
    for i in range(40):
        place = (500000 + (i % 20) * 320, 5000000 - (i // 20) * 320)
        write(tmp_path / "images" / f"{i:02d}.tif", np.full((4, 32, 32), 2000, "uint16"), origin=place)
        write(tmp_path / "masks" / f"{i:02d}.tif", np.ones((1, 32, 32), "uint8"), origin=place)
    done = start(tmp_path, "segment", Hints("sentinel2-l2a", S2))
    assert "spatial blocks" in load_card(done.card).splits.rule
    split = {k: n for n, keys in json.loads((tmp_path / "splits.json").read_text()).items() for k in keys}
    changes = sum(split[f"{i:02d}"] != split[f"{i + 1:02d}"] for i in range(19))
    assert changes <= 12, "a random split would change about 12 of 19 times on average, blocks of two at most half"


def test_a_label_of_the_wrong_kind_is_refused(tmp_path):
    folder(tmp_path, n=3)
    with pytest.raises(UserError, match="needs a label of kind boxes"):
        start(tmp_path, "detect", Hints("sentinel2-l2a", S2))
    assert not (tmp_path / "card.toml").exists() and not (tmp_path / "run.yaml").exists()


def test_class_folders_become_a_classification(tmp_path):
    for name in ("forest", "water"):
        for i in range(6):
            write(tmp_path / name / f"{i}.tif", np.full((3, 8, 8), 40, "uint8"))
    start(tmp_path, "classify", Hints())
    source = open_source(tmp_path)
    assert source.labels["label"].classes == ("forest", "water") and len(source) == 12
    assert [int(source.sample(i).labels["label"].value) for i in range(12)] == [0] * 6 + [1] * 6


def test_the_verb(tmp_path):
    folder(tmp_path / "d", n=10)
    command = [sys.executable, "-m", "swath.cli", "init", str(tmp_path / "d"), "--task", "segment", "--json"]
    done = subprocess.run(
        [*command, "--sensor", "sentinel2-l2a", "--bands", ",".join(S2)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"] == 10


@pytest.mark.parametrize(
    "image", ["images/{}.tif", "train/images/{}.tif", "images/{}_img.tif", "{}.tif", "{}_merged.tif"]
)
def test_other_plain_namings_are_paired(tmp_path, image):
    mask = {"images/{}_img.tif": "masks/{}_mask.tif", "{}.tif": "{}_mask.tif", "{}_merged.tif": "{}.mask.tif"}.get(
        image, image.replace("images", "masks")
    )
    for i in range(10):
        place = (500000 + 1000 * i, 5000000)
        write(tmp_path / image.format(f"k{i}"), np.full((4, 16, 16), 2000 + i, "uint16"), origin=place)
        write(tmp_path / mask.format(f"k{i}"), np.full((1, 16, 16), i % 2, "uint8"), origin=place)
    start(tmp_path, "segment", Hints("sentinel2-l2a", S2))
    source = open_source(tmp_path)
    assert len(source) == 10
    for i in range(10):
        sample = source.sample(i)
        value = round((float(sample.layers["sentinel2-l2a"].x.max()) + 0.1) * 10000) - 2000
        assert int(sample.labels["label"].value.max()) == value % 2


def test_the_task_says_what_numbers_are(tmp_path):
    for i in range(10):
        write(tmp_path / "images" / f"{i}.tif", np.full((3, 16, 16), 100, "uint8"))
        write(tmp_path / "labels" / f"{i}.tif", np.full((1, 16, 16), i % 3, "float32"))
    a, b = tmp_path / "a", tmp_path / "b"
    one = start(tmp_path, "segment", Hints(), a)
    assert load_card(one.card).labels[0].kind == "mask" and any("taken for classes" in t for t in one.assumed)
    assert load_card(start(tmp_path, "regress", Hints(), b).card).labels[0].kind == "map"


@pytest.mark.parametrize(
    ("values", "dtype", "sensor"),
    [
        (lambda r: r.uniform(0.01, 0.5, (4, 16, 16)), "float32", "sentinel2-l2a"),
        (lambda r: r.integers(0, 255, (3, 16, 16)), "uint8", "rgb-aerial"),
        (lambda r: r.normal(-14, 2, (2, 16, 16)), "float32", "sentinel1-grd"),
        (lambda r: r.uniform(0.01, 0.3, (2, 16, 16)), "float32", "sentinel1-grd"),
        (lambda r: r.integers(50, 4000, (12, 16, 16)), "uint16", "sentinel2-l2a"),
    ],
)
def test_units_are_seen_in_the_values(tmp_path, values, dtype, sensor):
    rng = np.random.default_rng(0)
    for i in range(10):
        write(tmp_path / "images" / f"{i}.tif", values(rng).astype(dtype))
        write(tmp_path / "masks" / f"{i}.tif", rng.integers(0, 2, (1, 16, 16)).astype("uint8"))
    start(tmp_path, "segment", Hints())
    source = open_source(tmp_path)
    layer = source.sample(0).layers[sensor]
    for c, band in enumerate(layer.sensor.bands):
        assert band.low <= float(layer.x[:, :, c].median()) <= band.high
    if sensor == "sentinel1-grd":
        assert -25 < float(layer.x.median()) < -3, "decibels, whatever was stored"
    if dtype == "uint16":
        assert 0.1 < float(layer.x.mean()) < 0.3, "no offset of 2022 in these values"
