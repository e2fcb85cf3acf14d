"""MAE against a direct transcription of the algorithm, sample by sample and token by token."""

from dataclasses import replace

import pytest
import torch
from cases import learn
from tiny_tokens import DW, S1, S2, Tiny, make_batch

from swath.core import generator, per_sample
from swath.objectives import Kit
from swath.objectives.losses.pixels import weigh
from swath.objectives.mae import MAE
from swath.objectives.masks import draw
from swath.objectives.masks.random import Random
from swath.objectives.predictors import Decoder
from swath.objectives.targets.pixels import paste, patches, standard, standardise

SMALL = {"width": 24, "depth": 1, "heads": 2}


def objective(sensors=(S2, S1), **more):
    torch.manual_seed(0)
    return MAE(**{**SMALL, **more}).build(Kit(Tiny(sensors), make_batch(1, sensors=sensors)))


@pytest.mark.parametrize("norm_pix", [False, True])
@pytest.mark.parametrize("holes", [False, True])
def test_loss_is_the_paper_s(norm_pix, holes):
    batch, module = make_batch(holes=holes), objective(norm_pix=norm_pix)
    step = module(batch, generator(5))
    tokens = module.encoder.tokenize(batch)
    plan = draw(Random(), tokens, per_sample(generator(5), batch.where.key, "mask"))
    made = module.predict(batch, tokens, plan)
    total, count = 0.0, 0
    for s, name in enumerate(tokens.sensors):
        layer, (_, pred) = batch.layers[name], made[name]
        x = standard(layer)
        mine = (tokens.place[:, 0] == s).nonzero()[:, 0]
        for b in range(len(batch)):
            for j, n in enumerate(mine):
                if not plan.target[b, n]:
                    continue
                _, _, t, r, c = tokens.place[n].tolist()
                window = (b, t, slice(None), slice(4 * r, 4 * r + 4), slice(4 * c, 4 * c + 4))
                value, valid = x[window].flatten(1), layer.valid[window].flatten()
                if norm_pix:
                    seen = value[:, valid]
                    value = (value - seen.mean()) / (seen.var() + 1e-6).sqrt()
                gap = (pred[b, j].detach() - value)[:, valid].square().mean()
                total, count = total + float(gap), count + 1
    assert step.weight == count
    assert float(step.loss) == pytest.approx(total / count, rel=1e-5)


def test_patches_and_paste_are_inverse_and_norm_is_timm_s():
    batch = make_batch()
    tokens = Tiny().tokenize(batch)
    part = patches(batch, tokens)[S2.id]
    assert torch.equal(paste(part.value, part, (4, 4), 2), standard(batch.layers[S2.id]))
    flat = part.value.flatten(2)
    want = (flat - flat.mean(-1, keepdim=True)) / (flat.var(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(standardise(part).flatten(2), want)


def test_the_encoder_sees_visible_tokens_only():
    seen = []
    module = objective()
    encode = module.encoder.encode
    module.encoder.encode = lambda t, keep=None: (seen.append(keep.shape[1]), encode(t, keep))[1]
    module(make_batch(), generator(1))
    assert seen == [16]  # 2 sensors x 2 dates x 16 places, a quarter of them


def test_hidden_pixels_cannot_leak():
    """Changing only hidden pixels changes no prediction."""
    from dataclasses import replace

    batch, module = make_batch(), objective()
    tokens = module.encoder.tokenize(batch)
    plan = draw(Random(), tokens, per_sample(generator(2), batch.where.key, "mask"))
    before = module.predict(batch, tokens, plan)[S2.id][1]
    layer = batch.layers[S2.id]
    mask = plan.target[:, :32].view(4, 2, 1, 4, 4).repeat_interleave(4, 3).repeat_interleave(4, 4)
    noisy = replace(layer, x=torch.where(mask, layer.x + 1, layer.x))
    other = replace(batch, layers={**batch.layers, S2.id: noisy})
    after = module.predict(other, module.encoder.tokenize(other), plan)[S2.id][1]
    torch.testing.assert_close(before, after)


def test_a_sensor_without_hidden_tokens_does_not_count():
    """Trap 15: a mean over modalities divides by those with nothing to predict too."""
    batch, module = make_batch(), objective()
    tokens = module.encoder.tokenize(batch)
    hidden = torch.zeros(4, 64, dtype=torch.bool)
    hidden[:, :8] = True
    plan = draw(Random(), tokens, per_sample(generator(2), batch.where.key, "mask"))
    state = torch.where(hidden, torch.ones_like(plan.state), torch.full_like(plan.state, 2))
    sums = module.loss(batch, tokens, replace(plan, state=state))
    mean, count = weigh(sums)
    assert count == 32
    assert sums[S1.id].count == 0
    assert float(mean) == pytest.approx(float(sums[S2.id].mean))


def test_any_number_of_bands_with_the_spectral_head():
    class AnyBands(Tiny):
        def tokenize(self, batch):
            layers = {k: v.select(list(v.sensor.names[:2])) for k, v in batch.layers.items()}
            return super().tokenize(replace(batch, layers=layers))

    sensors = (S2.select(["green", "red"]), S1)
    torch.manual_seed(0)
    module = MAE(**SMALL, head="spectral").build(Kit(AnyBands(sensors), make_batch(1)))
    step = module(make_batch(), generator(0))
    step.loss.backward()
    assert torch.isfinite(step.loss)
    assert module.heads.mix[0].weight.grad.abs().sum() > 0
    fewer = make_batch(sensors=(S2.select(["green", "red", "nir"]), S1))
    assert torch.isfinite(module(fewer, generator(0)).loss)


def test_class_layers_are_predicted_as_classes():
    module = objective((S2, DW), norm_pix=False)
    step = module(make_batch(sensors=(S2, DW)), generator(0))
    k = len(DW.classes)
    assert float(step.terms[f"mae/{DW.id}"]) == pytest.approx(torch.tensor(float(k)).log().item(), rel=0.3)


def test_pictures_show_what_was_hidden():
    pictures = objective().pictures(make_batch(), generator(0))
    assert pictures[S2.id].shape == (4, 3, 2, 4, 16, 16)
    given, shown, made = pictures[S2.id].unbind(1)
    assert 0.2 < float((shown == given).float().mean()) < 0.3
    assert torch.equal(made[shown == given], given[shown == given])


def test_it_learns():
    losses = learn(objective(), make_batch(8), 30, 3e-3)
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])


@pytest.mark.parametrize("style", ["joint", "alibi", "cross"])
def test_a_decoder_asked_for_some_rows_gives_these_rows(style):
    batch, encoder = make_batch(holes=True), Tiny()
    tokens = encoder.tokenize(batch)
    plan = draw(Random(0.6, predict=0.5), tokens, per_sample(generator(2), batch.where.key, "mask"))
    decoder = Decoder(32, 24, 2, 2, style)
    kept = encoder.encode(plan.padded(tokens), plan.keep)
    every, some = decoder(kept, plan, batch, tokens), decoder(kept, plan, batch, tokens, plan.targets)
    torch.testing.assert_close(some, every.gather(1, plan.targets[..., None].expand_as(some)))
    real = plan.target.gather(1, plan.targets)
    assert int(real.sum()) == int(plan.target.sum()), "every target is asked for"
