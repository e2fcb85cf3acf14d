"""Grids and windows: what always holds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swath.core import Grid, UserError, Window

sizes = st.integers(0, 300)
places = st.integers(-500, 500)
windows = st.builds(Window, places, places, sizes, sizes)
pixel = st.floats(0.1, 1000) | st.floats(-1000, -0.1)
grids = st.builds(
    lambda a, e, b, d, c, f, h, w: Grid("EPSG:32633", (a, b * a, c, d * e, e, f), (h, w)),
    pixel, pixel, st.floats(-0.3, 0.3), st.floats(-0.3, 0.3), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6),
    st.integers(1, 400), st.integers(1, 400),
)  # fmt: skip


@given(windows, windows)
def test_clip_is_the_intersection(a, b):
    both = a.clip(b)
    assert both.area == b.clip(a).area <= min(a.area, b.area)
    if both.area:
        assert a.contains(both) and b.contains(both)


@given(windows, st.integers(9, 97), st.integers(9, 97))
def test_split_partitions(window, h, w):
    pieces = list(window.split(h, w))
    assert sum(p.area for p in pieces) == window.area
    assert all(window.contains(p) for p in pieces)
    assert len({(p.row, p.col) for p in pieces}) == len(pieces)


@given(windows, st.integers(0, 40))
def test_halo_and_back(window, n):
    assert window.halo(n).halo(-n) == window


@given(windows, windows)
def test_within_and_shift_are_inverse(a, b):
    assert a.within(b).shift(b.row, b.col) == a


@given(grids, st.floats(-50, 500), st.floats(-50, 500))
def test_rowcol_inverts_xy(grid, row, col):
    r, c = grid.rowcol(*grid.xy(row, col))
    scale = 1e-6 * max(1.0, 1e6 / min(grid.gsd))
    assert math.isclose(r, row, abs_tol=scale) and math.isclose(c, col, abs_tol=scale)


@given(grids, st.integers(0, 50), st.integers(0, 50))
def test_a_crop_keeps_the_ground(grid, row, col):
    part = grid.crop(Window(row, col, 7, 9))
    assert part.shape == (7, 9)
    for want, got in zip(grid.xy(row + 2, col + 3), part.xy(2, 3), strict=True):
        assert math.isclose(want, got, rel_tol=1e-9, abs_tol=1e-6)


@given(grids, st.integers(1, 64), st.integers(1, 64))
def test_rescale_keeps_the_extent(grid, h, w):
    for want, got in zip(grid.extent, grid.rescale((h, w)).extent, strict=True):
        assert math.isclose(want, got, rel_tol=1e-9, abs_tol=1e-5)


@given(grids, st.integers(16, 200), st.integers(0, 20))
def test_tiles_cover_once(grid, size, halo):
    cores = [core for core, read in grid.tiles(size, halo) if read == core.halo(halo)]
    assert sum(c.area for c in cores) == grid.shape[0] * grid.shape[1]


@pytest.mark.parametrize("affine", [(0.0,) * 6, (1.0, 0, 0, 2.0, 0, 0), (float("nan"), 0, 0, 0, 1, 0)])
def test_a_grid_without_area_is_refused(affine):
    with pytest.raises(UserError):
        Grid("EPSG:4326", affine, (2, 2))


def test_negative_sizes_are_refused():
    with pytest.raises(UserError, match="-1 x 3"):
        Window(0, 0, -1, 3)
    with pytest.raises(UserError):
        list(Window(0, 0, 3, 3).split(0, 1))
