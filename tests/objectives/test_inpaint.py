"""Inpaint: hidden pixels stay hidden, the loss is the paper's on pixels, any encoder learns by it."""

from dataclasses import replace

import pytest
import torch
from cases import learn
from tiny_tokens import S1, S2, Tiny, make_batch

from swath.core import SENSORS, Batch, Layer, UserError, Where, generator
from swath.core.config import parse_member
from swath.models import ENCODERS, build_encoder
from swath.objectives import Kit
from swath.objectives.inpaint import Inpaint, without
from swath.objectives.targets.pixels import standard


@torch.no_grad()
def test_the_loss_by_hand():
    batch = make_batch(3)
    objective = Inpaint(side=4).build(Kit(Tiny((S2, S1)), make_batch(1))).eval()
    g = generator(5)
    step = objective(batch, g)
    hidden = objective.squares(batch, g)
    maps = objective.encoder(without(batch, hidden)).maps[-1]
    total = count = 0.0
    for name, layer in batch.layers.items():
        fine = objective.shapes[name][2]
        painted = torch.nn.functional.pixel_shuffle(objective.heads[name](maps), fine)
        painted = torch.nn.functional.interpolate(painted, layer.shape[-2:], mode="bilinear", align_corners=False)
        mask = hidden[name] & layer.valid
        error = (painted.view(layer.shape) - standard(layer)).abs().mean(2, keepdim=True)
        total, count = total + float(error[mask].sum()), count + int(mask.sum())
    assert float(step.loss) == pytest.approx(total / count, rel=1e-5) and step.weight == count


def test_what_is_hidden_reaches_nothing_but_the_target():
    batch = make_batch(2)
    objective = Inpaint(side=4).build(Kit(Tiny((S2, S1)), make_batch(1))).eval()
    hidden = objective.squares(batch, generator(1))
    other = {k: replace(v, x=torch.where(hidden[k], v.x + 9.0, v.x)) for k, v in batch.layers.items()}
    seen = [objective.encoder(without(b, hidden)).maps[-1] for b in (batch, Batch(other, batch.where, {}))]
    assert torch.equal(*seen)
    shown = {k: (v.valid & ~hidden[k]).float().mean() for k, v in without(batch, hidden).layers.items()}
    assert all(0.3 < float(v) < 0.7 for v in shown.values())


def test_the_same_ground_is_hidden_in_all_sensors_and_a_sample_keeps_its_draw():
    objective = Inpaint(side=4).build(Kit(Tiny((S2, S1)), make_batch(1)))
    whole = make_batch(4)
    hidden = objective.squares(whole, generator(3))
    masks = [v[:, 0, 0] for v in hidden.values()]
    assert all(torch.equal(m, masks[0]) for m in masks if m.shape == masks[0].shape)
    alone = objective.squares(whole[torch.tensor([2])], generator(3))
    assert all(torch.equal(alone[k][0], hidden[k][2]) for k in hidden)


@pytest.mark.parametrize("model", ["resnet18", "vit_tiny_patch16_224"])
def test_encoders_without_tokens_learn(model):
    names = ["blue", "green", "red", "nir"]
    config = parse_member({"kind": "timm", "model": model, "sensor": "sentinel2-l2a", "bands": names}, ENCODERS)
    torch.manual_seed(0)
    encoder = build_encoder(config)
    sensor = SENSORS.get("sentinel2-l2a").select(names)
    ramp = torch.linspace(0, 0.4, 64).view(1, 1, 1, 64, 1).expand(4, 1, 4, 64, 64)
    batch = Batch({sensor.id: Layer.of(sensor, ramp * torch.rand(4, 1, 4, 1, 1))}, Where.unknown(4), {})
    objective = Inpaint(side=16).build(Kit(encoder, batch[torch.tensor([0])]))
    losses = learn(objective, batch, 32, 3e-4)
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_what_would_hide_nothing_is_refused():
    with pytest.raises(UserError, match="hide nothing"):
        Inpaint(ratio=1.0)
    objective = Inpaint(side=400).build(Kit(Tiny((S2, S1)), make_batch(1)))
    with pytest.raises(UserError, match="hides the whole chip"):
        objective(make_batch(2), generator(0))
