"""Calibration, conformal sets, strangeness, ensembles, dropout, Laplace, constraints: each keeps its promise."""

import math

import pytest
import tiny_adapt as tiny
import torch
from torch import nn

from swath.adapt.constraints import Constraint, broken, excess
from swath.adapt.uncertainty import calibration, conformal
from swath.adapt.uncertainty.laplace import Laplace
from swath.adapt.uncertainty.members import combine, ensemble, mc_dropout
from swath.adapt.uncertainty.strange import Mahalanobis, knn_distance
from swath.core.errors import UserError
from swath.core.rng import generator


def overconfident(n, seed):
    g = generator(seed, "calibration")
    logits = torch.randn(n, 4, generator=g)
    y = torch.multinomial(logits.softmax(1), 1, generator=g).squeeze(1)
    return 3.0 * logits, y


def test_temperature_is_found_and_lowers_the_error():
    logits, y = overconfident(6000, 0)
    t = calibration.fit_temperature(logits, y)
    assert t == pytest.approx(3.0, rel=0.1)
    before = calibration.reliability(calibration.probabilities(logits, 1.0), y)
    after = calibration.reliability(calibration.probabilities(logits, t), y)
    assert before.ece > 0.15 and after.ece < 0.03 and sum(after.count) == 6000


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_class_sets_reach_their_coverage(alpha):
    logits, y = overconfident(4000, 1)
    p = calibration.probabilities(logits, 3.0)
    q = conformal.class_threshold(p[:2000], y[:2000], alpha)
    hit, size = conformal.class_coverage(p[2000:], y[2000:], q)
    assert abs(hit - (1 - alpha)) < 0.03 and 1 <= size <= 4


def test_value_intervals_reach_their_coverage():
    g = generator("values")
    x = torch.rand(4000, generator=g) * 3
    y = x + torch.randn(4000, generator=g) * x
    q = conformal.threshold(conformal.value_scores(y[:2000], x[:2000], x[:2000], None, None), 0.1)
    low, high = conformal.interval(x[2000:], q, x[2000:], None, None)
    assert abs(float(((y[2000:] >= low) & (y[2000:] <= high)).float().mean()) - 0.9) < 0.03
    assert conformal.threshold(torch.randn(5), 0.1) == float("inf")


def test_strangeness_finds_what_is_elsewhere():
    g = generator("strange")
    mix = torch.randn(8, 8, generator=g)
    known, same = (torch.randn(500, 8, generator=g) @ mix for _ in range(2))
    model = Mahalanobis.fit(known)
    assert float(model.score(same).mean()) == pytest.approx(0.5, abs=0.06)
    assert float(model.score(same + 40).min()) == 1.0
    # no steps: a distance a little larger is a little stranger, and half of what was known lies nearer than the middle
    d = model.distance(known).sort().values
    shares = model.score(known)
    assert float(shares.median()) == pytest.approx(0.5, abs=0.01) and float(shares.min()) == 0 and shares.max() == 1
    order = model.distance(known).argsort()
    assert bool((shares[order].diff() >= 0).all()) and len(shares.unique()) > 0.9 * len(d.unique())
    again = Mahalanobis.of(model.tensors())
    assert torch.equal(again.score(same), model.score(same))
    assert float(knn_distance(known[:5], known, 1).abs().max()) < 1e-5


def test_members_that_disagree_spread():
    sure = {"probabilities": torch.tensor([[0.9, 0.1]]), "classes": torch.tensor([0])}
    other = {"probabilities": torch.tensor([[0.1, 0.9]]), "classes": torch.tensor([1])}
    assert float(combine([sure, sure])["spread"]) == pytest.approx(0.0, abs=1e-6)
    assert float(combine([sure, other])["spread"]) > 0.4
    values = combine(
        [
            {"values": torch.tensor([1.0]), "std": torch.tensor([1.0])},
            {"values": torch.tensor([3.0]), "std": torch.tensor([1.0])},
        ]
    )
    assert float(values["values"]) == 2.0 and float(values["std"]) == pytest.approx(2**0.5)
    batch = tiny.TinySource().sample(0)
    with pytest.raises(UserError, match="two members"):
        ensemble([lambda b: sure], batch)
    assert ensemble([lambda b: sure, lambda b: other], batch)["spread"].shape == (1,)


def test_tags_spread_each_on_its_own():
    """A tag is a distribution over yes and no: what members say of one tag does not touch another."""

    def told(*p):
        return {"probabilities": torch.tensor([p]), "tags": torch.tensor([p]) > 0.5}

    found = combine([told(0.9, 0.7), told(0.1, 0.7)])["spread"]
    assert found.shape == (1, 2) and float(found[0, 1]) == pytest.approx(0.0, abs=1e-6)
    h = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(2)
    assert float(found[0, 0]) == pytest.approx(1 - h, abs=1e-6)
    assert bool(torch.isfinite(combine([told(0.9), told(0.1)])["spread"]).all())


def test_mc_dropout_needs_dropout_and_leaves_the_model_as_it_was():
    batch = tiny.TinySource().sample(0)
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 1)).eval()

    def predict(b):
        return {"values": net(torch.ones(1, 4))[:, 0]}

    out = mc_dropout(net, predict, batch, 20)
    assert float(out["spread"]) > 0 and not net[0].training
    assert torch.equal(out["values"], mc_dropout(net, predict, batch, 20)["values"])
    with pytest.raises(UserError, match="no dropout"):
        mc_dropout(nn.Linear(4, 1), predict, batch)


def test_laplace_is_surest_where_it_has_seen_most():
    features = torch.randn(400, 3, generator=generator("laplace")) * torch.tensor([1.0, 1.0, 0.01])
    model = Laplace.empty(2, 3)
    model.add(features, torch.full((400, 2), 0.25))
    seen, unseen = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    assert model.variance(unseen)[0] > 10 * model.variance(seen)[0]
    logits = torch.tensor([2.0, -2.0])
    assert model.shrink(logits, unseen)[0] < model.shrink(logits, seen)[0] < 2.0


def test_constraints():
    batch = tiny.TinySource().sample(0)
    values = torch.tensor([-1.0, 0.5, 3.0]).view(1, 3, 1, 1)
    assert excess(Constraint("nonnegative"), values, batch).flatten().tolist() == [1.0, 0.0, 0.0]
    assert excess(Constraint("range", low=0.0, high=2.0), values, batch).flatten().tolist() == [1.0, 0.0, 1.0]
    assert float(excess(Constraint("sum", total=2.5), values, batch)) == 0.0
    assert broken([Constraint("range", low=0.0, high=2.0)], values, batch) == {"range": pytest.approx(2 / 3)}
    red = batch.layers[tiny.SENSOR.id].select(["red"]).x[:, 0]
    rule = Constraint("monotone", sensor=tiny.SENSOR.id, band="red")
    assert float(excess(rule, 2 * red, batch).max()) == 0.0
    assert float(excess(rule, -red, batch).max()) > 0.0


@pytest.mark.parametrize(("kind", "task"), [("mask", "segment"), ("class", "classify"), ("map", "regress")])
def test_laplace_in_a_bundle(kind, task, tmp_path):
    from test_tune import make

    from swath.adapt.bundle import Bundle
    from swath.adapt.tune import tune

    source = tiny.TinySource(kind, n=16)
    loop = {"steps": 6, "batch_size": 8, "progress": False}
    found = tune(make(tmp_path, task=task, loop=loop, trust={"laplace": True, "bootstrap": 5, "chips": 0}), source)
    bundle, sample = Bundle.load(found.bundle), source.sample(0)
    told = bundle.predict(sample, uncertainty=True)
    assert bool((told["spread"] >= 0).all()) and float(told["spread"].max()) > 0
    assert told["spread"].shape[-1] == (32 if kind != "class" else 1)
