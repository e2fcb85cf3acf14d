"""Latent MIM: patch discrimination, frozen targets, exit depths."""

import pytest
import torch
import torch.nn.functional as F
from cases import learn
from tiny_tokens import S1, S2, Tiny, make_batch

from swath.core import UserError, generator, per_sample
from swath.objectives import Kit
from swath.objectives.latent_mim import LatentMIM
from swath.objectives.losses.contrast import patch_discrimination
from swath.objectives.masks import draw
from swath.objectives.masks.random import Random
from swath.objectives.masks.whole import Whole
from swath.objectives.targets.pixels import patches
from swath.objectives.targets.projection import project


def build(**more):
    torch.manual_seed(1)
    config = LatentMIM(**{"width": 16, "depth": 1, "heads": 2, "dim": 12, **more})
    return config.build(Kit(Tiny(), make_batch(1)))


def test_patch_discrimination_is_its_definition():
    g = generator(3)
    pred, target = torch.randn(3, 7, 5, generator=g), torch.randn(3, 7, 5, generator=g)
    hidden = torch.rand(3, 7, generator=g) > 0.4
    hidden[2] = False
    pred.requires_grad_()
    loss, count = patch_discrimination(pred, target, hidden, 0.1)
    for b in range(3):
        rows = hidden[b].nonzero()[:, 0]
        p, t = F.normalize(pred[b, rows], dim=1), F.normalize(target[b, rows], dim=1)
        want = F.cross_entropy(p @ t.T / 0.1, torch.arange(len(rows))) * 0.2 if len(rows) else torch.zeros(())
        torch.testing.assert_close(loss[b], want)
        assert int(count[b]) == len(rows)
    loss.sum().backward()
    assert torch.isfinite(pred.grad).all(), "a sample without hidden tokens must not poison the gradient"
    assert pred.grad[2].abs().sum() == 0


def test_loss_is_the_two_views_and_the_contrast():
    module, batch = build(), make_batch(5)
    step = module(batch, generator(2))
    tokens = module.encoder.tokenize(batch)
    parts, pooled, losses = patches(batch, tokens), [], []
    for v, mask in enumerate(module.config.masks):
        plan = draw(mask, tokens, per_sample(generator(2), batch.where.key, "mask", v))
        kept = module.encoder.encode(plan.padded(tokens), plan.keep)
        pred = module.outs[v](module.decoders[0](kept, plan, batch, tokens))
        for b in range(5):
            mine = []
            for part in parts.values():
                rows = [int(n) for n in part.index if plan.target[b, n]]
                if rows:
                    at = [part.index.tolist().index(n) for n in rows]
                    p = F.normalize(pred[b, rows], dim=1)
                    t = F.normalize(project(part, 12)[b, at], dim=1)
                    mine.append(0.2 * F.cross_entropy(p @ t.T / 0.1, torch.arange(len(rows))))
            losses.append(torch.stack(mine).mean())
        seen = plan.visible[..., None].float()
        whole = plan.spread(kept, torch.zeros(32))
        pooled.append(F.normalize(module.projector((whole * seen).sum(1) / seen.sum(1)), dim=1))
    patch = torch.stack(losses).mean()
    instance = F.cross_entropy(pooled[0] @ pooled[1].T / 0.1, torch.arange(5))
    torch.testing.assert_close(step.loss, patch + 0.1 * instance, atol=1e-5, rtol=1e-4)
    assert module.batch_coupled
    assert not build(contrast=0.0).batch_coupled


def test_targets_are_frozen_and_know_no_position():
    module, batch = build(), make_batch(2)
    tokens = module.encoder.tokenize(batch)
    a = module.targets(batch, tokens, 0)
    with torch.no_grad():
        for p in module.encoder.parameters():
            p.add_(1.0)
    assert torch.equal(a, module.targets(batch, module.encoder.tokenize(batch), 0))
    from dataclasses import replace

    flat = {k: replace(v, x=torch.full_like(v.x, 0.2)) for k, v in batch.layers.items()}
    same = module.targets(replace(batch, layers=flat), tokens, 0)[:, :32]
    torch.testing.assert_close(same, same[:, :1].expand_as(same))


def test_exit_depths():
    module = build(target="average", depths={S1.id: 0.0, S2.id: 1.0})
    batch = make_batch(2)
    tokens = module.encoder.tokenize(batch)
    out = module.targets(batch, tokens, 0)
    full = module.slow.encode(module.slow.tokenize(batch))
    torch.testing.assert_close(out[:, :32], full[:, :32])
    torch.testing.assert_close(out[:, 32:], module.slow.tokenize(batch).x[:, 32:])
    half = build(target="average", depths={S2.id: 0.5}).targets(batch, tokens, 0)
    x = module.slow.tokenize(batch).x
    torch.testing.assert_close(half[:, :32], module.slow.blocks[0](x)[:, :32])


def test_galileo_s_pair():
    masks = (Whole("time", 0.5), Random(0.9, predict=0.5))
    module = build(masks=masks, target="average", local=True, predictors=2, contrast=0.0)
    assert module.dims == [32, 12]
    step = module(make_batch(4), generator(0))
    step.loss.backward()
    assert module.decoders[0].mask_token.grad.abs().sum() > 0
    assert module.decoders[1].mask_token.grad.abs().sum() > 0
    assert all(p.grad is None for p in module.slow.parameters())
    with pytest.raises(UserError, match="two views"):
        LatentMIM(masks=(Random(),), predictors=2)


def test_it_learns():
    module, batch = build(masks=(Random(0.5),), contrast=0.0), make_batch(8)
    losses = learn(module, batch, 30, 1e-2)
    assert sum(losses[-5:]) / 5 < 0.92 * losses[0]
