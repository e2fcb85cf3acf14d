"""Losses against direct transcriptions; what is invalid never matters."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from swath.adapt.losses import LOSSES
from swath.adapt.losses.lovasz import jaccard_slope
from swath.adapt.task import total

REGIONS = ("dice", "tversky", "logcosh-dice", "lovasz", "boundary")

torch.manual_seed(0)
OUT, CLASSES = torch.randn(2, 3, 6, 6), torch.randint(0, 3, (2, 6, 6))
VALID = torch.rand(2, 6, 6) > 0.3


def data(kind):
    target = LOSSES.get(kind).target
    if target == "classes":
        return OUT.clone(), CLASSES.clone(), VALID.clone()
    if target == "tags":
        return OUT[:, :, 0, 0].clone(), (OUT[:, :, 1, 1] > 0).float(), torch.tensor([[1, 1, 0], [1, 0, 1]]).bool()
    k = LOSSES.get(kind).outputs
    return (
        torch.randn(2, k, 6, 6, generator=torch.Generator().manual_seed(1)),
        OUT[:, :1].clone(),
        VALID[:, None].clone(),
    )


@pytest.mark.parametrize("kind", LOSSES.names())
def test_invalid_items_do_not_matter(kind):
    out, target, valid = data(kind)
    loss = LOSSES.get(kind)()
    changed = torch.where(valid, target, torch.full_like(target, 255 if target.dtype == torch.int64 else math.nan))
    if kind != "boundary":
        noisy = torch.where(valid if valid.shape == out.shape else valid.view(2, 1, 6, 6), out, out + 7.0)
        torch.testing.assert_close(loss(noisy, target, valid), loss(out, target, valid))
    want, slope = value_and_slope(loss, out, target, valid)
    for given in (changed, torch.where(valid, target, torch.full_like(target, -1))):
        value, got = value_and_slope(loss, out, given, valid)
        torch.testing.assert_close(value, want)
        torch.testing.assert_close(got, slope)
    assert want >= 0 or kind == "gaussian-nll"


def value_and_slope(loss, out, target, valid):
    out = out.clone().requires_grad_()
    value = loss(out, target, valid)
    return value.detach(), torch.autograd.grad(value, out)[0]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", [k for k in LOSSES.names() if k not in REGIONS])
def test_parts_of_unequal_count_are_the_whole_batch(kind, weighted):
    """Accumulated as the loop does it, by `Step.weight`: ignored pixels and rare classes lie where they lie."""
    out, target, valid = data(kind)
    loss = LOSSES.get(kind)()
    weights = torch.tensor([0.1, 1.0, 5.0]) if weighted and loss.target != "values" else None
    valid[0] = valid[0] & (torch.rand(valid[0].shape) < 0.3)
    out.requires_grad_()
    whole = total((loss,), out, target, valid, weights)
    slope = torch.autograd.grad(whole.loss, out)[0]
    parts = [total((loss,), out[i : i + 1], target[i : i + 1], valid[i : i + 1], weights) for i in range(2)]
    count = sum(p.weight for p in parts)
    got = sum(torch.autograd.grad(p.loss * p.weight, out)[0] for p in parts) / count
    assert count == pytest.approx(whole.weight)
    torch.testing.assert_close(got, slope, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_certainty_has_a_slope(gamma):
    """(1 - p)^gamma is steep without end at p = 1 when gamma is below one."""
    sure = torch.tensor([[100.0, -100.0]])
    yes, known = torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool)
    focal, asl = LOSSES.get("focal")(gamma=gamma), LOSSES.get("asymmetric")(gamma_positive=gamma, gamma_negative=gamma)
    for loss, target, valid in (
        (focal, torch.tensor([0]), known[:, 0]),
        (focal, yes, known[:, 0]),
        (asl, yes, known),
        (asl, 1 - yes, known),
    ):
        assert all(bool(torch.isfinite(v).all()) for v in value_and_slope(loss, sure, target, valid))


@pytest.mark.parametrize("kind", LOSSES.names())
def test_nothing_valid_costs_nothing_and_has_a_gradient(kind):
    out, target, valid = data(kind)
    out.requires_grad_()
    value = LOSSES.get(kind)()(out, target, torch.zeros_like(valid))
    value.backward()
    assert float(value) == pytest.approx(0.0, abs=1e-6)
    assert bool((out.grad == 0).all())


@pytest.mark.parametrize("kind", LOSSES.names())
def test_descent_reaches_a_better_answer(kind):
    out, target, valid = data(kind)
    out.requires_grad_()
    loss = LOSSES.get(kind)()
    first = float(loss(out, target, valid))
    optimizer = torch.optim.Adam([out], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(out, target, valid)
        value.backward()
        optimizer.step()
    assert float(value) < 0.6 * first if kind != "gaussian-nll" else float(value) < first - 0.5


def flat():
    return OUT.movedim(1, -1)[VALID], CLASSES[VALID]


def test_cross_entropy_weighted():
    z, y = flat()
    w = torch.tensor([0.2, 1.0, 3.0])
    nll = -z.log_softmax(1)[torch.arange(len(y)), y]
    torch.testing.assert_close(LOSSES.get("ce")()(OUT, CLASSES, VALID, w), (nll * w[y]).sum() / w[y].sum())


def test_focal_is_the_formula():
    z, y = flat()
    p = z.softmax(1)[torch.arange(len(y)), y]
    torch.testing.assert_close(LOSSES.get("focal")(gamma=2.0)(OUT, CLASSES, VALID), (-((1 - p) ** 2) * p.log()).mean())


def test_dice_tversky_logcosh():
    z, y = flat()
    p, t = z.softmax(1), F.one_hot(y, 3).float()
    tp, fp, fn = (p * t).sum(0), (p * (1 - t)).sum(0), ((1 - p) * t).sum(0)
    dice = (1 - (2 * tp + 1) / (2 * tp + fp + fn + 1)).mean()
    torch.testing.assert_close(LOSSES.get("dice")()(OUT, CLASSES, VALID), dice)
    torch.testing.assert_close(LOSSES.get("logcosh-dice")()(OUT, CLASSES, VALID), dice.cosh().log())
    tversky = (1 - (tp + 1) / (tp + 0.3 * fp + 0.7 * fn + 1)).mean()
    torch.testing.assert_close(LOSSES.get("tversky")()(OUT, CLASSES, VALID), tversky)


def test_lovasz_extension_agrees_with_the_set_function():
    """On 0/1 errors the extension is the Jaccard loss of the wrong set; elsewhere it interpolates along the order."""
    truth = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0])
    for wrong in itertools.product([0.0, 1.0], repeat=5):
        m = torch.tensor(wrong)
        order = m.argsort(descending=True, stable=True)
        found = m[order] @ jaccard_slope(truth[order])
        told = torch.where(m > 0, 1 - truth, truth)
        union = ((told + truth) > 0).sum()
        jaccard = 1 - (told * truth).sum() / union
        torch.testing.assert_close(found, jaccard)


def test_asymmetric_without_asymmetry_is_bce():
    out, target, valid = data("bce")
    plain = LOSSES.get("asymmetric")(gamma_positive=0.0, gamma_negative=0.0, margin=0.0)(out, target, valid)
    torch.testing.assert_close(plain, LOSSES.get("bce")()(out, target, valid), atol=1e-5, rtol=1e-5)


def test_values():
    out, y = torch.tensor([[[[1.0]]], [[[5.0]]]]), torch.tensor([[[[2.0]]], [[[2.0]]]])
    valid = torch.ones(2, 1, 1, 1, dtype=torch.bool)
    assert float(LOSSES.get("l1")()(out, y, valid)) == pytest.approx(2.0)
    assert float(LOSSES.get("mse")()(out, y, valid)) == pytest.approx(5.0)
    assert float(LOSSES.get("huber")()(out, y, valid)) == pytest.approx((0.5 + 2.5) / 2)
    mean_var = torch.tensor([[1.0, math.log(4.0)]]).view(1, 2, 1, 1)
    nll = LOSSES.get("gaussian-nll")()(mean_var, torch.full((1, 1, 1, 1), 3.0), valid[:1])
    assert float(nll) == pytest.approx(0.5 * (math.log(4) + 1))


def test_quantiles_are_found():
    y = torch.randn(4000, 1, generator=torch.Generator().manual_seed(3))
    q = torch.zeros(1, 3, requires_grad=True)
    loss, optimizer = LOSSES.get("quantile")(), torch.optim.Adam([q], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss(q.expand(4000, 3), y, torch.ones(4000, 1, dtype=torch.bool)).backward()
        optimizer.step()
    median, low, high = q[0].tolist()
    assert abs(median) < 0.1 and low == pytest.approx(-1.645, abs=0.15) and high == pytest.approx(1.645, abs=0.15)


def test_boundary_prefers_the_right_edge():
    truth = torch.zeros(1, 16, 16, dtype=torch.int64)
    truth[:, 4:12, 4:12] = 1
    valid, loss = torch.ones_like(truth, dtype=torch.bool), LOSSES.get("boundary")()

    def logits(mask):
        return 8 * F.one_hot(mask, 2).movedim(-1, 1).float()

    near, far = truth.roll(1, 2), truth.roll(5, 2)
    assert float(loss(logits(truth), truth, valid)) < 0.05
    assert loss(logits(near), truth, valid) < loss(logits(far), truth, valid)
