"""The other objectives against direct transcriptions of their definitions."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from cases import make
from tiny_tokens import S1, S2, Tiny, make_batch

from swath.core import Layer, SwathWarning, UserError, generator, per_sample
from swath.objectives import Kit
from swath.objectives.decur import DeCUR, correlation, redundancy
from swath.objectives.distill import Distill
from swath.objectives.masks import draw
from swath.objectives.seco import SeCo
from swath.objectives.targets.features import hog, indices
from swath.objectives.targets.pixels import patches
from swath.objectives.triplet import triplet_loss
from swath.objectives.views import pick_dates


def plan_of(module, batch, g=3):
    tokens = module.encoder.tokenize(batch)
    return tokens, draw(module.config.mask, tokens, per_sample(generator(g), batch.where.key, "mask"))


def test_simmim_hides_inside_the_encoder():
    module, _ = make("simmim")
    batch = make_batch(3)
    tokens, plan = plan_of(module, batch)
    hidden = module.hide(batch, tokens, plan)
    assert torch.equal(hidden.x[plan.visible], tokens.x[plan.visible])
    x = module.encoder.encode(hidden)
    total, count = 0.0, 0
    for name, part in patches(batch, tokens).items():
        pred = module.heads(x[:, part.index], part)
        for b in range(3):
            for j, n in enumerate(part.index):
                if plan.target[b, n]:
                    total += float((pred[b, j] - part.value[b, j]).abs().mean().detach())
                    count += 1
        assert name
    step = module(batch, generator(3))
    assert float(step.loss.detach()) == pytest.approx(total / count, rel=1e-5)


def test_distillation_is_a_cosine_to_an_unmasked_frozen_teacher():
    module, _ = make("distill")
    batch = make_batch(3)
    step = module(batch, generator(3))
    tokens, plan = plan_of(module, batch)
    z = module.encoder.encode(tokens, plan.keep).mean(1)
    want = 1 - F.cosine_similarity(module.proj(z), module.teacher(batch).pooled, dim=1).mean()
    torch.testing.assert_close(step.loss, want)
    step.loss.backward()
    assert all(p.grad is None for p in module.teacher.parameters())
    module.train()
    assert not module.teacher.training
    assert module.constant == ("teacher",)
    with pytest.raises(UserError, match="needs a teacher"):
        Distill().build(Kit(Tiny(), make_batch(1)))


def test_a_stage_of_the_teacher():
    module = Distill(level=0).build(Kit(Tiny(), make_batch(1), Tiny(width=16)))
    batch = make_batch(2)
    torch.testing.assert_close(module.taught(batch), module.teacher(batch).maps[0].mean((2, 3)))


def test_a_sum_is_the_weighted_sum_and_keeps_constants():
    module, _ = make("sum")
    step = module(make_batch(3), generator(3))
    torch.testing.assert_close(step.loss, step.terms["0-simmim"] + 0.5 * step.terms["1-distill"])
    assert module.constant == ("parts.1.teacher",)


def test_hog_is_its_definition():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 8, 8, generator=g)
    found = hog(x, 4)
    assert found.shape == (1, 18, 2, 2)
    edge = F.pad(x, (1, 1, 1, 1), mode="replicate")[0]
    votes = torch.zeros(2, 2, 2, 9)
    for c in range(2):
        for i in range(8):
            for j in range(8):
                w = edge[c, i : i + 3, j : j + 3]
                gx = float(w[0, 0] + 2 * w[1, 0] + w[2, 0] - w[0, 2] - 2 * w[1, 2] - w[2, 2])
                gy = float(w[0, 0] + 2 * w[0, 1] + w[0, 2] - w[2, 0] - 2 * w[2, 1] - w[2, 2])
                angle = float(torch.atan2(torch.tensor(gx), torch.tensor(gy)))
                k = int(torch.tensor(angle / torch.pi * 9).floor()) % 9
                votes[c, i // 4, j // 4, k] += (gx * gx + gy * gy) ** 0.5
    votes = votes / votes.norm(dim=3, keepdim=True)
    torch.testing.assert_close(found.view(2, 9, 2, 2).permute(0, 2, 3, 1), votes, atol=1e-4, rtol=1e-4)


def test_indices_are_normalised_differences():
    layer = make_batch(2).layers[S2.id]
    maps = indices(layer)
    green, red, nir, swir = layer.x.unbind(2)
    torch.testing.assert_close(maps[:, :, 0], (nir - red) / (nir + red), atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(maps[:, :, 1], (green - nir) / (green + nir), atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(maps[:, :, 2], (swir - nir) / (swir + nir), atol=1e-3, rtol=1e-2)
    assert indices(make_batch(1).layers[S1.id]) is None


def test_fgmae_targets_radar_by_edges_only():
    module, _ = make("fgmae")
    batch = make_batch(2)
    found = module.targets(batch, module.encoder.tokenize(batch))
    assert {k: tuple(v.shape) for k, (_, v) in found.items()} == {
        f"{S2.id}/hog": (2, 32, 4 * 9 * 4),
        f"{S2.id}/index": (2, 32, 3 * 16),
        f"{S1.id}/hog": (2, 32, 4 * 9 * 2),
    }


def test_data2vec_target_and_loss():
    module, _ = make("data2vec")
    batch = make_batch(3)
    _, plan = plan_of(module, batch)
    x, states = module.slow.tokenize(batch).x, []
    for block in module.slow.blocks:
        x = block(x)
        states.append(F.layer_norm(x, (32,)))
    want = F.layer_norm(torch.stack(states).mean(0), (32,))
    torch.testing.assert_close(module.targets(batch), want)
    step = module(batch, generator(3))
    assert step.weight == int(plan.target.sum())
    assert torch.isfinite(step.loss)
    before = module.slow.norm.weight.clone()
    with torch.no_grad():
        module.encoder.norm.weight += 1
    module.after_step(0, 10)
    torch.testing.assert_close(module.slow.norm.weight, before + 0.001)


def test_dino_loss_and_centre():
    module, _ = make("dino", local=0)
    batch = make_batch(4, sensors=(S2,))
    module.centre += torch.randn(24, generator=generator(1)) * 0.1
    step = module(batch, generator(3))
    c, draws = module.config, per_sample(generator(3), batch.where.key, "view")
    dates = replace(c.views, crop=(1.0, 1.0), turn=False, gain=0, haze=0).make(batch, draws, 2)
    views = [replace(c.views, season=False).change(d, draws) for d in dates]
    teacher = [module.slow[1](module.slow[0](v).pooled) for v in views]
    student = [module.head(module.encoder(v).pooled) for v in views]
    loss = torch.zeros(())
    for i, j in ((0, 1), (1, 0)):
        p = torch.exp((teacher[i] - module.centre) / 0.04)
        p = p / p.sum(1, keepdim=True)
        s = torch.exp(student[j] / 0.1)
        loss = loss - (p * (s / s.sum(1, keepdim=True)).log()).sum(1).mean() / 2
    torch.testing.assert_close(step.loss, loss, atol=1e-4, rtol=1e-4)
    before = module.centre.clone()
    module.after_step(0, 10)
    torch.testing.assert_close(module.centre, 0.9 * before + 0.1 * torch.stack(teacher).mean((0, 1)))


def test_dino_s_last_layer_waits():
    module, _ = make("dino", freeze_last=0.5)
    batch = make_batch(4, sensors=(S2,))
    module(batch, generator(0)).loss.backward()
    assert module.head.last.grad is None
    module.after_step(7, 10)
    module(batch, generator(1)).loss.backward()
    assert module.head.last.grad.abs().sum() > 0


def test_seco_s_three_spaces():
    module, how = make("seco")
    batch = make_batch(4, **how)
    step = module(batch, generator(3))
    draws = per_sample(generator(3), batch.where.key, "view")
    t0, t1, t2 = pick_dates(batch, draws, 3)
    looks = (module.config.views.change(t1, draws), t2, module.config.views.change(t0, draws))
    loss = torch.zeros(())
    for s in range(3):
        q = F.normalize(module.heads[s](module.encoder(t0).pooled), dim=1)
        keys = [F.normalize(module.slow[1 + s](module.slow[0](v).pooled), dim=1) for v in looks]
        for i in range(4):
            row = [q[i] @ keys[s][i]] + [q[i] @ v for v in module.queues[s]]
            row += [] if s == 0 else [q[i] @ keys[o][i] for o in range(3) if o != s]
            loss = loss - (torch.stack(row) / 0.07).log_softmax(0)[0] / 4
    torch.testing.assert_close(step.loss, loss, atol=1e-4, rtol=1e-4)
    module.after_step(0, 10)
    assert int(module.at) == 4


def test_seco_says_where_dates_are_too_few():
    with pytest.warns(SwathWarning, match="three dates of a place and the first sample has 2"):
        SeCo(dim=8, queue=4).build(Kit(Tiny((S2,)), make_batch(1, t=2, sensors=(S2,))))


def test_triplet_on_hand_numbers():
    a, n, d = torch.tensor([[0.0, 0]]), torch.tensor([[3.0, 4]]), torch.tensor([[0.0, 2]])
    assert float(triplet_loss(a, n, d, 1.0, 0.1)) == pytest.approx(5 - 2 + 1 + 0.1 * 7)
    assert float(triplet_loss(a, d, n, 1.0, 0.0)) == 0.0


def test_triplet_tiles_are_pieces_of_the_chip():
    module, how = make("triplet")
    batch = make_batch(3, **how)
    anchor, near = module.tiles(batch, per_sample(generator(0), batch.where.key, "tile"))
    assert anchor.layers[S2.id].shape == (3, 2, 4, 8, 8)
    assert not torch.equal(anchor.layers[S2.id].x, near.layers[S2.id].x)


def test_decur_matches_its_matrices():
    module, _ = make("decur")
    batch = make_batch(6)
    step = module(batch, generator(3))
    views = module.config.views.make(batch, per_sample(generator(3), batch.where.key, "view"), 2)
    z = [[module.embed(v, i) for v in views] for i in range(2)]

    def c(a, b):
        out = torch.zeros(16, 16)
        for i in range(16):
            for j in range(16):
                x, y = a[:, i] - a[:, i].mean(), b[:, j] - b[:, j].mean()
                var = ((x**2).mean() + 1e-5).sqrt() * ((y**2).mean() + 1e-5).sqrt()
                out[i, j] = (x * y).mean() / var
        return out

    def barlow(m, target):
        off = m[~torch.eye(len(m), dtype=torch.bool)]
        return ((m.diagonal() - target) ** 2).sum() + 0.0051 * (off**2).sum()

    cross = c(z[0][0], z[1][0])
    loss = barlow(c(*z[0]), 1) + barlow(c(*z[1]), 1) + (barlow(cross[:12, :12], 1) + barlow(cross[12:, 12:], 0)) / 2
    torch.testing.assert_close(step.loss, loss, atol=1e-3, rtol=1e-4)
    assert float(redundancy(correlation(z[0][0], z[0][0]), 1.0, 0.0).detach()) < 1e-4


def test_trap_7_projectors_are_tied_only_when_asked():
    """DeCUR's public code builds two nn.Sequential from the same layers."""
    free, _ = make("decur")
    tied, _ = make("decur", tie=True)
    assert free.projectors[0] is not free.projectors[1]
    assert not set(map(id, free.projectors[0].parameters())) & set(map(id, free.projectors[1].parameters()))
    assert tied.projectors[0] is tied.projectors[1]
    with pytest.raises(UserError, match="two sensors"):
        DeCUR(dim=8, common=4).build(Kit(Tiny((S2,)), make_batch(1, sensors=(S2,))))


def test_croma_parts():
    module, _ = make("croma")
    batch = make_batch(5)
    step = module(batch, generator(3))
    tokens = module.encoder.tokenize(batch)
    plan = module.plan(tokens, batch, generator(3))
    assert (plan.visible[:, :32].sum(1) == 8).all(), "each sensor keeps its own quarter"
    assert (plan.visible[:, 32:].sum(1) == 8).all()
    z = []
    for s in range(2):
        here = plan.visible & (tokens.place[:, 0] == s)
        rows = []
        for b in range(5):
            keep = here[b].nonzero()[:, 0][None]
            one = replace(tokens, x=tokens.x[b : b + 1], valid=tokens.valid[b : b + 1])
            rows.append(module.encoder.encode(one, keep).mean(1))
        z.append(F.normalize(module.projectors[s](torch.cat(rows)), dim=1))
    logits = z[0] @ z[1].T / 0.07
    want = (F.cross_entropy(logits, torch.arange(5)) + F.cross_entropy(logits.T, torch.arange(5))) / 2
    torch.testing.assert_close(step.terms["contrast"], want, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(step.loss, step.terms["contrast"] + step.terms["pixels"])


def test_croma_without_a_partner():
    """A sample that lacks a sensor is no pair: the contrast is that of the others alone."""
    module, _ = make("croma")
    batch = make_batch(5)
    radar = batch.layers[S1.id]
    valid = radar.valid.clone()
    valid[2] = False
    holed = replace(batch, layers={**batch.layers, S1.id: Layer.of(S1, radar.x, valid, radar.times)})
    rest = torch.tensor([0, 1, 3, 4])
    found, wanted = module(holed, generator(3)), module(batch[rest], generator(3))
    torch.testing.assert_close(found.terms["contrast"], wanted.terms["contrast"])
    found.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


def test_multimae_adds_sensors_and_keeps_decoders_apart():
    """Trap 8: MMEarth's public code shares the decoder's blocks between modalities."""
    module, _ = make("multimae")
    batch = make_batch(4)
    step = module(batch, generator(3))
    tokens, plan = plan_of(module, batch)
    total = torch.zeros(4)
    for part, pred in module.predict(batch, tokens, plan).values():
        for b in range(4):
            rows = [j for j, n in enumerate(part.index) if plan.target[b, n]]
            total[b] += (pred[b, rows] - part.value[b, rows]).square().mean().detach()
    torch.testing.assert_close(step.loss, total.mean(), atol=1e-5, rtol=1e-4)
    first, second = module.decoders.values()
    assert not set(map(id, first.parameters())) & set(map(id, second.parameters()))


def test_triplet_under_a_sky_of_its_own():
    """Each tile has its own gain and haze: geometry and places stay, values differ, the draw is the sample's."""
    from swath.objectives.triplet import Sky, Triplet

    batch = make_batch(3, sensors=(S2,))
    plain = Triplet().build(Kit(Tiny((S2,)), batch[torch.tensor([0])]))
    under = Triplet(sky=Sky(0.2, 0.2)).build(Kit(Tiny((S2,)), batch[torch.tensor([0])]))
    under.load_state_dict(plain.state_dict())
    g = generator(4)
    assert float(under(batch, g).loss) != float(plain(batch, g).loss)
    assert float(under(batch, g).loss) == float(under(batch, generator(4)).loss)
    whole, seen = Triplet(tile=1.0, sky=Sky(0.2, 0.2)).build(Kit(Tiny((S2,)), batch[torch.tensor([0])])), []
    whole.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].layers[S2.id].x))
    whole(batch, g)
    assert seen[0].shape == seen[1].shape == batch.layers[S2.id].x.shape
    assert (seen[0] - seen[1]).abs().flatten(1).amax(1).min() > 0.01, "one tile twice, under two skies"
    none = Triplet(sky=Sky(0.0, 0.0)).build(Kit(Tiny((S2,)), batch[torch.tensor([0])]))
    none.load_state_dict(plain.state_dict())
    torch.testing.assert_close(none(batch, g).loss, plain(batch, g).loss)
