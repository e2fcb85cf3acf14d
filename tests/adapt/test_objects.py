"""Objects on any grid: the heads' canvas, anchors about cells, FCOS's assignment; and that all of it learns."""

from dataclasses import dataclass, replace

import pytest
import tiny_adapt as tiny
import torch
from test_tune import make

from swath.adapt.bundle import Bundle
from swath.adapt.fcos import FCOS, around
from swath.adapt.fields import as_mask
from swath.adapt.objects import ObjectScores
from swath.adapt.prepare import prepare
from swath.adapt.regions import Anchors, cut, pasted, pooled
from swath.adapt.tune import tune
from swath.core.batch import Batch, Boxes, collate
from swath.train import optim
from swath.train.config import LoopConfig


@dataclass
class CoarseBoxes(tiny.ObjectSource):
    """The same objects, their boxes on a grid of half the pixels (as labels at 2 m beside an image at 1 m)."""

    def sample(self, index, bands=None):
        batch = super().sample(index)
        label = batch.labels["what"]
        o = label.objects[0]
        half = Boxes(o.xyxy / 2, o.classes, o.masks[:, ::2, ::2])
        coarse = replace(label, value=label.value // 2, objects=(half,))
        return Batch(batch.layers, batch.where, {"what": coarse})


def overfit(tmp_path, task, source, steps):
    """Train on eight chips and score the same: no generalisation is asked."""
    ready = prepare(make(tmp_path, task=task), source)
    module, batch = ready.task, collate([source.sample(i) for i in range(8)])
    loop = LoopConfig(steps=steps, lr=2e-3, warmup=0.1)
    optimizer = optim.build(module, loop)
    for step in range(steps):
        module.train()
        module(batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 5.0)
        for group in optimizer.param_groups:
            group["lr"] = loop.lr * optim.lr_factor(loop, step, steps)
        optimizer.step()
        optimizer.zero_grad()
    scores = module.eval().scores()
    with torch.no_grad():
        scores.update(module.predict(batch), batch)
    return scores.compute()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "source"),
    [
        ({"kind": "detect", "width": 32, "head": "fcos"}, tiny.ObjectSource),
        ({"kind": "detect", "width": 32, "head": "fcos"}, CoarseBoxes),
        ({"kind": "detect", "width": 32}, CoarseBoxes),
        ({"kind": "instances", "width": 32}, tiny.ObjectSource),
    ],
)
def test_eight_chips_are_learned_by_heart(task, source, tmp_path):
    found = overfit(tmp_path, task, source(n=16), 120)
    assert found["map_50"] > 0.8


def test_the_canvas_follows_the_label(tmp_path):
    for source, factor in ((tiny.ObjectSource(n=10), 1.0), (CoarseBoxes(n=10), 2.0)):
        module = prepare(make(tmp_path, task="detect"), source).task
        batch = source.sample(0)
        canvas = module._canvas(module.features(batch), batch)
        assert canvas.size == (32, 32) and canvas.factor == factor and canvas.images == [(32, 32)]
        blind = Batch(batch.layers, batch.where)
        assert module._canvas(module.features(blind), blind) == canvas


def test_anchors_stand_about_their_cells():
    images = type("Images", (), {"image_sizes": [(32, 32)]})
    first, *_ = Anchors([4.0, 8.0])(images, [torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4)])
    assert first.shape == ((64 + 16) * 6, 4)
    middle = (first[:, :2] + first[:, 2:]) / 2
    torch.testing.assert_close(middle[0], torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(middle[64 * 6], torch.tensor([4.0, 4.0]))
    sides = (first[:6, 2:] - first[:6, :2]).prod(1).sqrt()
    torch.testing.assert_close(sides, torch.tensor([8.0, 8 * 2**0.5] * 3))


def test_the_finest_level_learns_what_a_pixel_is(tmp_path):
    source = tiny.ObjectSource(n=10)
    module = prepare(make(tmp_path, task="instances"), source).task
    batch = source.sample(0)
    features, label = module.features(batch), batch.labels["what"]
    canvas, layer = module._canvas(features, batch), batch.layers[tiny.SENSOR.id]
    truth = as_mask(label, 1).value
    told = 20.0 * torch.nn.functional.one_hot(truth, 3).movedim(-1, 1).float()
    assert set(truth.unique().tolist()) == {0, 1, 2} and float(module._pixels(told, canvas, label, batch)) < 1e-3
    wrong = told.roll(1, 1)
    assert float(module._pixels(wrong, canvas, label, batch)) > 10
    hidden = Batch({tiny.SENSOR.id: replace(layer, valid=torch.zeros_like(layer.valid))}, batch.where)
    assert float(module._pixels(wrong, canvas, label, hidden)) == 0.0, "nobody sees these pixels"
    assert "pixels" in module(batch).terms
    assert "pixels" not in prepare(make(tmp_path, task="detect"), source).task(batch).terms


def squares(n=32, seed=0):
    """Boxes of three to twelve pixels at any place, and their masks of pixels."""
    g = torch.Generator().manual_seed(seed)
    sides = torch.randint(3, 13, (20, 2), generator=g).float()
    corner = (torch.rand(20, 2, generator=g) * (n - sides)).floor()
    boxes = torch.cat([corner, corner + sides], 1)
    y, x = torch.meshgrid(torch.arange(n) + 0.5, torch.arange(n) + 0.5, indexing="ij")
    inside = (x > boxes[:, 0, None, None]) & (x < boxes[:, 2, None, None])
    return boxes, inside & (y > boxes[:, 1, None, None]) & (y < boxes[:, 3, None, None])


def test_a_mask_that_is_cut_out_and_pasted_is_the_same_mask():
    boxes, masks = squares()
    half = masks & (torch.arange(32) < ((boxes[:, 0] + boxes[:, 2]) / 2)[:, None]).unsqueeze(1)  # their left halves
    for truth in (masks, half):
        drawn = cut(truth, boxes, torch.arange(20))
        assert torch.equal(pasted(drawn, boxes, (32, 32)), truth)


def test_a_box_reads_what_lies_inside_it():
    """A map that says where it is: the mean of a box's features is the box's middle, on every level."""
    boxes, _ = squares()
    strides = [2.0, 4.0, 8.0]
    maps = []
    for s in strides:
        at = (torch.arange(int(96 / s)) + 0.5) * s
        y, x = torch.meshgrid(at, at, indexing="ij")
        maps.append(torch.stack([x, y])[None])
    wide = torch.cat([boxes + 32.0, torch.tensor([[20.0, 30.0, 60.0, 70.0], [16.0, 16.0, 80.0, 80.0]])])
    found = pooled(maps, [wide], strides, 7)
    assert {
        int(v) for v in torch.bucketize((wide[:, 2:] - wide[:, :2]).prod(1).sqrt(), torch.tensor([16.0, 32.0]))
    } == {0, 2}
    torch.testing.assert_close(found.mean((2, 3)), (wide[:, :2] + wide[:, 2:]) / 2)
    rough = [m.bfloat16() for m in maps]
    assert torch.equal(pooled(rough, [wide], strides, 7), pooled([m.float() for m in rough], [wide], strides, 7))
    two = [torch.cat([m, -m]) for m in maps]
    torch.testing.assert_close(pooled(two, [wide[:3], wide[3:]], strides, 7), torch.cat([found[:3], -found[3:]]))


def test_nothing_found_is_no_mask():
    assert pasted(torch.zeros(0, 28, 28), torch.zeros(0, 4), (8, 9)).shape == (0, 8, 9)


def test_the_pyramid_goes_down_to_the_small_objects(tmp_path):
    source = tiny.ObjectSource(n=10)
    module = prepare(make(tmp_path, task="detect"), source).task
    boxes = torch.cat([source.sample(i).labels["what"].objects[0].xyxy for i in source.splits()["train"]])
    small = float((boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt().quantile(0.1))
    assert 2 * module.strides[0] <= max(small, 4.0) < 4 * module.strides[0]
    maps = module._maps(module.features(source.sample(0)), source.sample(0))
    assert [int(32 / s) for s in module.strides] == [m.shape[-1] for m in maps]


def test_fcos_gives_every_object_cells_of_a_fitting_level():
    head = FCOS(8, 2, [4.0, 8.0, 16.0])
    maps = [torch.zeros(1, 8, n, n) for n in (16, 8, 4)]
    logits, sides, middle, centres, strides = head._say(maps)
    assert logits.shape == (1, 336, 2) and middle.shape == (1, 336) and centres.shape == (336, 2)
    boxes = torch.tensor([[4.0, 4.0, 14.0, 14.0], [0.0, 0.0, 60.0, 62.0]])
    index = head._assign(centres, strides, boxes)
    assert set(strides[index == 0].tolist()) == {4.0} and set(strides[index == 1].tolist()) <= {8.0, 16.0}
    assert bool((index == 0).any()) and bool((index == 1).any())
    where = (index == 0).nonzero()[0]
    away = torch.cat([centres[where] - boxes[:1, :2], boxes[:1, 2:] - centres[where]], 1)
    torch.testing.assert_close(around(centres[where], away), boxes[:1])
    empty = head.losses(maps, [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}])
    assert all(bool(torch.isfinite(v)) for v in empty.values()) and bool((sides > 0).all())


def test_scores_match_each_truth_once():
    truth = Boxes(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.zeros(1, dtype=torch.int64))
    batch = tiny.ObjectSource(n=4).sample(0)
    one = Batch({}, batch.where, {"what": replace(batch.labels["what"], objects=(truth,))})
    scores = ObjectScores("what", ("house",), "bbox")
    told = {"boxes": truth.xyxy.repeat(2, 1)[None], "scores": torch.tensor([[0.9, 0.8]]), "counts": torch.tensor([2]),
            "classes": torch.zeros(1, 2, dtype=torch.int64)}  # fmt: skip
    scores.update(told, one)
    found = scores.compute()
    assert found["map_50"] == pytest.approx(1.0) and found["object_precision"] == 0.5
    assert found["object_recall"] == 1.0 and found["object_f1"] == pytest.approx(2 / 3)


def test_object_scores_have_intervals_over_samples():
    source = tiny.ObjectSource(n=12)
    scores = ObjectScores("what", source.labels["what"].classes, "bbox")
    for i in range(12):
        batch = source.sample(i)
        truth = batch.labels["what"].objects[0]
        n = len(truth.classes) if i % 2 else 0  # every second sample is missed whole
        scores.update({"boxes": truth.xyxy[None, :n], "scores": torch.ones(1, n), "classes": truth.classes[None, :n],
                       "counts": torch.tensor([n])}, batch)  # fmt: skip
    point, spans = scores.matched(), scores.intervals(0, 200)
    assert set(spans) == {"object_precision", "object_recall", "object_f1"}
    low, high = spans["object_recall"]
    assert 0 < low < point["object_recall"] < high < 1 and spans["object_precision"] == (1.0, 1.0)


def told_of(boxes, classes, masks=None):
    n = len(boxes)
    told = {"boxes": boxes[None], "scores": torch.full((1, n), 0.9), "counts": torch.tensor([n]),
            "classes": torch.tensor(classes)[None]}  # fmt: skip
    return told if masks is None else told | {"masks": masks[None]}


def test_an_object_of_another_class_is_no_match():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
    truth = Boxes(boxes, torch.tensor([0, 1]))
    batch = tiny.ObjectSource(n=4).sample(0)
    one = Batch({}, batch.where, {"what": replace(batch.labels["what"], objects=(truth,))})
    for classes, f1 in (([0, 1], 1.0), ([0, 0], 0.5), ([1, 0], 0.0)):
        scores = ObjectScores("what", ("house", "pool"), "bbox")
        scores.update(told_of(boxes, classes), one)
        assert scores.matched()["object_f1"] == f1


def test_instances_match_by_their_masks():
    """Two halves of one square, cut along its diagonal, have one box; their masks have nothing in common."""
    upper = torch.ones(10, 10).triu(1).bool()
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    truth = Boxes(box, torch.zeros(1, dtype=torch.int64), upper[None])
    batch = tiny.ObjectSource(n=4).sample(0)
    one = Batch({}, batch.where, {"what": replace(batch.labels["what"], objects=(truth,))})
    for kind, mask, f1 in (("segm", ~upper, 0.0), ("segm", upper, 1.0), ("bbox", ~upper, 1.0)):
        scores = ObjectScores("what", ("house",), kind)
        scores.update(told_of(box, [0], mask[None]), one)
        assert scores.matched()["object_f1"] == f1


def test_the_surest_answer_is_matched_first():
    truth = Boxes(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.zeros(1, dtype=torch.int64))
    batch = tiny.ObjectSource(n=4).sample(0)
    one = Batch({}, batch.where, {"what": replace(batch.labels["what"], objects=(truth,))})
    boxes = torch.tensor([[0.0, 0.0, 10.0, 7.0], [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 9.0, 10.0]])
    told = told_of(boxes, [0, 0, 0]) | {"scores": torch.tensor([[0.6, 0.9, 0.7]])}
    scores = ObjectScores("what", ("house",), "bbox")
    scores.update(told, one)
    assert scores.counts().tolist() == [[1.0, 3.0, 1.0]]
    assert scores.counts(sure=0.8).tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_no_answer_where_there_are_objects_scores_zero(kind):
    source = tiny.ObjectSource(n=4)
    for some in (True, False):
        scores = ObjectScores("what", source.labels["what"].classes, kind)
        for i in range(2):
            batch = source.sample(i)
            label = batch.labels["what"]
            if not some:
                o = label.objects[0]
                bare = replace(label, objects=(Boxes(o.xyxy[:0], o.classes[:0], o.masks[:0]),))
                batch = Batch(batch.layers, batch.where, {"what": bare})
            empty, masks = torch.zeros(1, 0), torch.zeros(1, 0, 32, 32, dtype=torch.bool)
            told = {"boxes": torch.zeros(1, 0, 4), "scores": empty, "classes": empty.long(), "masks": masks}
            scores.update(told | {"counts": torch.tensor([0])}, batch)
        found = scores.compute()
        assert found["map_50"] == 0.0 and found["map"] == 0.0 if some else found["map_50"] != found["map_50"]


def test_fields_learnt_from_objects_answer_with_their_three_classes(tmp_path):
    """What map, serve and export read of a bundle: a mask of three classes, whatever it was tuned on."""
    run = make(tmp_path, task="boundaries", loop={"steps": 2, "batch_size": 4, "progress": False})
    bundle = Bundle.load(tune(run, tiny.ObjectSource(n=12)).bundle)
    assert bundle.label.kind == "mask" and bundle.label.classes == ("outside", "field", "boundary")
    assert bundle.card.label.kind == "boxes"
    told = bundle.predict(tiny.ObjectSource(n=12).sample(0))
    assert told["probabilities"].shape[1] == 3
