"""Scores equal torchmetrics'; intervals cover; what never occurs is not a number."""

import math

import numpy as np
import pytest
import tiny_adapt as tiny
import torch
import torchmetrics.functional as tm
from scipy import ndimage
from torchmetrics.functional import classification as tc

from swath.adapt.metrics import ClassScores, MaskScores, TagScores, ValueScores
from swath.core.batch import Batch, Label, Where
from swath.core.rng import generator

G = generator("metrics")


def filled(scores, kind, value, valid, told):
    where = Where.unknown(len(value))
    scores.update(told, Batch({}, where, {"what": Label(kind, value, valid)}))
    return scores


@pytest.fixture(scope="module")
def masks():
    truth, told = torch.randint(0, 3, (5, 8, 8), generator=G), torch.randint(0, 3, (5, 8, 8), generator=G)
    valid = torch.rand(5, 8, 8, generator=G) > 0.2
    return truth, torch.where(torch.rand(5, 8, 8, generator=G) < 0.5, truth, told), valid


def test_classes_equal_torchmetrics(masks):
    truth, told, valid = masks
    scores = filled(ClassScores("what", ("a", "b", "c")), "mask", truth, valid, {"classes": told}).compute()
    p, y = told[valid], truth[valid]
    assert scores["iou_macro"] == pytest.approx(float(tc.multiclass_jaccard_index(p, y, 3)), abs=1e-6)
    assert scores["f1_macro"] == pytest.approx(float(tc.multiclass_f1_score(p, y, 3, average="macro")), abs=1e-6)
    assert scores["accuracy_micro"] == pytest.approx(float(tc.multiclass_accuracy(p, y, 3, average="micro")), abs=1e-6)
    assert scores["accuracy_macro"] == pytest.approx(float(tc.multiclass_accuracy(p, y, 3, average="macro")), abs=1e-6)
    assert scores["kappa"] == pytest.approx(float(tc.multiclass_cohen_kappa(p, y, 3)), abs=1e-6)
    each = tc.multiclass_precision(p, y, 3, average="none")
    assert [scores[f"precision/{c}"] for c in "abc"] == pytest.approx(each.tolist(), abs=1e-6)


def test_absent_class_is_not_a_number():
    scores = ClassScores("what", ("a", "b", "c"))
    value = torch.tensor([0, 0, 1])
    filled(scores, "class", value, torch.ones(3, dtype=torch.bool), {"classes": value})
    found = scores.compute()
    assert math.isnan(found["iou/c"]) and found["iou_macro"] == 1.0


def edge(mask, reach):
    """A mask without itself eroded: the paper's own steps, one class and one image at a time."""
    return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=reach, border_value=0)


@pytest.mark.parametrize("size", [(9, 13), (97, 133), (160, 40)])
def test_boundary_iou_is_that_of_eroded_masks(size):
    g = generator(*size)
    scores, counts = MaskScores("what", ("a", "b", "c", "never")), np.zeros((4, 2))
    for n in (1, 3, 2):  # batches of any size add up
        truth = torch.nn.functional.interpolate(torch.rand(n, 3, 3, 4, generator=g), size, mode="bilinear").argmax(1)
        told = truth.roll(2, 2)
        filled(scores, "mask", truth, torch.ones_like(truth, dtype=torch.bool), {"classes": told})
        reach = max(1, round(0.02 * math.hypot(*size)))
        for i in range(n):
            for k in range(3):
                a, b = edge((truth[i] == k).numpy(), reach), edge((told[i] == k).numpy(), reach)
                counts[k] += (a & b).sum(), (a | b).sum()
    found, want = scores.compute(), counts[:3, 0] / counts[:3, 1]
    assert [found[f"boundary_iou/{c}"] for c in "abc"] == pytest.approx(want.tolist())
    assert found["boundary_iou_macro"] == pytest.approx(want.mean()) and math.isnan(found["boundary_iou/never"])
    low, high = scores.intervals()["boundary_iou_macro"]
    assert low <= found["boundary_iou_macro"] <= high


def test_an_unknown_area_has_no_edge():
    truth = torch.zeros(1, 40, 40, dtype=torch.int64)
    truth[:, :, 20:] = 1
    valid = torch.ones_like(truth, dtype=torch.bool)
    valid[:, 5:12, 5:12] = False
    noise = torch.where(valid, truth, 255)
    scores = filled(MaskScores("what", ("a", "b")), "mask", noise, valid, {"classes": truth})
    assert scores.compute()["boundary_iou_macro"] == 1.0
    near = scores.edges[0][0, 2].tolist()
    assert near == [2 * (20 + 38)] * 2  # one pixel along three sides of the image and at the other class


def test_intervals_hold_the_point(masks):
    truth, told, valid = masks
    scores = filled(ClassScores("what", ("a", "b", "c")), "mask", truth, valid, {"classes": told})
    point, spans = scores.compute(), scores.intervals(0, 500)
    assert all(low <= point[k] <= high for k, (low, high) in spans.items())
    assert spans == scores.intervals(0, 500)
    assert 0 < spans["iou_macro"][1] - spans["iou_macro"][0] < 0.3


def test_tags_equal_torchmetrics():
    p, y = torch.rand(20, 3, generator=G), (torch.rand(20, 3, generator=G) > 0.5).float()
    valid = torch.ones(20, 3, dtype=torch.bool)
    scores = filled(TagScores("what", ("a", "b", "c")), "tags", y, valid, {"probabilities": p}).compute()
    assert scores["f1_micro"] == pytest.approx(float(tc.multilabel_f1_score(p, y.long(), 3, average="micro")), abs=1e-6)
    assert scores["f1_macro"] == pytest.approx(float(tc.multilabel_f1_score(p, y.long(), 3, average="macro")), abs=1e-6)
    ap = tc.multilabel_average_precision(p, y.long(), 3, average="macro")
    assert scores["map_macro"] == pytest.approx(float(ap), abs=1e-5)


def test_values_equal_torchmetrics():
    p, y = torch.randn(6, 1, 4, 4, generator=G), torch.randn(6, 1, 4, 4, generator=G)
    valid = torch.rand(6, 1, 4, 4, generator=G) > 0.3
    scores = filled(ValueScores("what"), "map", y, valid, {"values": p}).compute()
    a, b = p[valid], y[valid]
    assert scores["rmse"] == pytest.approx(float(tm.mean_squared_error(a, b, squared=False)), abs=1e-6)
    assert scores["mae"] == pytest.approx(float(tm.mean_absolute_error(a, b)), abs=1e-6)
    assert scores["r2"] == pytest.approx(float(tm.r2_score(a, b)), abs=1e-5)
    assert scores["correlation"] == pytest.approx(float(tm.pearson_corrcoef(a, b)), abs=1e-5)
    assert scores["bias"] == pytest.approx(float((a - b).mean()), abs=1e-6)


def test_batches_in_any_cut_give_the_same_scores(masks):
    truth, told, valid = masks
    whole = filled(ClassScores("what", ("a", "b", "c")), "mask", truth, valid, {"classes": told})
    parts = ClassScores("what", ("a", "b", "c"))
    for i in range(5):
        filled(parts, "mask", truth[i : i + 1], valid[i : i + 1], {"classes": told[i : i + 1]})
    assert parts.compute() == whole.compute() and parts.intervals() == whole.intervals()


def test_bootstrap_covers():
    """The 95 % interval of an accuracy holds the true one in most of many small experiments."""
    held = 0
    for i in range(100):
        g = generator(i, "cover")
        truth = torch.randint(0, 2, (60,), generator=g)
        told = torch.where(torch.rand(60, generator=g) < 0.8, truth, 1 - truth)
        scores = ClassScores("what", ("a", "b"))
        filled(scores, "class", truth, torch.ones(60, dtype=torch.bool), {"classes": told})
        low, high = scores.intervals(i, 300)["accuracy_micro"]
        held += low <= 0.8 <= high
    assert held >= 88


def test_primary_names_exist():
    for kind, scores in (("mask", ClassScores("what", ("a", "b", "c"))), ("scalar", ValueScores("what"))):
        batch = tiny.TinySource(kind).sample(0)
        label = batch.labels["what"]
        scores.update({"classes": label.value, "values": label.value}, batch)
        assert scores.primary in scores.compute()
