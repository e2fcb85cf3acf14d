"""Exported models answer as the bundle does; the command line goes from files to answers."""

import json

import numpy as np
import pytest
import rasterio
import tiny_adapt as tiny
import torch
from rasterio.transform import from_origin
from test_tune import make

from swath.adapt.bundle import Bundle
from swath.adapt.export import example, export
from swath.adapt.tune import tune
from swath.cli.main import main
from swath.core.errors import UserError

FAST = {"loop": {"steps": 3, "batch_size": 4, "progress": False}, "trust": {"bootstrap": 5, "chips": 1}}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    run = make(tmp_path_factory.mktemp("export"), task="segment", tuning="lora", **FAST)
    return Bundle.load(tune(run, tiny.TinySource(n=12)).bundle)


@pytest.mark.parametrize("to", ["onnx", "torch-export"])
def test_export_is_equal(bundle, to, tmp_path):
    done = export(bundle, to, tmp_path / "model")
    assert done["largest_difference"] < 1e-4 and done["inputs"] == {"sentinel2-l2a": [1, 1, 4, 32, 32]}
    if to == "onnx":
        import onnxruntime

        x = example(bundle, 32)[0] * 1.1
        got = onnxruntime.InferenceSession(str(tmp_path / "model")).run(None, {"sentinel2-l2a": x.numpy()})[0]
        layer = tiny.Layer.of(tiny.SENSOR, x)
        want = bundle.predict(tiny.Batch({tiny.SENSOR.id: layer}, tiny.Where.unknown(1)))["probabilities"]
        np.testing.assert_allclose(got, want.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "task", "to"),
    [pytest.param("class", "series", "onnx", marks=pytest.mark.slow), ("scalar", "scalar", "torch-export")],
)
def test_answers_about_a_whole_chip_are_exported(kind, task, to, tmp_path):
    source = tiny.TinySource(kind, n=12, dates=3 if task == "series" else 1)
    done = export(Bundle.load(tune(make(tmp_path, task=task, **FAST), source).bundle), to, tmp_path / "model")
    assert done["largest_difference"] < 1e-4


def test_fields_are_exported_as_their_three_classes(tmp_path):
    found = tune(make(tmp_path, task="boundaries", **FAST), tiny.ObjectSource(n=12))
    done = export(Bundle.load(found.bundle), "torch-export", tmp_path / "model.pt2")
    assert done["largest_difference"] < 1e-4 and done["output"] == "probabilities"


def test_what_is_not_exported_is_named(bundle, tmp_path):
    objects = Bundle.load(tune(make(tmp_path, task="detect", **FAST), tiny.ObjectSource(n=12)).bundle)
    with pytest.raises(UserError, match="'detect' answers with objects"):
        export(objects, "onnx", tmp_path / "model.onnx")
    packed = bundle.save(tmp_path / "b").pack(tmp_path / "b.swath", tmp_path / "b")
    before = packed.read_bytes()
    for target in (packed, tmp_path / "b"):
        with pytest.raises(UserError, match="not written over"):
            export(bundle, "onnx", target)
    assert packed.read_bytes() == before
    with pytest.raises(UserError, match="an input of -1 pixels"):
        export(bundle, "onnx", tmp_path / "m.onnx", -1)
    with pytest.raises(UserError, match="no such folder"):
        export(bundle, "onnx", tmp_path / "no" / "m.onnx")


def test_unknown_target(bundle, tmp_path):
    with pytest.raises(UserError, match="torch-export"):
        export(bundle, "tflite", tmp_path / "model")


def files(root, n=16):
    source = tiny.TinySource("mask", n=n)
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for i in range(n):
        one = source.sample(i)
        place = {"driver": "GTiff", "height": 32, "width": 32, "crs": "EPSG:32632",
                 "transform": from_origin(500000 + 1000 * i, 5500000, 10, 10)}  # fmt: skip
        with rasterio.open(root / f"images/k{i:02d}.tif", "w", count=4, dtype="uint16", **place) as out:
            x = one.layers[tiny.SENSOR.id].x[0, 0].numpy()
            out.write(((x + 0.1) * 10000).clip(1).astype("uint16"))
            for b, name in enumerate(("B02", "B03", "B04", "B08"), 1):
                out.set_band_description(b, name)
        with rasterio.open(root / f"masks/k{i:02d}.tif", "w", count=1, dtype="uint8", **place) as out:
            out.write(one.labels["what"].value.numpy().astype("uint8"))


def test_two_commands_from_files_to_report(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    files(tmp_path / "data")
    small = ["--set", "encoder.size=nano", "--set", "encoder.patch=8", "--set", "loop.epochs=2"]
    for words in (
        ["init", "data", "--task", "segment", "--sensor", "sentinel2-l2a"],
        ["tune", "data/run.yaml", *small, "--out", "out", "--json"],
        ["show", "bundle", "out/bundle", "--json"],
        ["predict", "out/data.swath", "data", "--split", "test", "--json"],
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        answer = capsys.readouterr().out
        if words[-1] == "--json":
            found = json.loads(answer)
        if words[0] == "tune":
            assert found["score"] == "iou_macro" and found["value"] > 0
            page = (tmp_path / "out/report.html").read_text()
            assert "http://" not in page.replace("http://www.w3.org", "") and "best step" in page
        if words[0] == "show":
            band = found["inputs"][0]["bands"][0]
            assert (band["name"], band["unit"]) == ("blue", "reflectance")
        if words[0] == "predict":
            with rasterio.open(next((tmp_path / "predictions").glob("*-classes.tif"))) as got:
                assert got.crs.to_epsg() == 32632 and got.shape == (32, 32) and got.read(1).max() <= 2
