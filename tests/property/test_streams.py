"""Orders and chunks hold for any lengths, weights, worlds and arrays."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from swath.data.streams.codec import expand, shrink, squeeze, widen
from swath.data.streams.order import BLOCK, Mixture

SEEDS = st.integers(0, 2**40)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), SEEDS, st.integers(0, 5))
def test_an_epoch_is_a_permutation(n, seed, epoch):
    draws = [Mixture((n,), seed=seed).at(p) for p in range(epoch * n, (epoch + 1) * n)]
    assert sorted(d.index for d in draws) == list(range(n)) and {d.epoch for d in draws} == {epoch}


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 900), st.floats(0.05, 1)), min_size=2, max_size=4), SEEDS, st.integers(0, 3))
def test_a_block_holds_the_weights_and_no_repeat_too_early(sources, seed, block):
    lengths, weights = zip(*sources, strict=True)
    mixture = Mixture(lengths, weights, seed)
    draws = [mixture.at(p) for p in range(block * BLOCK, (block + 1) * BLOCK)]
    counts = Counter(d.source for d in draws)
    for k, weight in enumerate(weights):
        assert abs(counts[k] - weight / sum(weights) * BLOCK) < 1
        mine = Counter((d.epoch, d.index) for d in draws if d.source == k)
        assert max(mine.values()) == 1  # within a pass no sample comes twice


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 8), SEEDS, st.integers(0, 10_000))
def test_ranks_share_a_batch(n, extra, world, seed, start):
    mixture, size = Mixture((n, extra), (0.5, 0.5), seed), world + extra
    whole = mixture.part(start, size)
    assert [d for r in range(world) for d in mixture.part(start, size, r, world)] == whole
    assert mixture.part(start + 1, size)[:-1] == whole[1:]


ARRAYS = st.sampled_from(["uint8", "uint16", "int16", "int64", "float32", "float64", "bool"]).flatmap(
    lambda t: hnp.arrays(t, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=20))
)


@settings(max_examples=120, deadline=None)
@given(ARRAYS, st.sampled_from(["lz4hc", "zstd", "lz4", "none"]))
def test_chunks_come_back(array, codec):
    out = np.empty(array.shape, array.dtype)
    expand(squeeze(array, codec), out, codec)
    assert out.tobytes() == array.tobytes()


@settings(max_examples=80, deadline=None)
@given(
    hnp.arrays("uint16", (2, 1, 6, 7)), hnp.arrays("bool", (1, 6, 7)),
    st.sampled_from([(1e-4, 0.0), (1e-4, -0.1), (1.0, 0.0), (2.75e-5, -0.2), (0.01, -3.0)]),
)  # fmt: skip
def test_whole_numbers_are_found_and_exact(raw, valid, pair):
    x = widen(raw, *pair)
    x[:, ~valid] = 0
    kept, how = shrink(x, valid[None], [pair, pair])
    again = np.stack([widen(kept[i], how.scale[i], how.offset[i]) for i in range(2)]) if how.scale else kept
    assert np.array_equal(again[:, valid], x[:, valid])
    assert kept.dtype.kind in "ui"


@settings(max_examples=60, deadline=None)
@given(hnp.arrays("float32", (2, 1, 5, 5), elements=st.floats(-50, 50, width=32)))
def test_other_numbers_stay_as_they_are(x):
    valid = np.ones((1, 5, 5), bool)
    kept, how = shrink(x, valid[None], [(1.0, 0.0)] * 2)
    again = np.stack([widen(kept[i], how.scale[i], how.offset[i]) for i in range(2)]) if how.scale else kept
    assert np.array_equal(again, x)
