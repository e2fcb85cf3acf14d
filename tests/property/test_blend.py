"""Blending: weights sum to one for every size, tile, overlap, halo, alignment; zones cover each pixel once."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swath.core import UserError
from swath.deploy.blend import Axis, starts


@st.composite
def lattices(draw):
    align = draw(st.sampled_from([1, 1, 2, 3, 4]))
    tile = align * draw(st.integers(1, 70))
    overlap = draw(st.integers(0, max(0, tile - align)))
    return draw(st.integers(1, 900)), tile, overlap, draw(st.integers(0, tile)), align, draw(st.integers(1, 300))


@settings(max_examples=150, deadline=None)
@given(lattices())
def test_weights_sum_to_one_and_zones_cover(lattice):
    length, tile, overlap, halo, align, cell = lattice
    check(Axis.of(length, tile, overlap, halo=halo, align=align, cell=cell), length, tile, overlap, align)


@st.composite
def joined(draw):
    align = draw(st.sampled_from([1, 2, 4, 7, 8]))
    phase = align * draw(st.sampled_from([1, 2, 3, 4]))
    tile = phase * draw(st.integers(1, 16))
    overlap = draw(st.integers(0, tile - phase))
    return (
        draw(st.integers(1, 2500)),
        tile,
        overlap,
        draw(st.integers(0, tile)),
        (align, phase),
        draw(st.integers(1, 700)),
    )


@settings(max_examples=300, deadline=None)
@given(joined())
def test_so_they_do_where_features_are_joined(lattice):
    """Cells start and end on multiples of the phase, all but the last as long, and their tiles weigh what they do."""
    length, tile, overlap, halo, (align, phase), cell = lattice
    axis = Axis.of(length, tile, overlap, halo=halo, align=align, cell=cell, phase=phase)
    check(axis, length, tile, overlap, align)
    begins = [axis.places[a] for a, _ in axis.groups]
    assert all(v % phase == 0 for v in (*begins, *(axis.places[b - 1] + tile for _, b in axis.groups)))
    assert len(set(np.diff(begins[:-1]))) <= 1
    covered = np.zeros(length)
    for c in range(len(axis.groups)):
        low, high = axis.reach(c)
        weight = axis.weight(c)
        covered[low:high] += weight
        low, high = (v - low for v in axis.own(c))
        np.testing.assert_allclose(weight[low:high], 1.0, atol=1e-12)
    np.testing.assert_allclose(covered, 1.0, atol=1e-12)


@pytest.mark.parametrize(
    "tile,stride", [(224, 16), (224, 8), (224, 14), (64, 8), (64, 16), (128, 16), (512, 16), (256, 32)]
)
def test_joined_tiles_cost_a_fifth_at_most(tile, stride):
    """But for the last tile, of which a scene may need little."""
    for length in (2048, 3000, 10980, 20000, 100_000):
        axis = Axis.of(length, tile, tile // 14 // stride * stride, align=stride, phase=2 * stride)
        assert (len(axis.places) - 1) * tile / length <= 1.2**0.5, length


def check(axis, length, tile, overlap, align):
    total = np.zeros(axis.places[-1] + tile)
    for place, weight in zip(axis.places, axis.weights, strict=True):
        assert place % align == 0 and (weight >= 0).all()
        total[place : place + tile] += weight
    assert len(total) >= length
    np.testing.assert_allclose(total[:length], 1.0, atol=1e-12)
    gaps = np.diff(axis.places)
    assert (gaps > 0).all() and (tile - gaps >= overlap).all()
    assert axis.places[-1] < length
    zones = axis.zones()
    assert zones[0].start == 0 and zones[-1].stop == length
    assert all(a.stop == b.start for a, b in pairwise(zones))
    covered = np.zeros((len(axis.groups), length))
    for c, (first, stop) in enumerate(axis.groups):
        for i in range(first, stop):
            low, high = axis.support(i)
            covered[c, low:high] += axis.weights[i][low - axis.places[i] : high - axis.places[i]]
    for z in zones:
        np.testing.assert_allclose(covered[list(z.cells), z.start : z.stop].sum(0), 1.0, atol=1e-12)


def test_every_size_from_one_pixel():
    for length in range(1, 200):
        for tile, overlap in ((1, 0), (16, 0), (16, 5), (16, 15), (64, 8)):
            axis = Axis.of(length, tile, overlap)
            total = np.zeros(axis.places[-1] + tile)
            for place, weight in zip(axis.places, axis.weights, strict=True):
                total[place : place + tile] += weight
            np.testing.assert_allclose(total, 1.0, atol=1e-12)


def test_overlap_as_large_as_the_tile_is_refused():
    with pytest.raises(UserError, match="overlap"):
        starts(100, 16, 16)
    with pytest.raises(UserError, match="multiple"):
        starts(100, 15, 2, align=2)
