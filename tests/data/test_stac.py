"""STAC on a local server: catalogue and API, COGs by range requests, masks, baselines, signing, hostile items."""

import json
from datetime import UTC, datetime

import numpy as np
import pystac
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data.serve import serve

from swath.core import UserError, Window
from swath.data.sources.stac import StacConfig
from swath.data.stac import Query, open_stac, search

BOX = (3.001, 45.12, 3.045, 45.14)
BANDS = {"red": ("B04", 10), "nir": ("B08", 10), "swir16": ("B11", 20)}


def cog(path, array, gsd):
    h, w = array.shape
    with rasterio.open(
        path, "w", driver="COG", height=h, width=w, count=1, dtype=array.dtype, crs="EPSG:32631", nodata=0,
        transform=rasterio.transform.from_origin(500000, 5000000, gsd, gsd), blocksize=128, compress="deflate",
    ) as out:  # fmt: skip
        out.write(array[None])


def catalogue(root, url, dates=(("2021-06-01", "03.00"), ("2022-06-01", "04.00")), **properties):
    """Two dates of one tile, 512 x 512 at 10 m, with SCL."""
    top = pystac.Catalog("c", "a catalogue")
    for n, (date, baseline) in enumerate(dates):
        extra = {"s2:processing_baseline": baseline, "proj:code": "EPSG:32631", "eo:cloud_cover": 10.0 + 30 * n}
        when = datetime.fromisoformat(date + "T10:30:00").replace(tzinfo=UTC)
        box = [3.0, 44.9, 3.1, 45.2]
        shape = {"type": "Polygon", "coordinates": [[[3, 44.9], [3.1, 44.9], [3.1, 45.2], [3, 45.2], [3, 44.9]]]}
        item = pystac.Item(f"i{n}", shape, box, when, {**extra, **properties}, collection="sentinel-2-l2a")
        rng = np.random.default_rng(n)
        for band, (name, gsd) in BANDS.items():
            array = rng.integers(2000, 6000, (5120 // gsd, 5120 // gsd)).astype("uint16")
            cog(root / f"i{n}_{name}.tif", array, gsd)
            asset = pystac.Asset(f"{url}/i{n}_{name}.tif", media_type=pystac.MediaType.COG, roles=["data"])
            asset.extra_fields["eo:bands"] = [{"name": name, "common_name": band}]
            item.add_asset(name if n else band, asset)
        scl = np.full((256, 256), 4, "uint8")
        scl[:, 128:] = 9
        cog(root / f"i{n}_scl.tif", scl, 20)
        item.add_asset("scl", pystac.Asset(f"{url}/i{n}_scl.tif", roles=["data"]))
        top.add_item(item)
    top.normalize_and_save(str(root), pystac.CatalogType.SELF_CONTAINED)
    return f"{url}/catalog.json"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("stac")
    with serve(root) as server:
        server.catalogue = catalogue(root, server.url)
        server.root = root
        yield server


def query(site, **more):
    return Query(site.catalogue, BOX, bands=("red", "nir", "swir16"), **more)


def test_windows_come_by_range_requests_with_each_dates_own_offset(site):
    scene = open_stac(query(site))
    assert scene.grid.crs == "EPSG:32631" and [s.id for s in scene.sensors] == ["sentinel2-l2a", "sentinel2-l2a-20m"]
    site.asked.clear()
    batch = scene.read(Window(0, 0, 32, 32))
    layer = batch.layers["sentinel2-l2a"]
    assert layer.shape == (1, 2, 2, 32, 32) and batch.layers["sentinel2-l2a-20m"].shape == (1, 2, 1, 16, 16)
    assert layer.times.tolist() == [[18779, 19144]]
    with rasterio.open(site.root / "i1_B08.tif") as data:
        row, col = data.index(scene.grid.affine[2] + 5, scene.grid.affine[5] - 5)
        raw = data.read(1)[row : row + 32, col : col + 32]
    np.testing.assert_allclose(layer.x[0, 1, 1], raw * 1e-4 - 0.1, atol=1e-6)
    with rasterio.open(site.root / "i0_B04.tif") as data:
        raw = data.read(1)[row : row + 32, col : col + 32]
    np.testing.assert_allclose(layer.x[0, 0, 0], raw * 1e-4, atol=1e-6)
    pixels = [r for p, _, r in site.asked if p.endswith(".tif")]
    assert pixels and all(r for r in pixels if r is not None)
    whole = (site.root / "i0_B04.tif").stat().st_size
    for path in {p for p, _, _ in site.asked if p.endswith("B04.tif")}:
        read = sum(_span(r) for p, _, r in site.asked if p == path)
        assert 0 < read < whole, "less than the file is fetched"


def _span(header):
    if not header:
        return 0
    start, stop = header.removeprefix("bytes=").split("-")
    return int(stop) - int(start) + 1 if stop else 10**9


def test_filters_masks_and_one_grid_when_asked(site):
    assert len(search(query(site, cloud=20.0))) == 1
    assert [i.id for i in search(query(site, dates="2022-01-01/.."))] == ["i1"]
    with pytest.raises(UserError, match="no item fits"):
        search(query(site, dates="2019-01-01/2019-12-31"))
    scene = open_stac(query(site, mask="scl", resample="bilinear"))
    assert [s.id for s in scene.sensors] == ["sentinel2-l2a"]
    layer = scene.read(Window(0, 0, *scene.grid.shape)).layers["sentinel2-l2a"]
    col = round((500000 + 2560 - scene.grid.affine[2]) / 10)
    assert not layer.valid[..., col:].any() and layer.valid[0, 0, 0, 200, : col - 1].all()


def test_a_source_of_windows(site):
    source = StacConfig(site.catalogue, BOX, bands=("red", "nir"), size=64).build()
    assert len(source) == len(set(source.names)) > 4
    assert source.sample(1, {"sentinel2-l2a": ["nir"]}).layers["sentinel2-l2a"].shape == (1, 2, 1, 64, 64)


def test_an_api_is_searched(site):
    found = [i.to_dict() for i in search(query(site))]
    links = [
        {"rel": r, "href": f"{site.url}/{p}"} for r, p in (("root", "api"), ("self", "api"), ("search", "api/search"))
    ]
    conforms = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search",
                "https://api.stacspec.org/v1.0.0/item-search#query"]  # fmt: skip
    api = {"type": "Catalog", "id": "a", "description": "a", "stac_version": "1.0.0", "conformsTo": conforms,
           "links": links}  # fmt: skip
    seen = []

    def answer(handler):
        length = int(handler.headers.get("Content-Length") or 0)
        seen.append(json.loads(handler.rfile.read(length) or b"{}"))
        return json.dumps({"type": "FeatureCollection", "features": found, "links": []}).encode(), 200

    site.hooks.update({"/api": lambda h: (json.dumps(api).encode(), 200), "/api/search": answer})
    items = search(Query(f"{site.url}/api", BOX, "sentinel-2-l2a", "2021-01-01/2023-01-01", 50.0))
    assert [i.id for i in items] == ["i0", "i1"]
    assert seen[0]["collections"] == ["sentinel-2-l2a"] and seen[0]["query"]["eo:cloud_cover"] == {"lte": 50.0}


def test_a_private_server_needs_the_signature(tmp_path):
    hooks = {"/token": lambda h: (b'{"token": "sig=secret"}', 200)}
    with serve(tmp_path, key="sig=secret", hooks=hooks) as server:
        url = catalogue(tmp_path, server.url, dates=(("2022-06-01", "04.00"),))
        with pytest.raises(UserError, match="cannot be read"):
            open_stac(Query(url, BOX, bands=("red",))).read(Window(0, 0, 8, 8))
        source = StacConfig(url, BOX, bands=("red",), token=f"{server.url}/token").build()
        assert source.sample(0).layers["sentinel2-l2a"].valid.all()
        assert "secret" not in source.fingerprint and "secret" not in source.name


def test_an_item_without_baseline_is_refused(tmp_path):
    with serve(tmp_path) as server:
        url = catalogue(tmp_path, server.url, dates=(("2022-06-01", None),))
        with pytest.raises(UserError, match="neither scale and offset nor its processing baseline"):
            open_stac(Query(url, BOX, bands=("red",))).read(Window(0, 0, 8, 8))


ITEM = {
    "type": "Feature", "stac_version": "1.0.0", "id": "i", "collection": "sentinel-2-l2a",
    "geometry": {"type": "Point", "coordinates": [3.01, 45.1]},
    "bbox": [3, 44, 4, 46], "properties": {"datetime": "2022-06-01T00:00:00Z"}, "links": [],
    "assets": {"red": {"href": "missing.tif", "raster:bands": [{"scale": 1, "offset": 0}]}},
}  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=8), x, max_size=4),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([*ITEM, "properties.datetime", "assets.red", "properties.proj:code", "top"]), JSON)
def test_hostile_items_are_a_named_error(tmp_path, place, value):
    item = json.loads(json.dumps(ITEM))
    head, _, tail = place.partition(".")
    if place == "top":
        item = value
    elif tail:
        item[head][tail] = value
    else:
        item[head] = value
    file = tmp_path / "item.json"
    file.write_text(json.dumps(item))
    try:
        scene = open_stac(Query(str(file), BOX, bands=("red",)))
        scene.read(Window(0, 0, 2, 2))
    except UserError as error:
        assert error.what


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_hostile_bytes_are_a_named_error(tmp_path, data):
    file = tmp_path / "catalog.json"
    file.write_bytes(data)
    with pytest.raises(UserError) as caught:
        search(Query(str(file), BOX))
    assert str(file) in caught.value.where
