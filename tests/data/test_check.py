"""`swath check`: each defect is planted into a fresh folder and must be named; a clean folder must pass."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin
from tests.data import chips

from swath.core import SENSORS, Batch, Layer, Where
from swath.core.errors import UserError
from swath.data.check import CHECKS, check
from swath.data.check.facts import read_facts
from swath.data.check.html import page
from swath.data.check.text import lines
from swath.data.open import open_source
from swath.data.propose import Hints
from swath.data.start import start

BANDS = ("blue", "green", "red", "nir")
LEVELS = np.array([600, 900, 700, 2600])
SIDE = 48


def write(path, x, crs="EPSG:32633", origin=(500000.0, 4500000.0), gsd=10.0, names=(), nodata=None, tags=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    x = x[None] if x.ndim == 2 else x
    with rasterio.open(
        path, "w", driver="GTiff", height=x.shape[1], width=x.shape[2], count=len(x), dtype=x.dtype, crs=crs,
        transform=from_origin(*origin, gsd, gsd), nodata=nodata, compress="deflate",
    ) as out:  # fmt: skip
        out.write(x)
        if names:
            out.descriptions = names
        if tags:
            out.update_tags(**tags)


def picture(i, seed=0):
    rng = np.random.default_rng([seed, i])
    coarse = rng.normal(0, 1, (4, 12, 12)).repeat(4, 1).repeat(4, 2)
    return np.clip(LEVELS[:, None, None] * (1 + 0.2 * coarse + 0.05 * rng.normal(size=(4, SIDE, SIDE))), 50, 9000)


def labels(i):
    return np.random.default_rng([7, i]).integers(0, 3, (SIDE, SIDE)).astype("uint8")


def place(i):
    return 500000.0 + i * 4000.0, 4500000.0


def folder(root, n=12, names=BANDS, kind="uint16"):
    for i in range(n):
        x = picture(i)
        x = {"uint16": lambda x: x.astype("uint16"), "fraction": lambda x: (x / 1e4).astype("float32"),
             "db": lambda x: (10 * np.log10(x / 1e4) - 5).astype("float32")}[kind](x)  # fmt: skip
        write(root / "images" / f"k{i:03d}.tif", x, origin=place(i), names=names)
        write(root / "masks" / f"k{i:03d}.tif", labels(i), origin=place(i))
    return root


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("clean"))


@pytest.fixture
def data(clean, tmp_path):
    return Path(shutil.copytree(clean, tmp_path / "data"))


def image(root, i):
    return root / "images" / f"k{i:03d}.tif"


def mask(root, i):
    return root / "masks" / f"k{i:03d}.tif"


def change(path, how, **profile):
    with rasterio.open(path) as src:
        x, meta, names = src.read(), src.profile, src.descriptions
    x = how(x)
    meta.update(count=len(x), height=x.shape[1], width=x.shape[2], dtype=x.dtype, **profile)
    with rasterio.open(path, "w", **meta) as out:
        out.write(x)
        if len(names) == len(x):
            out.descriptions = names


def patch(band, rows, value):
    def how(x):
        x = x.copy()
        x[band, :rows] = value
        return x

    return how


def errors(report, name=None):
    return [f for f in report.findings if f.level == "error" and name in (None, f.check)]


def only_error(root, name, file, band="", **options):
    """Exactly this check speaks of exactly this file, at least once, as an error."""
    report = check(root, workers=1, **options)
    found = errors(report)
    assert found and not report.ok
    assert {f.check for f in found} == {name}, [f.line() for f in found]
    assert {f.file for f in found} == {file}, [f.line() for f in found]
    assert any(band in f.band for f in found)
    assert all(f.remedy and f.message for f in found)
    return found[0]


def test_clean_passes(clean):
    report = check(clean, workers=1)
    assert report.ok and not report.findings, [f.line() for f in report.findings]
    assert (report.files, report.samples) == (24, 12)
    assert report.labels["masks"]["shares"].keys() == {"0", "1", "2"}


@pytest.mark.parametrize("kind", ["fraction", "db"])
def test_clean_of_other_units_passes(tmp_path, kind):
    report = check(folder(tmp_path, 6, kind=kind), workers=1)
    assert not report.findings, [f.line() for f in report.findings]
    assert report.groups["images"]["looks"] == kind


def test_every_check_is_described():
    assert len(CHECKS.names()) >= 14
    assert all(rule.about for _, rule in CHECKS)


def test_missing_and_extra_partners(data):
    mask(data, 3).unlink()
    image(data, 5).unlink()
    found = errors(check(data, workers=1), "pairing")
    assert {f.file for f in found} == {"images/k003.tif", "masks/k005.tif"}
    assert "masks/k003.tif" in found[0].message and "images/k005.tif" in found[1].message


def test_duplicate_key(data):
    shutil.copy(image(data, 2), data / "images" / "k002.tiff")
    found = errors(check(data, workers=1))
    assert {f.check for f in found} == {"pairing", "duplicates"}
    assert any("k002.tif" in f.message and f.value == "k002" for f in found)


def test_a_copy_in_a_folder_within_is_a_duplicate_key(data):
    (data / "images" / "old").mkdir()
    x = rasterio.open(image(data, 2)).read()[:, ::-1]
    write(data / "images" / "old" / "k002.tif", x, origin=place(2))
    found = errors(check(data, workers=1), "pairing")
    assert [(f.file, f.value) for f in found] == [("images/old/k002.tif", "k002")]


@pytest.mark.parametrize("compress", ["deflate", "lzw", "zstd"])
@pytest.mark.parametrize("bands", [1, 4])
def test_room_that_was_never_filled(tmp_path, compress, bands):
    """A download that stopped after its room was laid out: GDAL reads some of these without a word."""
    for i in range(5):
        write(tmp_path / "images" / f"k{i}.tif", picture(i)[:bands].astype("uint16"), origin=place(i))
        change(tmp_path / "images" / f"k{i}.tif", lambda x: x, compress=compress)
    path = tmp_path / "images" / "k3.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    only_error(tmp_path, "unreadable", "images/k3.tif")


def test_zeros_that_were_written_are_read(tmp_path):
    """Empty blocks, sparse blocks and plain zeros at the end of a file are no damage."""
    for i, how in enumerate(
        [{"compress": "deflate"}, {"compress": "zstd", "sparse_ok": True}, {}, {"compress": "lzw"}]
    ):
        path = tmp_path / f"k{i}.tif"
        write(path, np.zeros((1, 64, 64), "uint16"))
        change(path, lambda x: x, **how, tiled=True, blockxsize=16, blockysize=16)
        assert not read_facts(str(tmp_path), path.name, "image").error


def test_truncated_and_empty(data):
    whole = image(data, 4).read_bytes()
    image(data, 4).write_bytes(whole[: len(whole) // 2])
    found = only_error(data, "unreadable", "images/k004.tif")
    assert "cannot be read" in found.message
    image(data, 4).write_bytes(b"")
    assert "0 bytes" in only_error(data, "unreadable", "images/k004.tif").message


def test_band_count(data):
    change(image(data, 1), lambda x: x[:3])
    assert only_error(data, "band-count", "images/k001.tif").value == 3


def test_band_order_by_description(data):
    with rasterio.open(image(data, 6), "r+") as out:
        out.descriptions = ("red", "green", "blue", "nir")
    found = only_error(data, "band-order", "images/k006.tif", "red")
    assert found.number == 1 and "blue" in found.message


def test_band_order_by_pixels(tmp_path):
    root = folder(tmp_path, 10, names=())
    change(image(root, 7), lambda x: x[::-1].copy())
    found = only_error(root, "band-order", "images/k007.tif", "band 1")
    assert "band 4" in found.message


def test_cirrus_shows_b8a_last(shared):
    report = check(shared / "real/eurosat_ms_100", only=("band-order",), workers=1)
    found = [f for f in report.findings if f.number == 10]
    assert found and found[0].level == "warning" and "B8A last" in found[0].message


@pytest.mark.parametrize(("value", "band"), [(65535, 2), (40000, 0)])
def test_value_outside_the_range(data, value, band):
    change(image(data, 8), patch(band, 2, value))
    found = only_error(data, "value-range", "images/k008.tif", BANDS[band])
    assert found.value == value and found.number == band + 1


@pytest.mark.parametrize(
    ("kind", "how", "word"),
    [
        ("fraction", lambda x: x * 10000, "x 10000"),
        ("db", lambda x: (10 ** (x / 10)).astype("float32"), "linear"),
        ("uint16", lambda x: x + 1000, "offset"),
    ],
)
def test_wrong_unit(tmp_path, kind, how, word):
    root = folder(tmp_path, 8, kind=kind)
    change(image(root, 2), lambda x: how(x).astype(x.dtype))
    found = only_error(root, "unit", "images/k002.tif")
    assert word in found.message and found.band and isinstance(found.value, float)


def test_offset_in_half_of_the_files(tmp_path):
    root = folder(tmp_path, 8)
    for i in range(4):
        change(image(root, i), lambda x: (x + 1000).astype(x.dtype))
    assert {f.file for f in errors(check(root, workers=1), "unit")} == {f"images/k{i:03d}.tif" for i in range(4)}


@pytest.mark.parametrize("sensor", ["hls-s30", "planet-superdove", "sentinel2-l2a"])
def test_only_sentinel2_took_the_offset(tmp_path, sensor):
    """A hazy day of another product is no other convention."""
    root = folder(tmp_path, 8)
    change(image(root, 2), lambda x: (x + 1000).astype(x.dtype))
    (root / "card.toml").write_text(
        f'name = "d"\n[layout]\nkind = "folder"\n[[layer]]\nsensor = "{sensor}"\npath = "images"\noffset = 0.0\n'
        'scale = 0.0001\nbands = ["blue", "green", "red", "nir"]\n'
    )
    found = [f for f in check(root, only=("unit",), workers=1).findings if "offset" in f.message]
    assert bool(found) == sensor.startswith("sentinel2")


def test_offset_in_real_tiles(shared):
    root = shared / "real/terramind_examples/S2L1C"
    found = [f for f in check(root, only=("unit",), workers=1).findings if "offset" in f.message]
    tiles = {}
    for p in sorted(root.glob("*.tif")):
        with rasterio.open(p) as src:
            tiles[p.name] = int(src.read().min())
    if min(tiles.values()) < 900 < 1000 < max(tiles.values()):
        assert found


def test_nan_inf_and_nodata(tmp_path):
    root = folder(tmp_path, 6, kind="fraction")
    change(image(root, 1), patch(1, 1, np.nan))
    change(image(root, 2), patch(3, 1, np.inf))
    change(image(root, 3), patch(slice(None), 30, -9999.0), nodata=-9999.0)
    found = {f.file: f for f in errors(check(root, workers=1))}
    assert {f.check for f in found.values()} == {"missing-values"}
    assert "NaN" in found["images/k001.tif"].message and found["images/k001.tif"].band == "green (band 2)"
    assert found["images/k001.tif"].value == pytest.approx(1 / SIDE)
    assert "inf" in found["images/k002.tif"].message and found["images/k002.tif"].number == 4
    assert found["images/k003.tif"].value == pytest.approx(30 / SIDE)


@pytest.mark.parametrize("value", [0, 777])
def test_constant_band(data, value):
    change(image(data, 9), patch(3, SIDE, value))
    found = errors(check(data, workers=1), "constant-band")
    assert [(f.file, f.number, f.value, f.band) for f in found] == [("images/k009.tif", 4, value, "nir (band 4)")]


@pytest.mark.parametrize("value", [255, 7])
def test_label_outside_the_legend(data, value):
    change(mask(data, 2), patch(0, 3, value))
    found = only_error(data, "legend", "masks/k002.tif", "band 1")
    assert found.value == value and "0 to 2" in found.message


def test_legend_file_and_common_ignore(data):
    for i in range(6):
        change(mask(data, i), patch(0, 2, 255))
    report = check(data, workers=1)
    assert report.ok and any("255 means ignore" in a for a in report.assumed)
    (data / "classes.txt").write_text("water\nforest\n")
    found = errors(check(data, workers=1), "legend")
    assert {f.value for f in found} == {2, 255}


def test_image_and_mask_do_not_match(data):
    change(mask(data, 1), lambda x: x[:, :40])
    write(mask(data, 2), labels(2), crs="EPSG:32634", origin=place(2))
    x, y = place(3)
    write(mask(data, 3), labels(3), origin=(x + 20, y))
    found = errors(check(data, workers=1))
    assert {f.check for f in found} == {"grids"}
    by_file = {}
    for f in found:
        by_file.setdefault(f.file, []).append(f)
    assert "size" in by_file["masks/k001.tif"][0].message and by_file["masks/k001.tif"][0].value == "40 x 48"
    assert any("EPSG:32634" in f.message for f in by_file["masks/k002.tif"])
    assert by_file["masks/k003.tif"][0].value == pytest.approx(2.0)


def test_one_file_differs_from_the_rest(data):
    change(image(data, 1), lambda x: x[:, :40, :40])
    change(mask(data, 1), lambda x: x[:, :40, :40])
    x = picture(2).astype("uint16")
    write(image(data, 2), x, crs="EPSG:4326", origin=(15.0, 40.0), gsd=1e-4, names=BANDS)
    write(mask(data, 2), labels(2), crs="EPSG:4326", origin=(15.0, 40.0), gsd=1e-4)
    write(image(data, 3), picture(3).astype("uint16"), origin=place(3), gsd=20.0, names=BANDS)
    write(mask(data, 3), labels(3), origin=place(3), gsd=20.0)
    found = errors(check(data, workers=1))
    assert {f.check for f in found} == {"grids"}
    assert {f.file.split("/")[1] for f in found} == {"k001.tif", "k002.tif", "k003.tif"}
    assert any("pixel side 20" in f.message for f in found)


def test_dates(tmp_path):
    for i in range(6):
        day = ["20200115", "20201350", "20200215", "20200315", "20200415", "20200515"][i]
        write(tmp_path / "images" / f"k{i}_{day}.tif", picture(i).astype("uint16"), origin=place(i))
    found = errors(check(tmp_path, workers=1))
    assert [(f.check, f.value) for f in found] == [("dates", "20201350")]
    write(tmp_path / "images" / "k9_20200601.tif", picture(9).astype("uint16"), origin=place(9),
          tags={"dates": "2020-01-01, 2020-03-01, 2020-02-01"})  # fmt: skip
    write(tmp_path / "images" / "k8_20200601.tif", picture(8).astype("uint16"), origin=place(8),
          tags={"acquisition_date": "yesterday"})  # fmt: skip
    found = {f.file: f for f in errors(check(tmp_path, workers=1), "dates")}
    assert "out of order" in found["images/k9_20200601.tif"].message
    assert found["images/k8_20200601.tif"].value == "yesterday"


@pytest.mark.parametrize("token", ["2020-13-01", "lately", "2020130"])
def test_a_name_without_a_date_among_dated_ones(tmp_path, token):
    days = ["2020-01-15", token, "2020-02-15", "2020-03-15", "2020-04-15", "2020-05-15"]
    for i, day in enumerate(days):
        write(tmp_path / "images" / f"site{i}_{day}.tif", picture(i).astype("uint16"), origin=place(i))
    assert only_error(tmp_path, "dates", f"images/site1_{token}.tif").value == token


def test_dates_of_bands_out_of_order(tmp_path):
    for i in range(3):
        months = ("01", "02", "03", "04") if i else ("01", "03", "02", "04")
        names = tuple(f"2021-{m}-01_red" for m in months)
        write(tmp_path / f"k{i}.tif", picture(i).astype("uint16"), origin=place(i), names=names)
    found = errors(check(tmp_path, workers=1), "dates")
    assert [f.file for f in found] == ["k0.tif"] and "2021-02-01 comes after 2021-03-01" in found[0].message


def test_dates_in_a_table(data):
    rows = ["key,date", *[f"k{i:03d},2020-01-{i + 1:02d}" for i in range(11)], "k011,2020-02-31"]
    (data / "metadata.csv").write_text("\n".join(rows))
    assert only_error(data, "dates", "images/k011.tif").value == "2020-02-31"


def test_duplicates_and_near_duplicates(data):
    x, y = place(20)
    noise = np.random.default_rng(1).integers(-2, 3, (4, SIDE, SIDE))
    for name, how in (("k020", lambda a: a), ("k021", lambda a: (a + noise).astype(a.dtype))):
        shutil.copy(image(data, 0), data / "images" / f"{name}.tif")
        change(data / "images" / f"{name}.tif", how, transform=from_origin(x, y, 10, 10))
        write(data / "masks" / f"{name}.tif", labels(20), origin=(x, y))
    found = {f.file: f for f in errors(check(data, workers=1))}
    assert {f.check for f in found.values()} == {"duplicates"}
    assert "exact duplicate of images/k000.tif" in found["images/k020.tif"].message
    assert "near-duplicate of images/k000.tif" in found["images/k021.tif"].message
    assert found["images/k021.tif"].value > 0.999


def test_smooth_pictures_of_other_places_are_no_duplicates(data):
    """Ramps and waves correlate at some shift or mirrored; what they do not share is the grain of single pixels."""
    rng = np.random.default_rng(0)
    down, along = np.linspace(300, 3000, SIDE)[None, :, None], np.linspace(0, 6, SIDE)[None, None, :]
    for i in range(24):
        wave = 600 * np.sin(along * rng.uniform(0.5, 3) + rng.uniform(0, 6)) + rng.uniform(0, 900, (4, 1, 1))
        ground = (down * rng.uniform(0.5, 1.2) + wave + rng.normal(0, 80, (4, SIDE, SIDE))).clip(1, 9000)
        at = place(40 + i)
        write(data / "images" / f"w{i:03d}.tif", ground.astype("uint16"), origin=at, names=BANDS)
        write(data / "masks" / f"w{i:03d}.tif", labels(i), origin=at)
    assert not [f for f in errors(check(data, workers=1)) if f.check == "duplicates"]


def split_folder(root, step=4000.0, absent=False):
    for i in range(12):
        split = ("train", "train", "val", "test")[i % 4]
        at = (500000.0 + i * step, 4500000.0)
        m = labels(i)
        if absent and split == "val":
            m[m == 2] = 1
        write(root / split / "images" / f"k{i:03d}.tif", picture(i).astype("uint16"), origin=at, names=BANDS)
        write(root / split / "masks" / f"k{i:03d}.tif", m, origin=at)
    return root


def test_split_folders(tmp_path):
    report = check(split_folder(tmp_path / "clean"), workers=1)
    assert report.ok and not report.findings, [f.line() for f in report.findings]
    assert report.splits == {"train": 6, "val": 3, "test": 3}
    assert {(d["from"], d["to"]) for d in report.distances} == {("val", "train"), ("test", "train"), ("test", "val")}
    assert report.distances[0]["nearest_m"] == pytest.approx(4000 - SIDE * 10)
    found = errors(check(split_folder(tmp_path / "overlap", step=240.0), workers=1))
    assert {f.check for f in found} == {"split-overlap"}
    assert all(f.value == pytest.approx(0.5, abs=0.01) and f.file.endswith(".tif") for f in found)
    touching = check(split_folder(tmp_path / "touch", step=480.0), workers=1)
    assert touching.ok and any(f.check == "split-overlap" and f.level == "warning" for f in touching.findings)
    found = errors(check(split_folder(tmp_path / "absent", absent=True), workers=1))
    assert [(f.check, f.value) for f in found] == [("classes", 2)] and "val" in found[0].message


@pytest.mark.parametrize("form", ["csv", "txt", "json"])
def test_split_lists(data, form):
    keys = [f"k{i:03d}" for i in range(12)]
    train, val, test = keys[:6], keys[6:9], keys[9:]
    test, val = [*test, "k999"], [*val, "k000"]
    if form == "csv":
        rows = [f"{k},{s}" for s, ks in (("train", train), ("val", val), ("test", test)) for k in ks]
        (data / "split.csv").write_text("key,split\n" + "\n".join(rows))
    elif form == "json":
        (data / "split.json").write_text(json.dumps({"train": train, "val": val, "test": test}))
    else:
        for name, ks in (("train", train), ("val", val), ("test", test)):
            (data / f"{name}.txt").write_text("\n".join(ks))
    found = errors(check(data, workers=1))
    assert {(f.check, f.value) for f in found} == {("split-lists", "k999"), ("split-lists", "k000")}
    assert errors(check(data, workers=1, batch_size=16), "batch-size")[0].value == 16


def test_one_class_and_balance(tmp_path):
    for i in range(4):
        write(tmp_path / "images" / f"k{i}.tif", picture(i).astype("uint16"), origin=place(i))
        write(tmp_path / "masks" / f"k{i}.tif", np.zeros((SIDE, SIDE), "uint8"), origin=place(i))
    assert "nothing to learn" in errors(check(tmp_path, workers=1))[0].message
    for i in range(4):
        m = np.zeros((SIDE, SIDE), "uint8")
        m[0, :2] = 1
        write(tmp_path / "masks" / f"k{i}.tif", m, origin=place(i))
    report = check(tmp_path, workers=1)
    assert report.ok and any("class balance" in f.message for f in report.findings)


def test_other_spellings_of_pairs(tmp_path):
    for i in range(4):
        write(tmp_path / "a" / "s2" / f"{i}_20200101_s2.tif", picture(i).astype("uint16"), origin=place(i))
        write(tmp_path / "a" / "labels" / f"{i}_label.tif", labels(i), origin=place(i))
        write(tmp_path / "b" / f"{i}.tif", picture(i).astype("uint16"), origin=place(i))
        write(tmp_path / "b" / f"{i}_mask.tif", labels(i), origin=place(i))
    for name in ("a", "b"):
        report = check(tmp_path / name, workers=1)
        assert report.ok and report.samples == 4, [f.line() for f in report.findings]


def test_run_file(data):
    (data.parent / "run.yaml").write_text("data: {kind: folder, path: data}\nloop: {batch_size: 64}\n")
    found = errors(check(data.parent / "run.yaml", workers=1))
    assert [f.check for f in found] == ["batch-size"]


CARD = """name = "mine"
[layout]
kind = "folder"
[[layer]]
sensor = "sentinel2-l2a"
path = "images"
bands = ["blue", "green", "red", "nir"]
[[label]]
kind = "mask"
path = "masks"
classes = ["water", "field", "town"]
ignore = [255]
"""


def test_card(data):
    for i in range(12):  # the sensor's storage: reflectance = DN / 10000 - 0.1
        change(image(data, i), lambda x: x + np.uint16(1000))
    (data / "card.toml").write_text(CARD)
    report = check(data, workers=1)
    assert report.ok and report.groups["images"]["sensor"] == "sentinel2-l2a", [f.line() for f in report.findings]
    assert "water" in "".join(lines(report))
    change(mask(data, 3), patch(0, 2, 3))
    change(mask(data, 4), patch(0, 2, 255))
    assert only_error(data, "legend", "masks/k003.tif").value == 3
    (data / "card.toml").write_text(CARD.replace('"red", "nir"', '"nir", "red"'))
    assert {f.check for f in errors(check(data / "card.toml", workers=1))} == {"band-order", "legend"}
    (data / "card.toml").write_text(CARD.replace('"red", "nir"', '"red"'))
    found = errors(check(data / "card.toml", workers=1), "band-count")
    assert len(found) == 12 and "the card says 3" in found[0].message


def test_card_knows_that_every_file_is_wrong(tmp_path):
    root = folder(tmp_path, 6)
    unit = 'unit = "reflectance"\nscale = 1.0'
    (root / "card.toml").write_text(CARD.replace('path = "images"', f'path = "images"\n{unit}'))
    found = errors(check(root, workers=1), "unit")
    assert len(found) == 6 and "x 10000" in found[0].message and "card" in found[0].message


class Samples:
    """A source in memory: the third sample is unreadable, the fourth out of range."""

    name, licence = "memory", "CC0-1.0"

    def __init__(self):
        from swath.core import SENSORS, LabelSpec

        self.sensors = (SENSORS.get("sentinel2-l2a").select(BANDS),)
        self.labels = {"label": LabelSpec("label", "mask", ("a", "b", "c"))}
        self.fingerprint = "0"

    def __len__(self):
        return 6

    def splits(self):
        return {"train": [0, 1, 2, 3], "val": [4, 5]}

    def sample(self, index, bands=None):
        import torch

        from swath.core import Batch, Label, Layer, Where

        if index == 2:
            raise UserError("broken", where="sample 2")
        x = torch.from_numpy(picture(index) / 1e4).float()
        if index == 3:
            x[1] *= 10000
        valid = torch.ones(1, 1, 1, SIDE, SIDE, dtype=torch.bool)
        layer = Layer(self.sensors[0], x[None, None], valid, torch.tensor([[18000]]))
        m = torch.from_numpy(labels(index).astype("int64"))[None]
        where = Where(torch.tensor([index]), torch.full((1, 2), float("nan"), dtype=torch.float64), (), (f"s{index}",))
        return Batch({"sentinel2-l2a": layer}, where, {"label": Label("mask", m, torch.ones_like(m, dtype=torch.bool))})


def test_any_source(monkeypatch):
    from swath.data.check import opening

    monkeypatch.setattr(opening, "_source", lambda ref, place: Samples())
    found = {(f.check, f.file) for f in errors(check("set.tortilla", workers=1))}
    assert ("unreadable", "sample 2") in found and found <= {
        ("unreadable", "sample 2"), ("value-range", "s3"), ("unit", "s3"), ("pairing", "sample 2")
    }  # fmt: skip
    assert len(found) >= 2


def test_unknown_place_is_refused(tmp_path):
    with pytest.raises(UserError, match="neither such a file or folder"):
        check(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no rasters"):
        check(tmp_path)


def test_text_and_html(data):
    change(image(data, 8), patch(2, 2, 65535))
    report = check(data, workers=1)
    text = "\n".join(lines(report))
    assert "images/k008.tif, red (band 3)" in text and "65535" in text and "not ok: 1 errors" in text
    html = page(report)
    assert "images/k008.tif" in html and "data:image/png;base64," in html and "src='http" not in html


def test_processes_give_the_same_and_survive_a_crash(data):
    from swath.data.check import survey
    from swath.data.check.layout import discover

    jobs = [(m.file, m.role, None) for m in discover(data).members] * 5
    one = survey.read_all(data, jobs[:24], 1)
    two = survey.read_all(data, jobs, 2)
    assert {k: (v.digest, v.classes) for k, v in one.items()} == {k: (v.digest, v.classes) for k, v in two.items()}


def test_command(data, tmp_path):
    change(image(data, 8), patch(2, 2, 65535))
    args = [sys.executable, "-m", "swath.cli", "check", str(data), "--json", "--html", str(tmp_path / "r.html")]
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    answer = json.loads(done.stdout)
    assert answer["ok"] is False and answer["files"] == 24
    assert answer["findings"][0].keys() >= {"check", "level", "file", "band", "value", "message", "remedy"}
    assert (tmp_path / "r.html").stat().st_size > 1000


def textured(i, bands=4, side=64):
    """A picture with detail at every scale, unlike any other."""
    rng = np.random.default_rng([11, i])
    layers = [rng.normal(0, 1, (bands, side // k, side // k)).repeat(k, 1).repeat(k, 2) for k in (16, 8, 4, 2, 1)]
    return np.clip(2000 + 300 * sum(layers), 50, 9000)


ALIKE = {
    "noise": lambda x: x + np.random.default_rng(1).normal(0, 0.03 * x.std(), x.shape),
    "brighter": lambda x: 1.15 * x,
    "lifted": lambda x: x + 400,
    "mirrored": lambda x: x[:, :, ::-1],
    "turned": lambda x: np.rot90(x, 1, (1, 2)),
    "turned mirrored": lambda x: np.rot90(x[:, ::-1], 3, (1, 2)),
    "shifted": lambda x: np.pad(x, ((0, 0), (4, 0), (3, 0)), mode="reflect")[:, : x.shape[1], : x.shape[2]],
    "one wild pixel": lambda x: np.where(np.arange(x.size).reshape(x.shape) == 99, 60000, x),
    "coarser numbers": lambda x: (x // 50) * 50,
}


@pytest.mark.parametrize("how", ALIKE)
def test_near_duplicates_however_changed(tmp_path, how):
    for i in range(10):
        x = ALIKE[how](textured(3)) if i == 7 else textured(i)
        write(tmp_path / "images" / f"k{i:03d}.tif", x.astype("uint16"), origin=place(i))
    found = only_error(tmp_path, "duplicates", "images/k007.tif", only=("duplicates",))
    assert "near-duplicate of images/k003.tif" in found.message and found.value > 0.9


def test_dates_of_one_place_and_pairs_are_no_duplicates(tmp_path):
    for i in range(4):
        for day in ("20200101", "20200401", "20200701"):
            x = textured(i) + np.random.default_rng(int(day)).normal(0, 20, (4, 64, 64))
            write(tmp_path / "images" / f"site{i}_{day}.tif", x.astype("uint16"), origin=place(i))
        write(tmp_path / "masks" / f"site{i}.tif", labels(i)[:1].repeat(64, 0)[:, :1].repeat(64, 1), origin=place(i))
    report = check(tmp_path, workers=1)
    assert not [f for f in report.findings if f.check in ("duplicates", "pairing", "dates")]


def test_cuts_that_overlap_on_the_map_are_no_duplicates(tmp_path):
    whole = textured(0, side=160)
    for i in range(3):
        at = (500000.0 + 80.0 * i, 4500000.0)
        write(tmp_path / "images" / f"k{i}.tif", whole[:, :64, 8 * i : 8 * i + 64].astype("uint16"), origin=at)
    assert not check(tmp_path, workers=1, only=("duplicates",)).findings


def test_zeros_that_nobody_declares(tmp_path):
    root = folder(tmp_path, 8)
    change(image(root, 2), patch(slice(None), 24, 0))
    found = only_error(root, "missing-values", "images/k002.tif")
    assert found.value == pytest.approx(0.5) and "not declared" in found.message


def test_fractions_among_classes(data):
    change(mask(data, 4), lambda x: x.astype("float32") + 0.5)
    assert only_error(data, "legend", "masks/k004.tif", "band 1").value % 1 == 0.5


def test_the_next_class_in_one_file_of_many(data):
    change(mask(data, 4), patch(0, 1, 3))
    assert only_error(data, "legend", "masks/k004.tif", "band 1").value == 3


def test_the_odd_one_of_a_pair_is_named(data):
    change(image(data, 5), lambda x: x, crs="EPSG:32634")
    assert only_error(data, "grids", "images/k005.tif").value == "EPSG:32634"


def test_whole_numbers_of_many_values_are_a_quantity(tmp_path):
    root = folder(tmp_path, 6)
    for i in range(6):
        heights = np.random.default_rng(i).integers(200, 1200, (1, SIDE, SIDE)).astype("uint16")
        change(mask(root, i), lambda x, heights=heights: heights)
    report = check(root, workers=1)
    assert report.ok and not report.findings and any("a quantity" in a for a in report.assumed)


def test_splits_that_count_their_files_anew(tmp_path):
    for k, split in enumerate(("train", "val", "test")):
        for i in range(4):
            at = place(10 * k + i)
            write(tmp_path / split / "images" / f"{i}.tif", textured(10 * k + i).astype("uint16"), origin=at)
            write(tmp_path / split / "masks" / f"{i}.tif", labels(i)[:1].repeat(64, 0)[:, :1].repeat(64, 1), origin=at)
    report = check(tmp_path, workers=1)
    assert not [f for f in report.findings if f.level == "error"], [f.line() for f in report.findings]
    assert report.samples == 12 and report.splits == {"test": 4, "train": 4, "val": 4}


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_file_of_nodata_alone_has_no_order_of_bands(tmp_path):
    root = folder(tmp_path, 10, names=())
    for i in (2, 5):
        change(image(root, i), lambda x: x * 0, nodata=0)
    change(image(root, 7), lambda x: x[::-1].copy())
    found = [f for f in check(root, only=("band-order",), workers=1).findings if f.level == "error"]
    assert [f.file for f in found] == ["images/k007.tif"]


@pytest.mark.parametrize("words", [("bands",) * 4, ("a", "b", "c", "d"), ("stack 1", "", "", "")])
def test_descriptions_that_name_no_band_say_nothing_of_their_order(tmp_path, words):
    root = folder(tmp_path, 6, names=())
    start(root, "segment", Hints("sentinel2-l2a", tuple(BANDS)))
    for i in range(6):
        with rasterio.open(image(root, i), "r+") as out:
            out.descriptions = words
    assert not [f for f in check(root, only=("band-order",), workers=1).findings if f.level == "error"]
    with rasterio.open(image(root, 3), "r+") as out:
        out.descriptions = ("B03", "B02", "B04", "B08")
    assert only_error(root, "band-order", "images/k003.tif", "band 1")


def test_bands_of_several_units_and_weather_that_samples_share_are_no_errors(monkeypatch):
    """Kelvin beside metres of rain is neither; the same weather or height is no second picture."""
    from swath.data.check import opening

    rng = np.random.default_rng(0)
    land = SENSORS.get("sentinel2-l2a").select(("red", "nir"))
    sky = SENSORS.get("era5").select(("temperature_2m", "precipitation"))

    class Series:
        name, licence, labels, sensors = "series", "MIT", {}, (land, sky)

        def __len__(self):
            return 12

        def splits(self):
            return {"train": range(8), "val": range(8, 10), "test": range(10, 12)}

        def sample(self, index, bands=None):
            weather = torch.tensor([[285.0, 0.002], [290.0, 0.004], [280.0, 0.0]])[None, :, :, None, None]
            seen = torch.ones(1, 3, 1, 1, 1, dtype=torch.bool)
            red = torch.tensor(rng.uniform(0.02, 0.4, (1, 3, 2, 1, 1)), dtype=torch.float32)
            lonlat = torch.full((1, 2), torch.nan, dtype=torch.float64)
            place = Where(torch.tensor([index]), lonlat, (None,), (f"s{index}",))
            return Batch({land.id: Layer(land, red, seen, None), sky.id: Layer(sky, weather, seen, None)}, place)

    monkeypatch.setattr(opening, "_source", lambda ref, place: Series())
    assert not errors(check("set.tortilla", workers=1))


def test_an_empty_folder_of_labels_is_said(tmp_path):
    """By check, by init and by the source; a label that the card declares and nobody put there is an error."""
    chips.folder(tmp_path, names=chips.S2_NAMES)
    for mask in (tmp_path / "masks").iterdir():
        mask.unlink()
    (tmp_path / "masks" / "readme.txt").write_text("to be drawn")
    found = check(tmp_path)
    assert [(f.level, f.file) for f in found.findings if f.check == "pairing"] == [("error", "masks")]
    assert not found.ok
    with pytest.raises(UserError, match=r"found: none \(masks/ is empty\)"):
        start(tmp_path, "segment", Hints("sentinel2-l2a", chips.S2), tmp_path / "o")
    done = start(tmp_path, "pretrain", Hints("sentinel2-l2a", chips.S2), tmp_path / "o")
    assert any("masks/ is there and holds no label" in a for a in done.assumed)
    (tmp_path / "card.toml").write_text(
        'name = "d"\n[layout]\nkind = "folder"\n[[layer]]\nsensor = "sentinel2-l2a"\npath = "images"\n'
        'bands = ["blue", "green", "red", "nir"]\n[[label]]\nkind = "mask"\npath = "masks"\nclasses = ["a", "b"]\n'
    )
    found = check(tmp_path)
    assert any("label 'label' is looked for here, and there is none" in f.message for f in found.findings)
    assert not found.ok
    with pytest.raises(UserError, match=r"6 images, and no label of their keys, for example of images/k00\.tif"):
        open_source(tmp_path).sample(0)


def test_a_rendered_folder_of_dates_clouds_and_objects_is_fine(tmp_path):
    """Files are what the card says they are: dates of a key, cloud masks, objects by number."""
    from swath.world.files import Render, render

    days, names = ("2023-04-10", "2023-07-25"), ("fields", "land_cover", "canopy_height")
    sensors = ("sentinel2-l2a", "sentinel1-rtc", "copdem")
    list(render(Render(str(tmp_path), 7, sensors, days, names, chips=3, size=60, near="cropland")))
    found = check(tmp_path)
    assert [f for f in found.findings if f.level == "error"] == [] and found.samples == 3
    assert list(found.labels) == ["labels/land_cover"]
    for name in names:
        (tmp_path / "labels" / name / "000001.tif").unlink()
    assert any("'000001'" in f.message for f in check(tmp_path).findings if f.check == "pairing")
