"""Real samples through cards: band order, units and dates that are known to trap."""

import numpy as np
import pytest
import rasterio
import torch

from swath.core import UserError, Window
from swath.data.card import read_card
from swath.data.cards import CARDS
from swath.data.open import open_source
from swath.data.scene import SceneHints, open_scene
from swath.data.sources.folder import FolderConfig, FolderSource


def test_eurosat_has_its_last_band_where_it_belongs(shared):
    root = shared / "real" / "eurosat_ms_100"
    source = FolderConfig(str(root), card="eurosat", pattern="tif/{folder}_{id}.tif").build()
    assert len(source) == 100 and {k: len(v) for k, v in source.splits().items()} == {
        "train": 60,
        "val": 20,
        "test": 20,
    }
    index = next(i for i, item in enumerate(source.index.items) if item.key == "River_923")
    sample = source.sample(index)
    with rasterio.open(root / "tif" / "River_923.tif") as data:
        raw = data.read()
    layer = sample.layers["sentinel2-l1c"]
    np.testing.assert_allclose(layer.select(["nir08"]).x[0, 0, 0], raw[12] * 1e-4, rtol=1e-5)
    assert float(layer.select(["cirrus"]).x.mean()) < 0.01
    assert int(sample.labels["label"].value) == source.labels["label"].classes.index("River")
    assert sample.where.lonlat[0].tolist() == pytest.approx([18.8, 53.9], abs=0.5)


def test_cropharvest_is_four_sensors_over_twelve_months(shared):
    source = open_source("cropharvest", path=shared / "real" / "cropharvest_togo_98")
    sample = source.sample(0)
    shapes = {k: v.shape for k, v in sample.layers.items()}
    assert shapes["sentinel2-l1c"] == (1, 12, 13, 17, 17) and shapes["sentinel1-grd"] == (1, 12, 2, 17, 17)
    assert shapes["copdem"] == (1, 1, 1, 17, 17)
    with rasterio.open(next((shared / "real" / "cropharvest_togo_98").glob("*.tif"))) as data:
        names, raw = data.descriptions, data.read()
    s2 = sample.layers["sentinel2-l1c"]
    for month in (0, 11):
        suffix = f"_{month}" if month else ""
        for alias in ("B4", "B8A", "B12"):
            want = raw[names.index(alias + suffix)] * 1e-4
            got = s2.select([alias]).x[0, month, 0].numpy()
            np.testing.assert_allclose(got, np.where(s2.valid[0, month, 0].numpy(), want, 0), rtol=1e-4)
    assert not torch.isnan(s2.x).any()
    t2m = sample.layers["era5"]
    assert 290 < float(t2m.x[:, :, 0][t2m.valid[:, :, 0]].mean()) < 310


def test_a_whole_tile_is_a_scene(shared):
    path = shared / "real" / "copernicus_fm_s2_tile" / "20201002T221611_20201002T221610_T60HWB.tif"
    scene = open_scene(path, hints=SceneHints("sentinel2-l1c"))
    batch = scene.read(Window(250, 250, 20, 20), {"sentinel2-l1c": ["red"]})
    layer = batch.layers["sentinel2-l1c"]
    assert layer.valid[0, 0, 0].float().mean() == pytest.approx((14 * 14) / 400)
    with rasterio.open(path) as data:
        raw = data.read(4)[250:, 250:]
    np.testing.assert_allclose(layer.x[0, 0, 0, :14, :14], raw * 1e-4, rtol=1e-5)


def test_the_offset_of_2022_is_seen_and_its_absence_too(shared):
    folder = shared / "real" / "terramind_examples" / "S2L1C"
    stored = {p.name: int(rasterio.open(p).read().min()) for p in sorted(folder.glob("*.tif"))}
    assert min(stored.values()) < 900
    for name, low in stored.items():
        scene = open_scene(folder / name, hints=SceneHints("sentinel2-l1c"))
        assert scene.card.layers[0].offset == (-0.1 if low > 900 else 0.0), (name, low)


CARD = """name = "terramesh"
[layout]
kind = "folder"
[[layer]]
sensor = "sentinel2-l2a"
bands = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12"]
path = "S2L2A"
scale = 0.0001
offset = 0.0
[[layer]]
sensor = "sentinel1-rtc"
bands = ["vv", "vh"]
path = "S1RTC"
unit = "db"
[[layer]]
sensor = "copdem"
bands = ["elevation"]
path = "DEM"
[[label]]
kind = "mask"
path = "LULC"
classes = ["no data", "water", "trees", "flooded", "crops", "built", "bare", "snow", "cloud", "range"]
"""


def test_five_modalities_of_one_place(shared):
    root = shared / "real" / "terramind_examples"
    source = FolderSource(root, read_card(CARD, "card"))
    assert len(source) == len(list((root / "DEM").glob("*.tif")))
    sample = source.sample(0)
    assert {k: v.shape[2:] for k, v in sample.layers.items()} == {
        "sentinel2-l2a": (12, 224, 224),
        "sentinel1-rtc": (2, 224, 224),
        "copdem": (1, 224, 224),
    }
    assert sample.labels["label"].value.shape == (1, 224, 224)
    assert -40 < float(sample.layers["sentinel1-rtc"].x.mean()) < 0


def test_a_mask_of_another_place_is_refused(shared, tmp_path):
    for kind, name in (("images", "inference-img.tif"), ("masks", "mask.tif")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "a.tif").symlink_to(shared / "real" / "ftw_sample" / name)
    bands = ("red", "green", "blue", "nir")
    card = tmp_path / "card.toml"
    card.write_text(
        'name = "f"\n[layout]\nkind = "folder"\n[[layer]]\nsensor = "sentinel2-l2a"\npath = "images"\nsteps = 2\n'
        f'bands = {list(bands)}\nscale = 0.0001\noffset = 0.0\n[[label]]\nkind = "mask"\npath = "masks"\n'
    )
    source = open_source(tmp_path)
    with pytest.raises(UserError, match=r"size \(189, 289\) and the image \(379, 578\)"):
        source.sample(0)


def test_hls_scene_with_negative_nodata(shared):
    root = shared / "real" / "hls_terratorch_scene"
    bands = ["coastal", "blue", "green", "red", "rededge071", "rededge075", "rededge078", "nir08", "swir16", "swir22"]
    card = read_card(
        f'name = "h"\n[[layer]]\nsensor = "hls-s30"\nbands = {bands}\npath = "regression_test_0_input.tif"\n'
        "scale = 0.0001\noffset = 0.0\n",
        "card",
    )
    scene = open_scene(root, card)
    layer = scene.read(scene.grid.window).layers["hls-s30"]
    assert layer.shape == (1, 1, 10, 224, 224) and float(layer.x.min()) > -0.2 and float(layer.x.max()) < 1.5


def test_aerial_tiles_of_treesatai_hold_near_infrared_first(shared):
    with rasterio.open(next((shared / "real" / "treesat_ts_sample").glob("*.tif"))) as data:
        means = data.read().mean(axis=(1, 2))
    for name in ("treesatai", "geobench2-treesatai"):
        layer = next(x for x in CARDS.get(name).layers if x.id == "aerial-rgbn")
        assert layer.bands[int(means.argmax())] == "nir", "a forest is brightest there"
