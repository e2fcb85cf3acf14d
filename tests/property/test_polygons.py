"""Streamed polygons are those of the whole raster, whatever the strips; areas and sums are exact."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio import features

from swath.deploy.polygons import Polygoniser


def streamed(raster, heights, nodata=None, weight=None):
    maker = Polygoniser(raster.shape[1], nodata)
    parts, row = [], 0
    for h in heights:
        if row < len(raster):
            parts.append(maker.feed(raster[row : row + h], None if weight is None else weight[row : row + h]))
            row += h
    if row < len(raster):
        parts.append(maker.feed(raster[row:], None if weight is None else weight[row:]))
    parts.append(maker.finish())
    join = [np.concatenate([getattr(p, f) for p in parts]) for f in ("polygons", "value", "pixels", "total")]
    return join


def whole(raster, nodata=None):
    mask = None if nodata is None else raster != nodata
    found = [(shapely.geometry.shape(g), int(v)) for g, v in features.shapes(raster, mask=mask, connectivity=4)]
    return np.array([g for g, _ in found], dtype=object), np.array([v for _, v in found])


def same(polygons, value, raster, nodata=None):
    want, want_value = whole(raster, nodata)
    assert len(polygons) == len(want)
    assert shapely.is_valid(polygons).all()

    def rows(shapes, values):
        return sorted((int(v), w) for v, w in zip(values, shapely.to_wkb(shapely.normalize(shapes)), strict=True))

    assert rows(polygons, value) == rows(want, want_value)


@st.composite
def rasters(draw):
    h, w = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    classes = draw(st.integers(1, 4))
    seed = draw(st.integers(0, 2**32 - 1))
    raster = np.random.default_rng(seed).integers(0, classes, (h, w), dtype=np.uint8)
    if draw(st.booleans()):
        raster = np.repeat(np.repeat(raster, 2, 0), 3, 1)
    return raster, draw(st.lists(st.integers(1, 9), max_size=8))


@settings(max_examples=200, deadline=None)
@given(rasters(), st.sampled_from([None, 0]))
def test_equal_to_the_whole_raster(case, nodata):
    raster, heights = case
    weight = (np.arange(raster.size) % 1013).reshape(raster.shape)
    polygons, value, pixels, total = streamed(raster, heights, nodata, weight)
    if nodata is not None and (raster == nodata).all():
        assert len(polygons) == 0
        return
    same(polygons, value, raster, nodata)
    np.testing.assert_array_equal(pixels, shapely.area(polygons))
    inside = features.rasterize(((g, i + 1) for i, g in enumerate(polygons)), raster.shape, dtype=np.int32)
    np.testing.assert_array_equal(total, np.bincount(inside.ravel(), weight.ravel(), len(polygons) + 1)[1:])


@pytest.mark.parametrize("name", ["rings", "spiral", "checkers", "diagonal"])
def test_hard_shapes(name):
    n = 41
    y, x = np.mgrid[:n, :n]
    raster = {
        "rings": (np.maximum(abs(y - n // 2), abs(x - n // 2)) % 2),
        "spiral": (np.hypot(y - n / 2, x - n / 2) + 3 * np.arctan2(y - n / 2, x - n / 2) / np.pi * 2) % 6 > 3,
        "checkers": (x + y) % 2,
        "diagonal": (x == y) | (x == n - 1 - y),
    }[name].astype(np.uint8)
    for heights in ([], [1] * n, [3, 7, 1, 20]):
        polygons, value, _, _ = streamed(raster, heights)
        same(polygons, value, raster)


def test_what_is_finished_is_not_held():
    maker = Polygoniser(64)
    rng = np.random.default_rng(0)
    held = []
    for _ in range(40):
        strip = np.repeat(rng.integers(0, 6, (16, 64), dtype=np.uint8), 1, 0)
        strip[-1] = 7 + np.arange(64) % 2
        maker.feed(strip)
        held.append(0 if maker.nodes is None else len(maker.nodes))
    assert max(held[20:]) <= 1.5 * max(held[2:20])
