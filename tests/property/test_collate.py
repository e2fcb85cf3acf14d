"""Collate round trip: any mixture of series lengths and missing sensors comes back as it went in."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swath.core import SENSORS, Batch, Boxes, Label, Layer, UserError, Where, collate

RED = SENSORS.get("sentinel2-l2a").select(["red", "nir"])
SAR = SENSORS.get("sentinel1-grd")


def sample(key, steps, radar, labelled, seed=0):
    g = torch.Generator().manual_seed(seed + key)
    x = torch.rand(1, steps, 2, 6, 5, generator=g)
    x[x < 0.05] = float("nan")
    layers = {RED.id: Layer.of(RED, x, times=torch.arange(steps)[None] * 10 + key)}
    if radar:
        layers[SAR.id] = Layer.of(SAR, torch.randn(1, 1, 2, 3, 3, generator=g))
    mask = torch.randint(0, 3, (1, 6, 5), generator=g)
    labels = {"cover": Label("mask", mask, mask != 2)} if labelled else {}
    where = Where(torch.tensor([key]), torch.tensor([[10.0 + key, 45.0]], dtype=torch.float64), (), (f"s{key}",))
    return Batch(layers, where, labels)


rows = st.tuples(st.integers(1, 5), st.booleans(), st.booleans())


@settings(deadline=None, max_examples=40)
@given(st.lists(rows, min_size=1, max_size=5))
def test_round_trip(specs):
    samples = [sample(k, *spec) for k, spec in enumerate(specs)]
    batch = collate(samples)
    assert len(batch) == len(samples)
    assert batch.where.key.tolist() == list(range(len(samples)))
    for k, (one, (steps, radar, labelled)) in enumerate(zip(samples, specs, strict=True)):
        back = batch[k]
        layer, want = back.layers[RED.id], one.layers[RED.id]
        assert torch.equal(layer.x[:, :steps], want.x) and torch.equal(layer.valid[:, :steps], want.valid)
        assert torch.equal(layer.times[:, :steps], want.times) and not layer.valid[:, steps:].any()
        if SAR.id in batch.layers:
            assert bool(back.layers[SAR.id].valid.any()) == radar
        if "cover" in batch.labels:
            label = back.labels["cover"]
            assert torch.equal(label.valid, one.labels["cover"].valid) if labelled else not label.valid.any()


@given(st.permutations(range(4)))
@settings(deadline=None, max_examples=10)
def test_order_is_kept(order):
    samples = [sample(k, 2, True, True) for k in range(4)]
    batch = collate([samples[k] for k in order])
    assert batch.where.names == tuple(f"s{k}" for k in order)
    again = batch[[order.index(k) for k in range(4)]]
    assert torch.equal(again.layers[RED.id].x, collate(samples).layers[RED.id].x)


def test_grouping_changes_nothing():
    a, b, c = (sample(k, k + 1, k == 1, k != 1) for k in range(3))
    left, right = collate([collate([a, b]), c]), collate([a, collate([b, c])])
    for name, layer in left.layers.items():
        assert torch.equal(layer.x, right.layers[name].x) and torch.equal(layer.valid, right.layers[name].valid)


def test_what_differs_is_refused_in_words():
    other = sample(1, 2, False, False)
    x = other.layers[RED.id].x[..., :4, :4]
    small = Batch({RED.id: Layer.of(RED, x, times=other.layers[RED.id].times)}, other.where)
    with pytest.raises(UserError, match="crop or resample"):
        collate([sample(0, 2, False, False), small])
    bands = Batch({RED.id: other.layers[RED.id].select(["nir"])}, other.where)
    with pytest.raises(UserError, match="bands"):
        collate([sample(0, 2, False, False), bands])
    with pytest.raises(UserError, match="empty"):
        collate([])


def test_boxes_collate():
    def boxed(key, n):
        boxes = Boxes(torch.rand(n, 4), torch.zeros(n, dtype=torch.int64))
        label = Label("boxes", torch.tensor([[6.0, 5.0]]), torch.ones(1, 2, dtype=torch.bool), (boxes,))
        return Batch(sample(key, 1, False, False).layers, sample(key, 1, False, False).where, {"things": label})

    batch = collate([boxed(0, 3), sample(1, 1, False, False), boxed(2, 1)])
    assert [len(o.classes) for o in batch.labels["things"].objects] == [3, 0, 1]
    assert not batch.labels["things"].valid[1].any()
