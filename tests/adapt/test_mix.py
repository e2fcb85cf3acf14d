"""Mixing: classes become shares, masks are pasted, radar mixes as power, and meaningless mixes are refused by name."""

from dataclasses import replace

import pytest
import tiny_adapt as tiny
import torch
from test_tune import make

from swath.adapt.augment import Augment
from swath.adapt.losses.focal import Focal
from swath.adapt.mix import TASKS, Partners, cutmix, mixup
from swath.adapt.prepare import prepare
from swath.adapt.tune import tune
from swath.core.batch import Batch, Layer
from swath.core.errors import UserError
from swath.core.sensors import SENSORS
from swath.train import Feed, LoopConfig

NAME = tiny.SENSOR.id


def test_mixup_shares_pixels_and_classes():
    source = tiny.TinySource("class")
    spec = source.labels["what"]
    a, b = source.sample(0), source.sample(1)
    out = mixup(a, b, 0.7, spec)
    torch.testing.assert_close(out.layers[NAME].x, 0.7 * a.layers[NAME].x + 0.3 * b.layers[NAME].x)
    label = out.labels["what"]
    want = torch.zeros(1, len(spec.classes))
    want[0, a.labels["what"].value] += 0.7
    want[0, b.labels["what"].value] += 0.3
    torch.testing.assert_close(label.value, want)
    assert torch.equal(out.where.key, a.where.key) and bool(label.valid.all())


def test_what_a_partner_does_not_show_stays():
    source = tiny.TinySource("class")
    a, b = source.sample(0), source.sample(1)
    y = b.layers[NAME]
    hidden = Batch({NAME: replace(y, valid=torch.zeros_like(y.valid))}, b.where, b.labels)
    assert torch.equal(mixup(a, hidden, 0.5, source.labels["what"]).layers[NAME].x, a.layers[NAME].x)


def test_radar_mixes_as_power():
    source = tiny.TinySource("class")
    radar = SENSORS.get("sentinel1-rtc").select(("vv",))
    one, two = (Layer.of(radar, torch.full((1, 1, 1, 4, 4), v)) for v in (-10.0, -20.0))
    a, b = (Batch({radar.id: x}, s.where, s.labels)
            for x, s in ((one, source.sample(0)), (two, source.sample(1))))  # fmt: skip
    x = mixup(a, b, 0.5, source.labels["what"]).layers[radar.id].x
    assert float(x.mean()) == pytest.approx(10 * torch.log10(torch.tensor(0.055)).item(), abs=1e-4)


def test_cutmix_pastes_pixels_with_their_mask():
    source = tiny.TinySource("mask")
    a, b = source.sample(0), source.sample(1)
    out = cutmix(a, b, 0.75, (0.4, 0.9), source.labels["what"])
    x, mask = out.layers[NAME].x[:, 0, 0], out.labels["what"].value
    own, other = a.layers[NAME].x[:, 0, 0], b.layers[NAME].x[:, 0, 0]
    pasted = x != own
    assert torch.equal(x[pasted], other[pasted]) and pasted.float().mean() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(mask[pasted], b.labels["what"].value[pasted])
    assert torch.equal(mask[~pasted], a.labels["what"].value[~pasted])


def test_cutmix_shares_a_chips_class_by_area():
    source = tiny.TinySource("class")
    out = cutmix(source.sample(0), source.sample(1), 0.6, (0.0, 0.0), source.labels["what"])
    taken = (out.layers[NAME].x != source.sample(0).layers[NAME].x).any(2).float().mean()
    first = source.sample(0).labels["what"].value
    if not torch.equal(first, source.sample(1).labels["what"].value):
        assert float(out.labels["what"].value[0, first]) == pytest.approx(1 - float(taken), abs=1e-6)


def test_layers_of_other_shapes_are_named():
    source = tiny.TinySource("class")
    a, b = source.sample(0), tiny.TinySource("class", dates=2).sample(1)
    with pytest.raises(UserError, match=f"alike to be mixed: {NAME} is 1 x 4"):
        mixup(a, b, 0.5, source.labels["what"])


def test_workers_and_batches_change_nothing():
    source = tiny.TinySource("mask", n=12)
    partners = Partners(source, range(12), {NAME: tiny.SENSOR.names}, source.labels["what"])
    transform = Augment(flips=True, mixup=0.0, cutmix=1.0).transform(3, partners)
    seen = []
    for size, workers in ((4, 0), (4, 2), (2, 0)):
        feed = Feed(source, range(12), None, transform)
        config = LoopConfig(epochs=1, batch_size=size, workers=workers)
        whole = [b for _, b in feed.batches(config, (0, 12 // size))]
        seen.append(torch.cat([b.layers[NAME].x for b in whole]))
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], torch.cat([transform.alone(source.sample(i), 0).layers[NAME].x
                                               for i in Feed(source, range(12)).order(0, 0)]))  # fmt: skip


KINDS = {"segment": "mask", "regress": "map", "scalar": "scalar", "classify": "class", "multilabel": "tags"}


@pytest.mark.parametrize("kind", sorted(TASKS))
@pytest.mark.parametrize("task", [*KINDS, "detect", "boundaries"])
def test_a_mix_without_a_meaning_is_refused_by_name(task, kind, tmp_path):
    source = tiny.TinySource(KINDS[task], n=12) if task in KINDS else tiny.ObjectSource(n=12)
    run = make(tmp_path, task=task, augment={kind: 0.5})
    if task in TASKS[kind]:
        assert prepare(run, source)
    else:
        with pytest.raises(UserError, match=f"the task '{task}' cannot learn from {kind}"):
            prepare(run, source)


def test_a_loss_that_cannot_share_is_refused(tmp_path):
    run = make(tmp_path, task={"kind": "classify", "losses": ["dice"]}, augment={"mixup": 0.2})
    with pytest.raises(UserError, match="the loss 'dice' cannot judge"):
        prepare(run, tiny.TinySource("class", n=12))


def test_whole_shares_cost_what_classes_cost():
    g = torch.Generator().manual_seed(0)
    out, y = torch.randn(6, 3, generator=g), torch.tensor([0, 1, 2, 2, 1, 0])
    ok, shares = torch.ones(6, dtype=torch.bool), torch.nn.functional.one_hot(y, 3).float()
    weights = torch.tensor([1.0, 2.0, 0.5])
    torch.testing.assert_close(Focal()(out, y, ok, weights), Focal()(out, shares, ok, weights))


@pytest.mark.parametrize(("kind", "task", "strength"), [
    ("class", "classify", {"mixup": 0.4, "cutmix": 1.0}), ("tags", "multilabel", {"mixup": 0.2}),
    ("mask", "segment", {"cutmix": 1.0}),
])  # fmt: skip
def test_mixed_samples_teach(kind, task, strength, tmp_path):
    found = tune(make(tmp_path, task=task, augment=strength), tiny.TinySource(kind, n=40))
    if kind == "tags":
        assert found.scores["map_macro"] > 0.667 + 0.1  # 0.667: the mean share of samples that bear a tag
    else:
        assert found.scores[found.primary] > found.baseline[found.primary] + 0.1
