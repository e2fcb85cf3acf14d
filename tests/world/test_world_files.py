"""True files: georeferenced, calibrated, the same bytes for any number of workers."""

import hashlib
import json

import numpy as np
import pytest
import rasterio
import torch

from swath.core import SENSORS, UserError
from swath.data.open import open_source
from swath.world import Site, World
from swath.world.card import table_of
from swath.world.files import Render, days_of, render, stored, write_scene
from swath.world.labels import LABELS as KNOWN

DAYS = ("2023-04-10", "2023-07-25")
LABELS = ("land_cover", "fields", "yield", "canopy_height", "tags", "hires")
SENSED = ("sentinel2-l2a", "sentinel1-rtc", "copdem", "hls-s30")


def hashes(folder):
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*.*"))}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    list(render(Render(str(out), 7, SENSED, DAYS, LABELS, chips=2, size=60, near="cropland")))
    return out


def test_two_workers_write_the_same_bytes(rendered, tmp_path):
    list(render(Render(str(tmp_path), 7, SENSED, DAYS, LABELS, chips=2, size=60, near="cropland"), workers=2))
    first, second = hashes(rendered), hashes(tmp_path)
    assert first == second
    tables = 2  # yield, tags
    assert len(first) == 2 + tables + 2 * (2 * 3 + 1) + 2 * 2 * 3 + 2 * 2 + 2 * (len(LABELS) + 1)
    assert not [p for p in tmp_path.rglob(".*") if p.is_file()], "nothing is left half-written"


def test_files_hold_what_the_batch_holds(rendered):
    world, chips = World(7), json.loads((rendered / "world.json").read_text())["chips"]
    site = Site(chips[1]["lon"], chips[1]["lat"])
    batch = world.batch([site], 60, SENSED, days_of(DAYS), ["land_cover"])
    for sensor in SENSED:
        layer = batch.layers[sensor]
        name = f"000001_{DAYS[1]}_{sensor}.tif" if sensor != "copdem" else "000001_copdem.tif"
        with rasterio.open(rendered / "images" / name) as src:
            raw = src.read(out_dtype="float64")
            x = raw * np.array(src.scales)[:, None, None] + np.array(src.offsets)[:, None, None]
            assert src.descriptions == layer.sensor.names
            assert src.crs.to_epsg() == 6933
            assert src.dtypes[0] == layer.sensor.dtype
            assert np.allclose(x, layer.x[0, -1].numpy(), atol=2e-4 if "sentinel1" not in sensor else 1e-3)
            h = src.height
            west, north = src.transform.c, src.transform.f
            assert (west, north) == pytest.approx(batch.where.grids[0].xy(0, 0))
            assert src.res[0] == pytest.approx(600 / h)
    with rasterio.open(rendered / "labels" / "land_cover" / "000001.tif") as src:
        assert np.array_equal(src.read(1), batch.labels["land_cover"].value[0].numpy())
        assert src.nodata == 255 and src.colormap(1)[0] == (31, 107, 45, 255)


def test_items_and_values(rendered):
    item = json.loads((rendered / "items" / f"000000_{DAYS[0]}_sentinel2-l2a.json").read_text())
    assert item["properties"]["datetime"].startswith(DAYS[0])
    assert (rendered / "items" / item["assets"]["data"]["href"]).resolve().is_file()
    assert item["assets"]["data"]["bands"][1] == {
        "name": "blue", "data_type": "uint16", "nodata": 0, "unit": "reflectance", "raster:scale": 0.0001,
        "raster:offset": -0.1,        "eo:center_wavelength": pytest.approx(0.4924),
    }  # fmt: skip
    west, south, east, north = item["bbox"]
    place = json.loads((rendered / "world.json").read_text())["chips"][0]
    assert west < place["lon"] < east and south < place["lat"] < north
    harvest = json.loads((rendered / "labels" / "yield" / "000000.json").read_text())
    assert harvest["unit"] == "t/ha"
    fields = json.loads((rendered / "labels" / "fields" / "000000.json").read_text())
    with rasterio.open(rendered / "labels" / "fields" / "000000.tif") as src:
        assert src.read(1).max() == len(fields["boxes"]) > 3


def test_nodata_never_collides_with_a_value():
    sensor = SENSORS.get("sentinel2-l2a").select(["red"])
    x = np.array([[[-0.2, 0.0, 9.0]]], np.float32)
    assert stored(x, np.array([[[True, True, False]]]), sensor).tolist() == [[[0, 1000, 0]]]
    world = World(3).batch([(15.0, 22.0)], 24, ["sentinel2-l2a"], [19000])
    numbers = (world.layers["sentinel2-l2a"].x + 0.1) * 1e4
    assert numbers.min() >= 1


def test_a_scene_is_streamed_and_equals_its_windows(tmp_path, monkeypatch):
    from swath.world import files

    monkeypatch.setattr(files, "BLOCK", 48)
    scene = World(7).scene((10.0, 52.0), 120, {"sentinel2-l2a": ["blue", "nir"], "hls-s30": ["red"]}, days_of(DAYS[:1]))
    made = list(write_scene(scene, tmp_path, "s", ["land_cover"]))
    whole = scene.read(scene.grid.window, labels=["land_cover"])
    with rasterio.open(made[0]) as src:
        assert src.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        x = src.read() * 0.0001 - 0.1
        assert np.allclose(x, whole.layers["sentinel2-l2a"].x[0, 0].numpy(), atol=1e-5)
    with rasterio.open(made[1]) as src:
        assert src.shape == (40, 40)
        assert np.allclose(src.read() * 0.0001, whole.layers["hls-s30"].x[0, 0].numpy(), atol=1e-5)
    with rasterio.open(made[2]) as src:
        assert np.array_equal(src.read(1), whole.labels["land_cover"].value[0].numpy())
    assert torch.is_tensor(whole.where.lonlat)
    source = open_source(tmp_path)  # by the card beside it
    assert {s.id for s in source.sensors} == {"sentinel2-l2a", "hls-s30"} and list(source.labels) == ["land_cover"]
    assert torch.allclose(source.sample(0).layers["hls-s30"].x, whole.layers["hls-s30"].x, atol=1e-5)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match="not a date"):
        days_of(["2023-02-31"])
    with pytest.raises(UserError, match="multiple of 3"):
        list(write_scene(World(1).scene((10.0, 52.0), 100, ["hls-s30"], [19000]), tmp_path, "s"))
    with pytest.raises(UserError, match="masks"):
        list(write_scene(World(1).scene((10.0, 52.0), 60, ["sentinel2-l2a"], [19000]), tmp_path, "s", ["fields"]))
    assert not list(tmp_path.iterdir()), "refused before anything is written"


def test_items_are_valid_stac(rendered):
    from pystac.validation import validate_dict

    known = {"projection": "proj:", "raster": "raster:", "eo": "eo:"}
    for path in sorted((rendered / "items").glob("*.json")):
        item = json.loads(path.read_text())
        assert validate_dict({**item, "stac_extensions": []})  # extensions' schemas need a network
        declared = {known[e.split("/")[3]] for e in item["stac_extensions"]}
        bands = item["assets"]["data"]["bands"]
        used = {k for k in [*item["properties"], *(k for b in bands for k in b)] if ":" in k}
        assert {k.split(":")[0] + ":" for k in used} <= declared
        with rasterio.open(path.parent / item["assets"]["data"]["href"]) as image:
            assert item["properties"]["proj:shape"] == list(image.shape)
            assert item["properties"]["proj:code"] == f"EPSG:{image.crs.to_epsg()}"
            assert item["properties"]["proj:transform"] == pytest.approx(list(image.transform)[:6])
            assert [b.get("raster:scale") for b in bands] == pytest.approx(list(image.scales))
            assert [b.get("raster:offset") for b in bands] == pytest.approx(list(image.offsets))


PEAK = """
import resource, sys
from swath.world import World, Site, day_of
from swath.world.files import write_scene
from pathlib import Path
scene = World(7).scene(Site(10.0, 52.0), int(sys.argv[1]), ["sentinel2-l2a"], [day_of(2023, 7, 25)])
list(write_scene(scene, Path(sys.argv[2]), "scene"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_follow_the_scene(tmp_path):
    import subprocess
    import sys

    def peak(n):
        words = [sys.executable, "-c", PEAK, str(n), str(tmp_path / str(n))]
        return int(subprocess.run(words, capture_output=True, check=True, text=True).stdout)

    assert peak(3072) < 1.1 * peak(1024)


def test_a_rendered_folder_has_a_card(tmp_path):
    """Every kind of label, by the card that the renderer wrote: what a source reads is what the world said."""
    from swath.data.open import open_source

    names = ("land_cover", "crop", "tags", "yield", "fields", "objects", "canopy_height")
    run = Render(str(tmp_path), 7, ("sentinel2-l2a", "copdem"), DAYS, names, chips=2, size=60, near="cropland")
    list(render(run))
    source = open_source(tmp_path)
    assert set(source.labels) == set(names) and len(source) == 2
    world = World(7)
    sites = world.sites(2, seed=0, near="cropland")
    for i, site in enumerate(sites):
        told = source.sample(i)
        true = world.batch([site], 60, ["sentinel2-l2a"], days_of(DAYS), names)
        assert told.layers["sentinel2-l2a"].shape[:2] == (1, len(DAYS)) and told.layers["copdem"].shape[1] == 1
        assert told.layers["sentinel2-l2a"].times.tolist() == [days_of(DAYS)]
        for name in names:
            a, b = told.labels[name], true.labels[name]
            assert a.kind == b.kind == source.labels[name].kind and source.labels[name].classes == KNOWN[name].classes
            if a.kind != "boxes":
                assert bool((a.valid == b.valid).all())
                torch.testing.assert_close(a.value.float(), b.value.float(), rtol=0, atol=1e-4)
            else:
                rows = [sorted(x.labels[name].objects[0].xyxy.round().tolist()) for x in (told, true)]
                assert rows[0] == rows[1]
        assert told.labels["fields"].objects[0].masks.sum() == true.labels["fields"].objects[0].masks.sum()


def test_a_rendered_folder_hides_what_clouds_hide(tmp_path):
    """As in memory: a product with a mask of its own shows nothing under clouds; objects no date shows are counted."""
    from swath.data.open import open_source

    sensors, day = ("sentinel2-l2a", "sentinel2-l1c", "hls-s30"), DAYS[:1]
    list(render(Render(str(tmp_path), 7, sensors, day, ("fields",), chips=3, size=60, near="cropland", clouds=4.0)))
    source, world = open_source(tmp_path), World(7, clouds=4.0)
    covered = hidden = every = 0
    for i, site in enumerate(world.sites(3, seed=0, near="cropland")):
        told, true = source.sample(i), world.batch([site], 60, sensors, days_of(day), ("fields",))
        for sensor in sensors:
            a, b = told.layers[sensor].valid, true.layers[sensor].valid
            assert a.shape == b.shape and float((a == b).float().mean()) > 0.9
            assert sensor != "sentinel2-l1c" or bool(a.all())
        covered += not bool(told.layers["sentinel2-l2a"].valid.any())
        with rasterio.open(tmp_path / "clouds" / f"{i:06d}_{day[0]}.tif") as src:
            clear = torch.from_numpy(src.read(1)) != 1
        held = json.loads((tmp_path / "labels" / "fields" / f"{i:06d}.json").read_text())["hidden"]
        assert held == [not bool((m & clear).any()) for m in true.labels["fields"].objects[0].masks]
        hidden, every = hidden + sum(held), every + len(held)
    assert covered >= 1 and 0 < hidden < every
    assert json.loads((tmp_path / "world.json").read_text())["hidden"] == {"fields": {"hidden": hidden, "of": every}}
    text = (tmp_path / "card.toml").read_text()
    assert "sentinel2-l1c comes without a cloud mask" in text and text.count("\nclouds = ") == 2


def test_a_chip_without_a_value_has_an_empty_cell():
    rows = [
        ("a", {"value": None, "class": None, "tags": []}),
        ("b", {"value": 0.0, "class": "city", "tags": ["x", "y"]}),
    ]
    for name, told in (("yield", "key,value\na,\nb,0.0\n"), ("scene_class", "key,class\na,\nb,city\n")):
        assert table_of(KNOWN[name], rows) == told
    assert table_of(KNOWN["tags"], rows) == "key,tags\na,\nb,x;y\n"
