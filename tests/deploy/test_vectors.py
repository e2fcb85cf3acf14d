import json

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from deploy_fakes import Conv, NoiseScene
from pyproj import Geod
from rasterio import features
from rasterio.transform import Affine
from test_map import run

from swath.core import Grid, UserError, Window
from swath.deploy import vectors
from swath.deploy.area import Ground, estimate_areas
from swath.deploy.map import Shaping
from swath.deploy.objects import Objects, join, place, suppress


@pytest.mark.parametrize("suffix", [".parquet", ".gpkg", ".fgb"])
def test_map_to_polygons(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(vectors, "STRIP_PIXELS", 1)
    gap = Window(30, 30, 40, 40)
    target = tmp_path / f"v{suffix}"
    out, done = run(tmp_path, NoiseScene(600, 130, gaps=(gap,)), Conv(), vectors=target)
    frame = geopandas.read_parquet(target) if suffix == ".parquet" else geopandas.read_file(target)
    with rasterio.open(out) as file, rasterio.open(done.files["confidence"]) as sure:
        classes, p = file.read(1), sure.read(1) / 1e4
        found = features.shapes(classes, classes != 255, 4, file.transform)
        want = sorted((int(v), shapely.to_wkb(shapely.normalize(shapely.geometry.shape(g)))) for g, v in found)
        affine = file.transform
    got = sorted(zip(frame["value"], shapely.to_wkb(shapely.normalize(frame.geometry.values)), strict=True))
    assert got == want and frame.crs.to_epsg() == 32633
    assert frame["class"].tolist() == [f"class {v}" for v in frame["value"]]
    assert frame["pixels"].sum() == (classes != 255).sum()
    for i in np.argsort(-frame["pixels"].to_numpy())[:5]:
        inside = features.rasterize([frame.geometry[i]], classes.shape, transform=affine) == 1
        assert abs(frame["probability"][i] - p[inside].mean()) < 1e-5
    assert not list(tmp_path.glob(".*"))


def test_small_ones_go_and_lines_get_simpler(tmp_path):
    out, _ = run(tmp_path, NoiseScene(200, 200), Conv())
    every, big = tmp_path / "a.parquet", tmp_path / "b.parquet"
    vectors.vectorise(out, every)
    assert vectors.vectorise(out, big, shaping=Shaping(min_area=1500.0, simplify=15.0)) < len(
        geopandas.read_parquet(every)
    )
    frame = geopandas.read_parquet(big)
    assert frame["area_m2"].min() >= 1500 and frame.geometry.is_valid.all()
    assert (
        frame.geometry.count_coordinates().sum() < geopandas.read_parquet(every).geometry.count_coordinates().sum() / 2
    )


@pytest.mark.parametrize(
    "crs,affine",
    [
        ("EPSG:32633", (10, 0, 300000, 0, -10, 7000000)),
        ("EPSG:3857", (10, 0, 1500000, 0, -10, 8500000)),
        ("EPSG:4326", (1e-3, 0, 179.5, 0, -1e-3, 65)),
        ("EPSG:4326", (0.05, 0, -60, 0, 0.05, -80)),
        ("EPSG:32605", (7, 7, 300000, 7, -7, 7000000)),
        ("EPSG:3413", (100, 0, -100000, 0, -100, 100000)),
    ],
)
def test_areas_are_geodesic_to_a_thousandth(crs, affine):
    from pyproj import Transformer

    grid = Grid(crs, tuple(float(v) for v in affine), (2000, 2000))
    ground = Ground(grid)
    change = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    rng = np.random.default_rng(0)
    for _ in range(12):
        size = rng.integers(3, 1500)
        row, col = rng.integers(0, 2000 - size, 2)
        if crs == "EPSG:3413" and row <= 1000 <= row + size and col <= 1000 <= col + size:
            continue
        shape = shapely.box(col, row, col + size, row + size)
        dense = shapely.segmentize(shape, size / 50)
        xy = shapely.get_coordinates(dense)
        x, y = grid.xy(xy[:, 1], xy[:, 0])
        lon, lat = change.transform(x, y)
        want = abs(Geod(ellps="WGS84").polygon_area_perimeter(lon, lat)[0])
        got = ground.areas(np.array([shape]))[0]
        assert abs(got / want - 1) < 1e-3, (size, row, col)


def test_area_estimates_are_those_of_olofsson():
    """The worked example of Olofsson et al. 2014: deforestation 21,158 ha +- 6,158 ha."""
    matrix = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
    pixels = np.array([200_000, 150_000, 3_200_000, 6_450_000]) * 30 * 30 / 1e4
    out = estimate_areas(matrix, pixels.tolist(), ["deforestation", "gain", "stable forest", "stable non-forest"])
    assert round(out[0].mapped) == 18000
    assert abs(out[0].area - 21158) < 2 and abs(1.959964 * out[0].standard_error - 6158) < 10
    assert abs(out[0].users - 0.88) < 1e-9 and abs(out[0].producers - 0.7487) < 1e-3
    assert abs(sum(c.area for c in out) - pixels.sum()) < 1e-6
    with pytest.raises(UserError, match="fewer than two"):
        estimate_areas(np.array([[1, 0], [0, 5]]), [1.0, 2.0], ["a", "b"])


def test_boxes_meet_across_tiles():
    scene = Objects(
        np.array([[40.0, 40, 60, 60], [10, 10, 20, 20], [41, 41, 61, 61]]),
        np.array([0.9, 0.8, 0.7]),
        np.array([0, 0, 0]),
    )
    alone = suppress(scene)
    assert alone.score.tolist() == [0.9, 0.8]
    parts = []
    for tile in (Window(0, 0, 64, 50), Window(0, 40, 64, 50)):
        local = Objects(scene.xyxy - [tile.col, tile.row] * 2, scene.score, scene.label)
        parts.append(place(local, tile, Window(0, 0, 64, 45) if tile.col == 0 else Window(0, 45, 64, 45)))
    np.testing.assert_allclose(suppress(join(parts[::-1])).xyxy, alone.xyxy)
    other = Objects(scene.xyxy, scene.score, np.array([0, 0, 1]))
    assert len(suppress(other)) == 3


def test_a_chain_of_boxes_is_suppressed_greedily():
    boxes = Objects(
        np.array([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]]), np.array([0.9, 0.8, 0.7]), np.zeros(3, np.int64)
    )
    assert suppress(boxes, iou=0.3).score.tolist() == [0.9, 0.7]


def test_item_and_sidecars(tmp_path):
    import pystac

    out, done = run(tmp_path, NoiseScene(steps=2), Conv(), vectors=tmp_path / "v.parquet")
    item = pystac.Item.from_dict(json.loads(done.files["item"].read_text()))
    from pystac.validation import validate_dict

    plain = json.loads(done.files["item"].read_text())
    assert validate_dict({**plain, "stac_extensions": []})  # the core schema lies in pystac; extensions need a network
    assert set(item.assets) == {"class", "proba", "confidence", "quicklook", "vectors"}
    assert item.properties["start_datetime"] == "2022-01-08T00:00:00Z" and item.datetime is None
    west, south, east, north = item.bbox
    assert 14.9 < west < east < 15.1 and 47.8 < south < north < 47.9
    with rasterio.open(out) as file:
        assert file.tags()["SWATH_WEIGHTS"] == "conv-3" and file.overviews(1) == [] and file.nodata == 255
        assert file.colormap(1)[1][:3] == (0xF1, 0xA3, 0x40)
        assert file.transform == Affine(10, 0, 500000, 0, -10, 5300000)
    assert "<Category>class 2</Category>" in (tmp_path / "a.tif.aux.xml").read_text()
