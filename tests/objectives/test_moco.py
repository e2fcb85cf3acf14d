"""MoCo against its definition."""

import pytest
import torch
import torch.nn.functional as F
from tiny_tokens import S2, Tiny, make_batch

from swath.core import generator, per_sample
from swath.objectives import Kit
from swath.objectives._objective import momentum
from swath.objectives.losses.contrast import info_nce, info_nce_queue
from swath.objectives.moco import MoCo


def build(**more):
    torch.manual_seed(1)
    return MoCo(**{"hidden": 16, "dim": 8, "queue": 12, **more}).build(Kit(Tiny((S2,)), make_batch(1, sensors=(S2,))))


def test_version_3_is_the_paper_s():
    module, batch = build(), make_batch(6, t=3, sensors=(S2,))
    step = module(batch, generator(4))
    a, b = module.config.views.make(batch, per_sample(generator(4), batch.where.key, "view"))
    q1, q2 = (F.normalize(module.predictor(module.projector(module.encoder(v).pooled)), dim=1) for v in (a, b))
    k1, k2 = (F.normalize(module.projector(module.encoder(v).pooled), dim=1) for v in (a, b))
    loss = torch.zeros(())
    for q, k in ((q1, k2), (q2, k1)):
        for i in range(6):
            logits = torch.stack([q[i] @ k[j] / 0.2 for j in range(6)])
            loss = loss - (logits[i] - logits.exp().sum().log()) / 6
    torch.testing.assert_close(step.loss, 2 * 0.2 * loss, atol=1e-5, rtol=1e-5)
    assert step.weight == 6


def test_keys_have_no_gradient_and_follow_slowly():
    module, batch = build(), make_batch(6, sensors=(S2,))
    module(batch, generator(0)).loss.backward()
    assert all(p.grad is None for p in module.slow.parameters())
    assert module.encoder.blocks[0].mlp.fc1.weight.grad.abs().sum() > 0
    with torch.no_grad():
        module.encoder.norm.weight += 1.0
    before = module.slow[0].norm.weight.clone()
    module.after_step(0, 10)
    torch.testing.assert_close(module.slow[0].norm.weight, before + 0.01)
    assert momentum(0.99, 1.0, 0, 10) == pytest.approx(0.99)
    assert momentum(0.99, 1.0, 10, 10) == 1.0
    assert momentum(0.99, 1.0, 5, 10) == pytest.approx(0.995)


def test_version_2_queue_and_loss():
    module, batch = build(version=2, momentum=0.999), make_batch(5, sensors=(S2,))
    queue = module.queue.clone()
    step = module(batch, generator(4))
    a, b = module.config.views.make(batch, per_sample(generator(4), batch.where.key, "view"))
    q, k = F.normalize(module.queries(a), dim=1), module.keys(b)
    rows = []
    for i in range(5):
        logits = torch.cat([(q[i] @ k[i]).view(1), queue @ q[i]]) / 0.2
        rows.append(-logits.log_softmax(0)[0])
    torch.testing.assert_close(step.loss, torch.stack(rows).mean(), atol=1e-5, rtol=1e-5)
    module.after_step(0, 10)
    torch.testing.assert_close(module.queue[:5], k)
    assert int(module.at) == 5
    for _ in range(2):
        module(batch, generator(4))
        module.after_step(0, 10)
    assert int(module.at) == 3


def test_losses_on_hand_numbers():
    q = torch.tensor([[1.0, 0], [0, 1]])
    assert float(info_nce(q, q, 1.0)) == pytest.approx(float(torch.log(torch.tensor(1 + torch.e**-1))), abs=1e-6)
    many = info_nce_queue(q, q, torch.tensor([[0.0, 1.0], [1.0, 0.0]])[:1], 1.0)
    want = (torch.log(torch.tensor(1 + torch.e**-1)) + torch.log(torch.tensor(2.0))) / 2
    assert float(many) == pytest.approx(float(want), abs=1e-6)


def test_frozen_embedding():
    module = build(freeze_embed="embed")
    module(make_batch(4, sensors=(S2,)), generator(0)).loss.backward()
    assert all(p.grad is None for p in module.encoder.embed.parameters())
