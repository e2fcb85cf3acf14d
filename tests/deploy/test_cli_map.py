"""From tuning to a map file: the whole road, on rasters and through the command."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import Affine

sys.path.insert(0, str(Path(__file__).parents[1] / "adapt"))

from swath.adapt.run import TuneRun
from swath.adapt.tune import tune
from swath.cli.main import main
from swath.core import config
from swath.core.errors import UserError

SPECTRA = np.array([[0.05, 0.08, 0.06, 0.4], [0.12, 0.15, 0.2, 0.25], [0.06, 0.06, 0.04, 0.02]])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    import tiny_adapt as tiny

    plan = {
        "name": "tiny", "data": {"kind": "folder", "path": "unused"}, "task": "segment",
        "encoder": {"kind": "swath-vit", "size": "nano", "patch": 8},
        "out": str(tmp_path_factory.mktemp("tune") / "run"),
        "loop": {"epochs": 6, "batch_size": 8, "progress": False}, "trust": {"bootstrap": 20, "chips": 1},
    }  # fmt: skip
    return tune(config.parse(plan, TuneRun), tiny.TinySource("mask", n=40)).bundle


@pytest.fixture(scope="module")
def raster(tmp_path_factory):
    """Fields of three spectra as Sentinel-2 numbers, with a corner of nodata."""
    rng = np.random.default_rng(3)
    truth = np.kron(rng.integers(0, 3, (20, 26)), np.ones((8, 8), int))[:157, :203]
    x = SPECTRA[truth] + 0.02 * rng.standard_normal((*truth.shape, 4))
    stored = np.round((x.clip(0.001) + 0.1) * 10000).astype(np.uint16)
    stored[:20, :30] = 0
    path = tmp_path_factory.mktemp("scene") / "s2.tif"
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 500000, 0, -10, 5300000)}
    with rasterio.open(
        path, "w", driver="GTiff", height=157, width=203, count=4, dtype="uint16", nodata=0, **place
    ) as file:
        file.write(stored.transpose(2, 0, 1))
        file.descriptions = ("B02", "B03", "B04", "B08")
    return path, truth


def swath(*args, capsys=None):
    with pytest.raises(SystemExit) as done:
        main([str(a) for a in args])
    assert done.value.code == 0
    return json.loads(capsys.readouterr().out) if capsys else None


def test_tune_then_map(bundle, raster, tmp_path, capsys):
    path, truth = raster
    out = tmp_path / "map.tif"
    common = ["map", bundle, path, "--out", out, "--sensor", "sentinel2-l2a", "--json"]
    plan = swath(*common, "--dry-run", capsys=capsys)
    assert plan["tiles"] >= 35 and plan["seconds"] > 0 and not out.exists()
    extra = ["--proba", "--sets", "--entropy", "--strangeness", "--vectors", tmp_path / "v.parquet"]
    done = swath(*common, *extra, capsys=capsys)
    assert set(done["files"]) >= {"class", "proba", "sets", "entropy", "strangeness", "vectors", "quicklook", "item"}
    with rasterio.open(out) as file:
        got = file.read(1)
        assert file.crs.to_epsg() == 32633 and json.loads(file.tags()["CLASSES"]) == ["a", "b", "c"]
    assert (got[:20, :30] == 255).all()
    seen = got != 255
    assert seen.sum() == seen.size - 600 and (got[seen] == truth[seen]).mean() > 0.6
    again = swath(*common, *extra, capsys=capsys)
    assert again["already"] and again["computed"] == 0


def test_the_cog_is_valid(bundle, raster, tmp_path, capsys):
    from rio_cogeo import cog_validate

    done = swath("map", bundle, raster[0], "--out", tmp_path / "m.tif", "--sensor", "sentinel2-l2a", "--proba",
                 "--json", capsys=capsys)  # fmt: skip
    for name in ("class", "proba"):
        valid, errors, warnings = cog_validate(done["files"][name])
        assert valid and not errors and not warnings


def test_mistakes_are_named(bundle, raster, tmp_path):
    cases = (["--precision", "int3"], "precision"), (["--tile", "30"], "multiple"), (["--bands", "B02,B99"], "B99")
    for extra, words in cases:
        with pytest.raises((UserError, SystemExit)) as why:
            main(["--debug", *map(str, ["map", bundle, raster[0], "--out", tmp_path / "m.tif", "--sensor",
                                        "sentinel2-l2a", *extra])])  # fmt: skip
        assert words in str(why.value)


def test_the_scene_is_never_written_over(bundle, raster, tmp_path):
    path = tmp_path / "scene.tif"
    path.write_bytes(raster[0].read_bytes())
    link = tmp_path / "link.tif"
    link.symlink_to(path)
    for out in (path, link):
        with pytest.raises(UserError, match="this is the scene itself"):
            main(["--debug", "map", str(bundle), str(path), "--out", str(out), "--sensor", "sentinel2-l2a"])
    assert path.read_bytes() == raster[0].read_bytes()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_device_that_is_not_here_is_named(bundle, raster, tmp_path):
    asked = ["map", str(bundle), str(raster[0]), "--out", str(tmp_path / "m.tif"), "--sensor", "sentinel2-l2a"]
    for device in ("cuda", "cuda:7", "gpu"):
        with pytest.raises(UserError, match=f"the device '{device}' cannot be used"):
            main(["--debug", *asked, "--device", device])
