import glob
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from deploy_fakes import Conv, Deadly, NoiseScene, Placed, Slow

from swath.core import SwathError, UserError, Window
from swath.deploy.map import MapRun, map_scene
from swath.deploy.plan import MapSettings, Plan

FAST = MapSettings(cell=128, overlap=10, proba=True)


def whole(scene, predictor):
    """The model on the whole scene at once, as the truth."""
    return predictor.predict(scene.read(scene.grid.window))["probabilities"][0].numpy()


def run(tmp_path, scene, predictor, name="a.tif", settings=FAST, **how):
    out = tmp_path / name
    done = map_scene(partial(_same, scene), partial(_same, predictor), out, settings=settings, run=MapRun(**how))
    return out, done


def _same(value):
    return value


def read(path):
    with rasterio.open(path) as file:
        return file.read()


def proba(out):
    return read(out.with_name(f"{out.stem}_proba.tif")).astype(np.float64) / 10000


@pytest.mark.parametrize("shape", [(1, 1), (5, 200), (63, 65), (300, 260)])
@pytest.mark.parametrize("tile,overlap,batch", [(64, 10, 4), (96, 17, 1), (48, 30, 7)])
def test_tiling_does_not_change_the_map(tmp_path, shape, tile, overlap, batch):
    scene, model = NoiseScene(*shape), Conv()
    settings = MapSettings(tile=tile, overlap=overlap, batch=batch, cell=100, proba=True)
    out, _ = run(tmp_path, scene, model, settings=settings)
    got = proba(out)
    assert got.shape[1:] == shape and read(out).max() < 3
    if min(shape) > 1:
        error = np.abs(got - whole(scene, model)).max(0)
        assert (
            error[model.radius : -model.radius or None, model.radius : -model.radius or None].max(initial=0) < 1.01e-4
        )
        if min(shape) >= tile:
            assert error.max() < 1.01e-4


def test_nodata_is_never_a_class(tmp_path):
    gap = Window(40, 100, 90, 60)
    scene, model = NoiseScene(gaps=(gap,)), Conv()
    out, _ = run(tmp_path, scene, model)
    classes = read(out)[0]
    r, c = gap.slices
    inside = np.zeros(classes.shape, bool)
    inside[r, c] = True
    assert (classes[inside] == 255).all() and (classes[~inside] < 3).all()
    assert (proba(out)[:, ~inside] <= 1).all()
    plain, _ = run(tmp_path, NoiseScene(), model, name="b.tif")
    far = np.ones(classes.shape, bool)
    far[r.start - 3 : r.stop + 3, c.start - 3 : c.stop + 3] = False
    assert np.abs(proba(out)[:, far] - proba(plain)[:, far]).max() < 1.01e-4


def test_a_scene_of_nodata_alone_runs_no_model(tmp_path):
    scene = NoiseScene(100, 100, gaps=(Window(0, 0, 100, 100),))
    out, done = run(tmp_path, scene, Deadly(after=0, always=True, flag=tmp_path / "f"))
    assert (read(out) == 255).all() and done.computed == 1


def test_workers_shards_and_order_change_no_bit(tmp_path):
    scene, model = NoiseScene(), Placed()
    out, _ = run(tmp_path, scene, model)
    two, _ = run(tmp_path, scene, model, name="two.tif", workers=2)
    for i in (3, 1, 2):
        shards, done = run(tmp_path, scene, model, name="shards.tif", shard=f"{i}/3")
        assert bool(done.files) == (i == 2)
    for other in (two, shards):
        assert other.read_bytes() == out.read_bytes()
        assert other.with_name(f"{other.stem}_proba.tif").read_bytes() == out.with_name("a_proba.tif").read_bytes()
    assert not list(tmp_path.glob("*.cells")) and not list(tmp_path.glob(".*"))


def test_a_killed_worker_costs_its_cell_and_nothing_else(tmp_path):
    scene = NoiseScene()
    out, _ = run(tmp_path, scene, Conv())
    killed, done = run(tmp_path, scene, Deadly(flag=tmp_path / "flag"), name="killed.tif", workers=2)
    assert (tmp_path / "flag").exists() and done.computed == done.cells
    assert killed.read_bytes() == out.read_bytes()


def test_a_cell_that_always_kills_is_named(tmp_path):
    with pytest.raises(SwathError, match="3 workers were lost on the same cell"):
        run(tmp_path, NoiseScene(70, 70), Deadly(flag=tmp_path / "f", after=0, always=True), workers=2)
    assert not (tmp_path / "a.tif").exists()


DRIVER = """
import sys; sys.path[:0] = {path!r}
from pathlib import Path
from functools import partial
from deploy_fakes import NoiseScene, Slow
from swath.deploy.map import MapRun, map_scene
from swath.deploy.plan import MapSettings
from test_map import _same
settings = MapSettings(cell=64, batch=1, proba=True)
map_scene(partial(_same, NoiseScene()), partial(_same, Slow()), Path({out!r}), settings=settings)
"""


@pytest.mark.slow
def test_kill_nine_anywhere_then_the_same_command(tmp_path):
    out, _ = run(tmp_path, NoiseScene(), Slow(wait_s=0), settings=MapSettings(cell=64, batch=1, proba=True))
    target = tmp_path / "killed.tif"
    code = DRIVER.format(path=[str(Path(__file__).parent)], out=str(target))
    kills = 0
    for aim in (1, 2, 4, 5, "raw", None):
        child = subprocess.Popen([sys.executable, "-c", code])
        while child.poll() is None:
            cells = len(glob.glob(f"{target}.cells/*/*.cell"))
            if list(tmp_path.glob(".*.raw.tif")) if aim == "raw" else aim and cells >= aim:
                child.kill()
                kills += 1
                assert child.wait() == -9 and not target.exists()
                break
    assert child.returncode == 0 and kills >= 3
    assert target.read_bytes() == out.read_bytes()
    assert not list(tmp_path.glob("killed.tif.cells"))


def test_a_torn_cell_is_done_again(tmp_path):
    scene, model = NoiseScene(), Conv()
    out, _ = run(tmp_path, scene, model, keep_cells=True)
    first = out.read_bytes()
    cells = sorted(tmp_path.glob("a.tif.cells/*/*.cell"))
    cells[0].write_bytes(cells[0].read_bytes()[:-5] + b"torn!")
    cells[1].write_bytes(b"short")
    cells[2].with_suffix(".json").unlink()
    out.with_suffix(".json").unlink()
    again, done = run(tmp_path, scene, model)
    assert done.computed == 3 and again.read_bytes() == first
    assert run(tmp_path, scene, model)[1].already


def test_an_unreadable_block_is_named_or_a_hole(tmp_path):
    bad = Window(130, 10, 4, 4)
    model = Conv()
    with pytest.raises(SwathError, match=r"block 7 of band red.*\n.*scene.tif, rows 0\.\.158, columns 0"):
        run(tmp_path, NoiseScene(broken=(bad,)), model)
    assert not (tmp_path / "a.tif").exists()
    out, done = run(tmp_path, NoiseScene(broken=(bad,)), model, allow_holes=True)
    assert len(done.holes) >= 1 and (read(out)[0][bad.slices] == 255).all()
    assert (read(out)[0] < 3).mean() > 0.8
    item = json.loads(out.with_suffix(".json").read_text())
    assert item["properties"]["swath:holes"]
    healed, done = run(tmp_path, NoiseScene(), model)
    assert not done.holes and (read(healed)[0] < 3).all()


def test_a_full_disk_says_so_and_leaves_nothing(tmp_path, monkeypatch):
    import errno
    import os

    from swath.deploy import commit

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(commit.os, "fsync", full)
    with pytest.raises(SwathError, match="the disk is full"):
        run(tmp_path, NoiseScene(), Conv())
    monkeypatch.setattr(commit.os, "fsync", os.fsync)
    assert not (tmp_path / "a.tif").exists()
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".tmp", ".cell")]


def test_missing_sensor_and_bad_settings_are_refused(tmp_path):
    scene = NoiseScene()
    object.__setattr__(scene, "sensors", ())
    with pytest.raises(UserError, match="needs sentinel2-l2a"):
        run(tmp_path, scene, Conv())
    for settings, words in (
        (MapSettings(overlap=64), "overlap"),
        (MapSettings(sets=True), "conformal"),
        (MapSettings(batch=-1), "batch"),
    ):
        with pytest.raises(UserError, match=words):
            run(tmp_path, NoiseScene(), Conv(), settings=settings)
    with pytest.raises(UserError, match=r"\.tif"):
        run(tmp_path, NoiseScene(), Conv(), name="a.png")
    with pytest.raises(UserError, match="shard"):
        run(tmp_path, NoiseScene(), Conv(), shard="4/3")


def test_a_model_that_gives_nan_is_an_error(tmp_path):
    class Sick(Conv):
        def predict(self, batch):
            return {"probabilities": super().predict(batch)["probabilities"] * torch.nan}

    with pytest.raises(SwathError, match="not finite"):
        run(tmp_path, NoiseScene(70, 70), Sick())


def test_layers_of_uncertainty(tmp_path):
    settings = MapSettings(cell=128, proba=True, entropy=True, confidence=True, sets=True)
    out, done = run(tmp_path, NoiseScene(), Conv(conformal=0.8), settings=settings)
    p = proba(out)
    np.testing.assert_allclose(p.sum(0), 1, atol=3e-4)
    assert (p.argmax(0) == read(out)[0]).mean() > 0.9999
    np.testing.assert_allclose(read(done.files["confidence"])[0] / 1e4, p.max(0), atol=2e-4)
    entropy = -(p * np.log(np.maximum(p, 1e-12))).sum(0) / np.log(3)
    np.testing.assert_allclose(read(done.files["entropy"])[0] / 1e4, entropy, atol=2e-3)
    sets = read(done.files["sets"])[0]
    assert ((sets == (p >= 0.2).sum(0)).mean()) > 0.999 and sets.max() <= 3


def test_values_are_mapped_with_nan_outside(tmp_path):
    gap = Window(0, 0, 10, 10)
    out, _ = run(tmp_path, NoiseScene(gaps=(gap,)), Conv(kind="map"), settings=MapSettings(cell=128))
    with rasterio.open(out) as file:
        value = file.read(1)
        assert file.dtypes == ("float32",) and np.isnan(file.nodata) and file.units == ("m",)
    assert np.isnan(value[:10, :10]).all() and np.isfinite(value[10:]).all()


@pytest.mark.parametrize("tile,multiple,halo", [(224, 16, 0), (256, 16, 0), (224, 14, 0), (128, 8, 8), (512, 32, 64)])
def test_tiles_lie_on_one_lattice_of_patches(tile, multiple, halo):
    from dataclasses import replace

    spec = replace(Conv().spec, tile=tile, multiple=multiple, halo=halo)
    plan = Plan.of(NoiseScene(3000, 2900), spec, MapSettings())
    step = np.gcd(multiple, plan.settings.overlap)
    assert step >= multiple // 2 and all(p % step == 0 for p in (*plan.rows.places, *plan.cols.places))
    assert tile // 16 <= plan.settings.overlap <= 0.087 * tile


@pytest.mark.parametrize("tile,multiple", [(224, 16), (96, 1), (128, 8)])
def test_an_overlap_that_computes_all_too_often_is_refused_and_the_remedy_works(tile, multiple):
    from dataclasses import replace

    spec, scene = replace(Conv().spec, tile=tile, multiple=multiple, halo=0), NoiseScene(3000, 2900)
    with pytest.raises(UserError, match=r"compute every pixel [0-9,]+ times") as caught:
        Plan.of(scene, spec, MapSettings(overlap=tile - multiple))
    most = int(re.search("at most ([0-9]+);", caught.value.remedy)[1])
    assert 4 < Plan.of(scene, spec, MapSettings(overlap=most)).repeats <= 64
    assert Plan.of(NoiseScene(tile + 1, tile + 1), spec, MapSettings()).repeats <= 4


def test_a_large_overlap_is_told_before_the_first_cell(tmp_path, capsys):
    told = []
    small = {"tile": 32, "cell": 128}
    out = tmp_path / "a.tif"
    opener = partial(_same, Conv())
    map_scene(partial(_same, NoiseScene()), opener, out, settings=MapSettings(overlap=24, **small), tell=told.append)
    assert told[0].done == 0 and told[0].repeats > 9 and "computed" in told[0].words and told[1].done == 1
    assert "cells" in told[1].words
    told.clear()
    map_scene(partial(_same, NoiseScene()), opener, out, settings=MapSettings(overlap=10, **small), tell=told.append)
    assert told[0].done == 1


def test_a_tile_of_one_coarse_pixel_still_fits():
    from dataclasses import replace

    plan = Plan.of(NoiseScene(200, 200), replace(Conv().spec, tile=48, multiple=48, halo=0), MapSettings(overlap=12))
    assert len(plan.rows.places) == 6


def test_the_lattice_costs_less_than_a_fifth():
    for side in (2048, 4096, 10980, 20000):
        scene = NoiseScene(side, side)
        plan = Plan.of(scene, Conv(tile=224, halo=0).spec, MapSettings())
        assert 1 <= plan.computed <= 1.2, side


def test_what_a_killed_run_left_of_a_finished_map_goes(tmp_path):
    """Killed after the last file was written: the map is there, and the cells as well."""
    scene, model = NoiseScene(), Conv()
    run(tmp_path, scene, model, keep_cells=True)
    left = list(tmp_path.glob("*.cells"))
    assert len(left) == 1 and run(tmp_path, scene, model, keep_cells=True)[1].already and left[0].exists()
    assert run(tmp_path, scene, model)[1].already and not left[0].exists()
