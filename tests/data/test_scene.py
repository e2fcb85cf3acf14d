"""Scenes by windows: mosaics, dates, mixed pixel sizes, edges, reprojection only when asked; windows as samples."""

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from shapely import box
from tests.data.chips import S2, write

from swath.core import UserError, Window
from swath.data.card import read_card
from swath.data.scene import SceneHints, open_scene
from swath.data.sources.rasters import RastersConfig

MIXED = """name = "m"
[[layer]]
sensor = "sentinel2-l2a"
bands = ["red", "nir"]
path = "{site}_{date}_ten.tif"
scale = 0.0001
offset = 0.0
gsd = 10.0
[[layer]]
sensor = "sentinel2-l2a"
name = "s2-20m"
bands = ["swir16"]
path = "{site}_{date}_twenty.tif"
scale = 0.0001
offset = 0.0
gsd = 20.0
"""
HINTS = SceneHints("sentinel2-l2a", S2)


def image(h, w, seed=0):
    return np.random.default_rng(seed).integers(1100, 5000, (4, h, w)).astype("uint16")


def test_a_mosaic_is_one_grid_and_first_come_counts(tmp_path):
    a, b = image(40, 30, 1), image(40, 30, 2)
    a[:, :5] = 0
    write(tmp_path / "a.tif", a, origin=(500000, 5000000))
    write(tmp_path / "b.tif", b, origin=(500200, 5000000))
    scene = open_scene([tmp_path / "a.tif", tmp_path / "b.tif"], hints=HINTS)
    assert scene.grid.shape == (40, 50)
    layer = scene.read(scene.grid.window).layers["sentinel2-l2a"]
    want = np.zeros((4, 40, 50))
    want[:, :, 20:] = b
    want[:, 5:, :30] = a[:, 5:]
    got = layer.x[0, 0].numpy()
    valid = want[0] > 0
    np.testing.assert_array_equal(layer.valid[0, 0, 0].numpy(), valid)
    np.testing.assert_allclose(got[:, valid], want[:, valid] * 1e-4 - 0.1, atol=1e-6)


@pytest.mark.parametrize("window", [Window(0, 0, 16, 16), Window(-7, 20, 30, 40), Window(25, 25, 3, 5)])
def test_any_window_is_that_part_of_the_whole(tmp_path, window):
    write(tmp_path / "a.tif", image(40, 50))
    scene = open_scene(tmp_path / "a.tif", hints=HINTS)
    whole = scene.read(scene.grid.window).layers["sentinel2-l2a"].x[0, 0]
    part = scene.read(window, {"sentinel2-l2a": ["nir", "red"]}).layers["sentinel2-l2a"]
    inside = window.clip(scene.grid.window)
    rows, cols = inside.slices
    r, c = inside.within(window).slices
    torch.testing.assert_close(part.x[0, 0, :, r, c], whole[[3, 2]][:, rows, cols])
    assert int(part.valid.sum()) == inside.area


def test_mixed_pixel_sizes_stay_mixed_over_the_same_ground(tmp_path):
    for date in ("20200101", "20200301"):
        write(tmp_path / f"s_{date}_ten.tif", image(40, 40)[:2])
        coarse = np.arange(400, dtype="uint16").reshape(1, 20, 20) + 1
        write(tmp_path / f"s_{date}_twenty.tif", coarse, gsd=20.0)
    scene = open_scene(tmp_path, read_card(MIXED, "card"))
    batch = scene.read(Window(10, 20, 16, 12))
    assert batch.layers["sentinel2-l2a"].shape == (1, 2, 2, 16, 12)
    layer = batch.layers["s2-20m"]
    assert layer.shape == (1, 2, 1, 8, 6) and layer.times.tolist() == [[18262, 18322]]
    np.testing.assert_allclose(layer.x[0, 0, 0], coarse[0, 5:13, 10:16] * 1e-4, rtol=1e-5)


def test_another_lattice_is_refused_and_warped_when_asked(tmp_path):
    write(tmp_path / "a.tif", np.full((4, 40, 40), 3000, "uint16"))
    write(tmp_path / "b.tif", np.full((4, 40, 40), 4000, "uint16"), origin=(500403, 5000000))
    with pytest.raises(UserError, match="another lattice"):
        open_scene([tmp_path / "a.tif", tmp_path / "b.tif"], hints=HINTS)
    write(tmp_path / "c.tif", np.full((4, 60, 60), 4000, "uint16"), crs="EPSG:32632", origin=(27400, 5012000))
    scene = open_scene([tmp_path / "a.tif", tmp_path / "c.tif"], hints=SceneHints("sentinel2-l2a", S2, warp=True))
    layer = scene.read(scene.grid.window).layers["sentinel2-l2a"]
    assert torch.allclose(layer.x[layer.valid.expand_as(layer.x)].unique(), torch.tensor([0.2]), atol=1e-3)


def test_memory_is_bounded_by_the_window(tmp_path):
    import tracemalloc

    with rasterio.open(
        tmp_path / "big.tif", "w", driver="GTiff", height=8192, width=8192, count=4, dtype="uint16",
        crs="EPSG:32631", transform=rasterio.transform.from_origin(500000, 5000000, 10, 10), tiled=True, SPARSE_OK=True,
    ) as out:  # fmt: skip
        out.write(np.full((4, 256, 256), 2000, "uint16"), window=((0, 256), (0, 256)))
    text = 'name = "b"\n[[layer]]\nsensor = "sentinel2-l2a"\nbands = ["blue", "green", "red", "nir"]\n'
    scene = open_scene(tmp_path / "big.tif", read_card(text, "card"))
    tracemalloc.start()
    assert scene.read(Window(0, 0, 256, 256)).layers["sentinel2-l2a"].valid.all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6, "a whole band is 134 MB"


CARD = """name = "r"
[layout]
kind = "rasters"
[[layer]]
sensor = "sentinel2-l2a"
bands = ["blue", "green", "red", "nir"]
path = "{key}.tif"
scale = 0.0001
offset = -0.1
[[label]]
kind = "mask"
path = "fields.gpkg"
column = "crop"
classes = ["none", "wheat", "maize"]
"""


def test_windows_over_scenes_with_vector_labels_and_areas(tmp_path):
    for i in range(2):
        write(tmp_path / f"s{i}.tif", image(50, 64, i), origin=(500000 + 5000 * i, 5000000))
    shapes = [box(500100, 4999700, 500300, 4999900), box(505000, 4999500, 505640, 5000000)]
    frame = geopandas.GeoDataFrame({"crop": ["wheat", "maize"]}, geometry=shapes, crs="EPSG:32631")
    frame.to_crs("EPSG:4326").to_file(tmp_path / "fields.gpkg")
    areas = [box(499000, 4999000, 504000, 5001000), box(504000, 4999000, 509000, 5001000)]
    geopandas.GeoDataFrame({"split": ["train", "test"]}, geometry=areas, crs="EPSG:32631").to_file(
        tmp_path / "a.geojson"
    )
    (tmp_path / "card.toml").write_text(CARD)
    source = RastersConfig(str(tmp_path), size=32, areas=str(tmp_path / "a.geojson")).build()
    assert {k: len(v) for k, v in source.splits().items()} == {"train": 4, "test": 4}
    assert source.names[:4] == ["s0/0/0", "s0/0/32", "s0/18/0", "s0/18/32"]
    mask = source.sample(0).labels["label"].value[0].numpy()
    want = np.zeros((32, 32), dtype=int)
    want[10:30, 10:30] = 1
    np.testing.assert_array_equal(mask, want)
    assert (source.sample(7).labels["label"].value == 2).all()
    with rasterio.open(tmp_path / "s0.tif") as data:
        raw = data.read(4)[18:50, 32:64]
    np.testing.assert_allclose(source.sample(3).layers["sentinel2-l2a"].x[0, 0, 3], raw * 1e-4 - 0.1, atol=1e-6)


@pytest.mark.parametrize("crs", ["EPSG:32631", "EPSG:4326"])
@pytest.mark.parametrize("stride", [0, 20])
def test_windows_of_different_splits_share_no_pixel(tmp_path, crs, stride):
    """Without areas whole blocks of ground are dealt; windows moved back, strides and scenes that overlap leak none."""
    gsd, origin = (10.0, (500000.0, 5000000.0)) if crs != "EPSG:4326" else (1e-4, (11.0, 48.0))
    for i in range(2):  # two scenes that share a third of their ground
        place = (origin[0] + 130 * gsd * i, origin[1])
        write(tmp_path / f"s{i}.tif", image(203, 190, i), origin=place, gsd=gsd, crs=crs)
    shapes = [box(origin[0], origin[1] - 99 * gsd, origin[0] + 99 * gsd, origin[1])]
    geopandas.GeoDataFrame({"crop": ["wheat"]}, geometry=shapes, crs=crs).to_file(tmp_path / "fields.gpkg")
    (tmp_path / "card.toml").write_text(CARD)
    source = RastersConfig(str(tmp_path), size=32, stride=stride).build()
    parts = source.splits()
    shares = [len(parts[k]) / len(source) for k in ("train", "val", "test")]
    assert shares[0] > 0.4 and min(shares) > 0.05 and "blocks of ground" in source.split_rule
    seen = {}
    for split, rows in parts.items():
        for i in rows:
            cut = source.cuts[i]
            for row in range(cut.window.row, cut.window.row + 32):
                for col in range(cut.window.col + 130 * cut.scene, cut.window.col + 130 * cut.scene + 32):
                    assert seen.setdefault((row, col), split) == split
    (tmp_path / "card.toml").write_text(CARD.split("[[label]]")[0])
    bare = RastersConfig(str(tmp_path), size=32, stride=stride).build()
    assert list(bare.splits()) == ["all"] and not bare.split_rule


def test_a_file_of_nodata_alone_is_named_with_a_remedy_that_helps(tmp_path):
    write(tmp_path / "a.tif", np.zeros((4, 40, 30), "uint16"))
    with pytest.raises(UserError, match="no observed pixel") as caught:
        open_scene(tmp_path / "a.tif", hints=HINTS)
    assert "card" in caught.value.remedy and "name the sensor" not in caught.value.remedy
    bands = ", ".join(f'"{b}"' for b in S2)
    (tmp_path / "card.toml").write_text(f'name = "m"\n[[layer]]\nsensor = "sentinel2-l2a"\nbands = [{bands}]\n')
    scene = open_scene(tmp_path / "a.tif", str(tmp_path / "card.toml"))
    assert not scene.read(scene.grid.window).layers["sentinel2-l2a"].valid.any()


def test_a_scene_is_not_observed_under_its_cloud_masks(tmp_path):
    """As samples are: at the mask's own size, from the window's pixels; another piece of that date fills the gap."""
    image = np.full((4, 40, 40), 2000, "uint16")
    scl = np.full((1, 80, 80), 4, "uint8")
    scl[:, :21, :21] = 9  # of finer pixels: one of the four of pixel 10 is enough
    for key, col, value in (("a", 0, 2000), ("b", 5, 3000)):
        place = (500000 + 10 * col, 5000000)
        write(tmp_path / "images" / f"{key}_20240501.tif", np.full_like(image, value), origin=place)
        clear = scl if key == "a" else np.full((1, 80, 80), 4, "uint8")
        write(tmp_path / "scl" / f"{key}_20240501.tif", clear, gsd=5.0, origin=place)
    (tmp_path / "card.toml").write_text(
        'name = "d"\n[layout]\nkind = "folder"\n[[layer]]\nsensor = "sentinel2-l2a"\npath = "images/{key}_{date}.tif"\n'
        'bands = ["blue", "green", "red", "nir"]\nclouds = "scl/{key}_{date}.tif"\nhides = [9]\n'
    )
    scene = open_scene(tmp_path)
    for window in (Window(0, 0, 40, 45), Window(8, 3, 5, 9)):
        layer = scene.read(window).layers["sentinel2-l2a"]
        rows, cols = (np.arange(n) + at for n, at in ((window.height, window.row), (window.width, window.col)))
        hidden = (rows < 11)[:, None] & (cols < 11)[None]
        filled = cols >= 5
        valid = layer.valid[0, 0, 0].numpy()
        np.testing.assert_array_equal(valid, ~hidden | filled)
        found = np.rint(layer.x[0, 0, 0].numpy() * 1e4 + 1000)
        second = (hidden | (cols >= 40)) & filled
        np.testing.assert_array_equal(found[valid], np.where(second, 3000, 2000)[valid])
    before = scene.fingerprint
    (tmp_path / "scl" / "b_20240501.tif").write_bytes((tmp_path / "scl" / "a_20240501.tif").read_bytes())
    assert open_scene(tmp_path).fingerprint != before
    (tmp_path / "scl" / "b_20240501.tif").unlink()
    with pytest.raises(UserError, match="has no cloud mask"):
        open_scene(tmp_path)
