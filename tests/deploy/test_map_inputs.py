"""What a map reads: STAC over HTTP, a place, a span and a list of days; a missing day, a damaged file, a full disk."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from deploy_fakes import BANDS, Conv
from rasterio.transform import from_origin
from tests.data.serve import serve

from swath.core import SwathError, UserError, Window
from swath.data.names import day_of
from swath.data.scene import SceneHints
from swath.deploy.inputs import OpenInputs, Wanted, is_catalogue, read_days
from swath.deploy.map import MapRun, map_scene
from swath.deploy.plan import MapSettings

HINTS = SceneHints("sentinel2-l2a")
KEYS = ("B02", "B03", "B04", "B08")
SIDE = 200
WEST, NORTH = 500_000.0, 5_000_000.0
SMALL = MapSettings(tile=64, overlap=10, cell=100, proba=True)


class Mean(Conv):
    """Conv on the mean over the days that saw a pixel."""

    def predict(self, batch):
        from swath.core import Batch, Layer

        layer = batch.layers["sentinel2-l2a"]
        seen = layer.valid.float()
        x = (layer.x * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp_min(1)
        one = Layer(layer.sensor, x, layer.valid.any(1, keepdim=True))
        return super().predict(Batch({"sentinel2-l2a": one}, batch.where))


def pixels(seed):
    """Blocks of four bands, SIDE x SIDE."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(1500, 5000, (4, SIDE // 10, SIDE // 10))
    return (np.kron(blocks, np.ones((10, 10))) + rng.integers(0, 200, (4, SIDE, SIDE))).astype("uint16")


def raster(path, array, origin=(WEST, NORTH), **more):
    with rasterio.open(
        path, "w", driver="GTiff", height=array.shape[1], width=array.shape[2], count=len(array), dtype="uint16",
        crs="EPSG:32631", nodata=0, transform=from_origin(*origin, 10, 10), **more,
    ) as out:  # fmt: skip
        out.write(array)
        if len(array) == 4:
            out.descriptions = KEYS
    return path


def corner(file, rows, cols):
    """Longitude and latitude of a pixel's corner."""
    from pyproj import Transformer

    with rasterio.open(file) as data:
        return Transformer.from_crs(data.crs, "OGC:CRS84", always_xy=True).transform(*(data.transform * (cols, rows)))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A static catalogue of two days, one COG a band, served over HTTP; and the same as plain rasters."""
    import pystac

    root = tmp_path_factory.mktemp("stac")
    days = "2022-06-01", "2022-07-01"
    with serve(root) as server:
        top, group = pystac.Catalog("top", "top"), None
        extent = pystac.Extent(pystac.SpatialExtent([[3, 45, 3.1, 45.2]]), pystac.TemporalExtent([[None, None]]))
        group = pystac.Collection("sentinel-2-l2a", "images", extent)
        for n, day in enumerate(days):
            array = pixels(n)
            whole = raster(root / f"plain_{day}.tif", array)
            lon0, lat0 = corner(whole, SIDE, 0)
            lon1, lat1 = corner(whole, 0, SIDE)
            shape = {"type": "Polygon", "coordinates": [[[lon0, lat0], [lon1, lat0], [lon1, lat1], [lon0, lat0]]]}
            facts = {"s2:processing_baseline": "04.00", "proj:code": "EPSG:32631", "eo:cloud_cover": 5.0 + 60 * n}
            when = pystac.utils.str_to_datetime(f"{day}T10:30:00Z")
            item = pystac.Item(f"i{n}", shape, [lon0, lat0, lon1, lat1], when, facts)
            for key, band in zip(KEYS, array, strict=True):
                raster(root / f"i{n}_{key}.tif", band[None], tiled=True, blockxsize=64, blockysize=64)
                item.add_asset(key, pystac.Asset(f"{server.url}/i{n}_{key}.tif", roles=["data"]))
            group.add_item(item)
        top.add_child(group)
        top.normalize_hrefs(server.url)
        top.save(pystac.CatalogType.ABSOLUTE_PUBLISHED, dest_href=str(root))
        server.root = root
        yield server


def mapped(out, refs, model=None, holes=False, **wanted):
    opener = OpenInputs(tuple(map(str, refs)), HINTS, wanted=Wanted(holes=holes, **wanted))
    return opener, map_scene(opener, lambda: model or Mean(), out, settings=SMALL, run=MapRun(allow_holes=holes),
                             sources=[str(r) for r in refs])  # fmt: skip


def proba(done):
    with rasterio.open(done.files["proba"]) as file:
        return file.read().astype(float), file.transform


def test_a_catalogue_over_http_gives_the_map_of_the_plain_rasters(site, tmp_path):
    url = f"{site.url}/catalog.json"
    plain = [site.root / f"plain_{d}.tif" for d in ("2022-06-01", "2022-07-01")]
    lon0, lat0 = corner(plain[0], 150, 40)
    lon1, lat1 = corner(plain[0], 20, 170)
    aoi = f"{lon0},{lat0},{lon1},{lat1}"
    _, done = mapped(tmp_path / "stac.tif", [url], aoi=aoi, dates="2022-05-20/2022-06-20")
    got, at = proba(done)
    _, want = mapped(tmp_path / "plain.tif", plain[:1])
    truth, _ = proba(want)
    row, col = round((NORTH - at.f) / 10), round((at.c - WEST) / 10)
    inner = slice(4, got.shape[1] - 4), slice(4, got.shape[2] - 4)
    there = slice(row + 4, row + got.shape[1] - 4), slice(col + 4, col + got.shape[2] - 4)
    assert got.shape[1] >= 128 and np.abs(got[:, *inner] - truth[:, *there]).max() <= 2
    item = json.loads(Path(done.files["item"]).read_text())
    assert [x["href"] for x in item["links"]] == [f"{site.url}/sentinel-2-l2a/i0/i0.json"]
    assert item["properties"]["datetime"] == "2022-06-01T00:00:00Z"


def test_an_item_a_collection_and_clouds(site, tmp_path):
    item = f"{site.url}/sentinel-2-l2a/i1/i1.json"
    one = OpenInputs((item,), HINTS)()
    assert one.days == (19174,) and one.sensors[0].id == "sentinel2-l2a"
    group = OpenInputs((f"{site.url}/sentinel-2-l2a/collection.json",), HINTS, wanted=Wanted(cloud=20.0))()
    assert group.days == (19144,)
    both = OpenInputs((f"{site.url}/catalog.json",), HINTS, wanted=Wanted(collection="sentinel-2-l2a"))()
    assert both.read(Window(0, 0, 16, 16), {"sentinel2-l2a": BANDS}).layers["sentinel2-l2a"].shape[1] == 2
    with pytest.raises(UserError, match="no item fits"):
        OpenInputs((f"{site.url}/catalog.json",), HINTS, wanted=Wanted(aoi="40,10,41,11"))()
    with pytest.raises(UserError, match="cannot be read"):
        OpenInputs((f"{site.url}/nowhere.json",), HINTS)()


def test_an_asset_that_cannot_be_fetched_is_named(site, tmp_path):
    site.hooks["/i0_B08.tif"] = lambda *a: None
    lost = site.root / "i0_B08.tif"
    kept = lost.read_bytes()
    try:
        lost.write_bytes(kept[: len(kept) // 2])
        with pytest.raises(SwathError, match="i0"):
            mapped(tmp_path / "a.tif", [f"{site.url}/sentinel-2-l2a/i0/i0.json"])
        assert not (tmp_path / "a.tif").exists()
    finally:
        lost.write_bytes(kept)
        site.hooks.clear()


@pytest.mark.parametrize("refs,found", [
    (["a/item.json"], True), (["https://x.org/stac/v1"], True), (["https://x.org/a.tif?sig=1"], False),
    (["https://x.org/i.JSON?key=2"], True), (["folder"], False), (["a.json", "b.json"], False),
])  # fmt: skip
def test_what_is_a_catalogue(refs, found):
    assert is_catalogue(refs) == found


@pytest.fixture
def series(tmp_path):
    """Three days of one place, by name."""
    folder = tmp_path / "series"
    folder.mkdir()
    for n, day in enumerate(("2022-06-01", "2022-06-11", "2022-06-21")):
        raster(folder / f"s2_{day}.tif", pixels(n))
    return folder


def opened(series, **wanted):
    hints = SceneHints("sentinel2-l2a", KEYS, pattern="{site}_{date}.tif")
    return OpenInputs((str(series),), hints, wanted=Wanted(**wanted))


def test_a_missing_day_is_named_or_a_day_that_saw_nothing(series, tmp_path):
    whole = opened(series)().read(Window(0, 0, 64, 64)).layers["sentinel2-l2a"]
    assert whole.shape[1] == 3
    two = opened(series, dates="2022-06-01,2022-06-21")().read(Window(0, 0, 64, 64)).layers["sentinel2-l2a"]
    assert (two.x == whole.x[:, ::2]).all() and two.times.tolist() == [[19144, 19164]]
    asked = "2022-06-01,2022-06-15,2022-06-21"
    with pytest.raises(UserError, match="no image of 2022-06-15") as why:
        opened(series, dates=asked)()
    assert "2022-06-11" in why.value.where and "--allow-holes" in why.value.remedy
    three = opened(series, dates=asked, holes=True)().read(Window(0, 0, 64, 64)).layers["sentinel2-l2a"]
    assert three.times.tolist() == [[19144, 19158, 19164]]
    assert three.valid[:, ::2].all() and not three.valid[:, 1].any()
    out = tmp_path / "a.tif"
    done = map_scene(opened(series, dates=asked, holes=True), Mean, out, settings=SMALL)
    same = map_scene(opened(series, dates="2022-06-01,2022-06-21"), Mean, tmp_path / "b.tif", settings=SMALL)
    np.testing.assert_array_equal(proba(done)[0], proba(same)[0])


def test_a_span_and_a_place_of_rasters(series, tmp_path):
    day = opened(series, dates="../2022-06-11")()
    assert day.days == (19144, 19154)
    lon0, lat0 = corner(series / "s2_2022-06-01.tif", 120, 30)
    lon1, lat1 = corner(series / "s2_2022-06-01.tif", 50, 130)
    part = opened(series, aoi=f"{lon0},{lat0},{lon1},{lat1}")()
    assert 70 <= part.grid.shape[0] <= 74 and 100 <= part.grid.shape[1] <= 104
    import geopandas
    import shapely

    frame = geopandas.GeoDataFrame(geometry=[shapely.box(lon0, lat0, lon1, lat1)], crs="OGC:CRS84")
    frame.to_crs("EPSG:3857").to_file(tmp_path / "aoi.gpkg")
    assert opened(series, aoi=str(tmp_path / "aoi.gpkg"))().grid == part.grid
    whole = opened(series)().read(part.window)
    inner = part.read(Window(0, 0, *part.grid.shape))
    assert (inner.layers["sentinel2-l2a"].x == whole.layers["sentinel2-l2a"].x).all()
    assert part.fingerprint != opened(series)().fingerprint


@pytest.mark.parametrize("wanted,words", [
    ({"dates": "2023-01-01/2023-02-01"}, "no image within"), ({"dates": "2022-07-01/2022-06-01"}, "ends before"),
    ({"dates": "June"}, "not a date"), ({"aoi": "1,2,3"}, "no place"), ({"aoi": "3,45,2,46"}, "west,south"),
    ({"aoi": "100,10,101,11"}, "does not show"), ({"collection": "s2"}, "no collection"), ({"mask": "scl"}, "no mask"),
])  # fmt: skip
def test_what_cannot_be_wanted_is_refused(series, wanted, words):
    with pytest.raises(UserError, match=words):
        opened(series, **wanted)()


def test_a_damaged_block_of_a_real_file_is_named_or_a_hole(tmp_path):
    file = raster(tmp_path / "s2.tif", pixels(0), tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    whole = map_scene(OpenInputs((str(file),), HINTS), Mean, tmp_path / "whole.tif", settings=SMALL)
    with rasterio.open(file) as data:
        place = int(data.get_tag_item("BLOCK_OFFSET_2_2", "TIFF", bidx=1))
    damaged = bytearray(file.read_bytes())
    damaged[place : place + 200] = b"\xff" * 200
    file.write_bytes(damaged)
    with pytest.raises(SwathError, match="cannot be read") as why:
        mapped(tmp_path / "a.tif", [file])
    assert "s2.tif" in why.value.where and "rows" in why.value.where
    assert not (tmp_path / "a.tif").exists() and not list(tmp_path.glob(".*"))
    _, done = mapped(tmp_path / "a.tif", [file], holes=True)
    with rasterio.open(tmp_path / "a.tif") as got, rasterio.open(whole.files["class"]) as want:
        a, b = got.read(1), want.read(1)
    assert done.holes and (a[130:190, 130:190] == 255).all() and (a[:88, :88] == b[:88, :88]).all()


def break_block(file, row, col):
    with rasterio.open(file) as data:
        place = int(data.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=1))
    damaged = bytearray(file.read_bytes())
    damaged[place : place + 200] = b"\xff" * 200
    file.write_bytes(damaged)


@pytest.mark.parametrize("dates", ["", "2022-06-01,2022-06-11,2022-06-21"])
def test_a_date_that_cannot_be_read_is_lost_alone(tmp_path, dates):
    folder = tmp_path / "series"
    folder.mkdir()
    block = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    days = "2022-06-01", "2022-06-11", "2022-06-21"
    files = [raster(folder / f"s2_{d}.tif", pixels(n), **block) for n, d in enumerate(days)]
    break_block(files[1], 2, 2)
    opener, out = opened(folder, dates=dates, holes=True), tmp_path / "a.tif"
    with pytest.raises(SwathError, match="cannot be read") as why:
        map_scene(opener, Mean, out, settings=SMALL)
    assert "s2_2022-06-11.tif" in why.value.where
    done = map_scene(opener, Mean, out, settings=SMALL, run=MapRun(allow_holes=True))
    assert done.holes and all(len(h) == 5 for h in done.holes) and done.facts()["holes"] == 0
    item = json.loads((tmp_path / "a.json").read_text())["properties"]
    assert item["swath:holes"] == [] and {g[4] for g in item["swath:gaps"]} == {"2022-06-11"}
    with rasterio.open(out) as got:
        assert (got.read(1) != 255).all()
    batch, lost = read_days(opener(), Window(128, 128, 64, 64))
    layer = batch.layers["sentinel2-l2a"]
    assert lost == (day_of(days[1], ""),) and layer.valid.flatten(2).all(2).tolist() == [[True, False, True]]
    raster(files[1], pixels(1), **block)
    again = map_scene(opener, Mean, out, settings=SMALL, run=MapRun(allow_holes=True))
    assert not again.holes and not again.already


def test_the_first_tile_may_be_the_damaged_one(tmp_path):
    block = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    file = raster(tmp_path / "s2.tif", pixels(0), **block)
    break_block(file, 0, 0)
    _, done = mapped(tmp_path / "a.tif", [file], holes=True)
    with rasterio.open(tmp_path / "a.tif") as got:
        a = got.read(1)
    assert done.holes and (a[:64, :64] == 255).all() and (a[200:, 200:] != 255).all()


CODE = """
import resource, sys; sys.path[:0] = {path!r}
from functools import partial
from pathlib import Path
from test_map_inputs import HINTS, SMALL, Mean
from swath.core import SwathError
from swath.deploy.inputs import OpenInputs
from swath.deploy.map import map_scene
if {limit}:
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    map_scene(OpenInputs(({file!r},), HINTS), Mean, Path({out!r}), settings=SMALL)
except SwathError as why:
    print(why.what, "|", why.remedy)
    sys.exit(3)
"""


def attempt(file, out, limit):
    path = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    code = CODE.format(path=path, file=str(file), out=str(out), limit=limit)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def final(folder):
    return {p.name for p in folder.iterdir() if not p.name.endswith(".cells")}


@pytest.mark.parametrize("limit", [20_000, 150_000])
def test_files_that_may_not_grow_give_an_error_and_the_rest_is_done_later(tmp_path, limit):
    """Too small for a cell (20 kB), or for the raw raster of all cells (150 kB)."""
    file = raster(tmp_path / "s2.tif", pixels(0))
    (tmp_path / "out").mkdir()
    want = map_scene(OpenInputs((str(file),), HINTS), Mean, tmp_path / "want.tif", settings=SMALL)
    done = attempt(file, tmp_path / "out" / "a.tif", limit)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "write" in done.stdout or "full" in done.stdout
    assert final(tmp_path / "out") == set()
    again = attempt(file, tmp_path / "out" / "a.tif", 0)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out" / "a_proba.tif").read_bytes() == Path(want.files["proba"]).read_bytes()


@pytest.fixture
def tiny_disk(tmp_path):
    """A disk of its own, of eight megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True)
    if done.returncode:
        pytest.skip("a disk cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("left", [30_000, 600_000, 1_900_000])
def test_a_full_disk_is_named_nothing_is_half_written_and_the_map_goes_on(tmp_path, tiny_disk, left):
    file = raster(tmp_path / "s2.tif", pixels(0))
    want = map_scene(OpenInputs((str(file),), HINTS), Mean, tmp_path / "want.tif", settings=SMALL)
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(b"\0" * (8 * 2**20 - 16384 - left))
    with pytest.raises(SwathError, match="the disk is full") as why:
        map_scene(OpenInputs((str(file),), HINTS), Mean, tiny_disk / "a.tif", settings=SMALL)
    assert "finished cells are kept" in why.value.remedy and why.value.exit_code == 1
    assert final(tiny_disk) == {"ballast"}
    kept = len(list(tiny_disk.glob("a.tif.cells/*/*.json")))
    ballast.unlink()
    done = map_scene(OpenInputs((str(file),), HINTS), Mean, tiny_disk / "a.tif", settings=SMALL)
    assert done.computed == done.cells - max(0, kept - 1)
    assert Path(done.files["proba"]).read_bytes() == Path(want.files["proba"]).read_bytes()


def test_embed_reads_a_place_and_a_day_through_the_command(series, tmp_path, capsys):
    import geopandas

    from swath.cli.main import main

    for n, file in enumerate(sorted(series.glob("*.tif"))):
        file.rename(series / f"s2_2022{6 + n:02d}01.tif")
    lon0, lat0 = corner(next(series.glob("*.tif")), 140, 30)
    lon1, lat1 = corner(next(series.glob("*.tif")), 40, 130)
    args = ["embed", "swath-vit/nano", str(series), "--out", str(tmp_path / "e"), "--sensor", "sentinel2-l2a",
            "--bands", ",".join(KEYS), "--chip", "32", "--aoi", f"{lon0},{lat0},{lon1},{lat1}", "--json"]  # fmt: skip
    with pytest.raises(SystemExit) as done:
        main(args)
    assert done.value.code == 0
    frame = geopandas.read_parquet(tmp_path / "e" / "embeddings.parquet")
    assert len(frame) == json.loads(capsys.readouterr().out)["vectors"] == 9
    west, south, east, north = frame.total_bounds
    assert abs(west - lon0) < 2e-3 and abs(north - lat1) < 2e-3 and east > lon1 - 1e-3 and south < lat0 + 1e-3
