"""What every objective promises the loop; its guarantees for three of them are in test_guarantees.py."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from cases import CASES, make
from tiny_tokens import S1, S2, Tiny, TinySource, make_batch

from swath.core import generator
from swath.core.config import parse_member
from swath.objectives import OBJECTIVES, Kit
from swath.train import Feed, LoopConfig, fit
from swath.train.cached import in_parts

BASE = LoopConfig(steps=6, batch_size=8, lr=2e-3, clip=1.0, save_every=2, log_every=1, progress=False)


def run(out, name, config=BASE):
    module, how = make(name)
    report = fit(module, Feed(TinySource(**how)), config, out=out)
    return module.state_dict(), report


def test_every_objective_has_a_case():
    assert sorted(CASES) == OBJECTIVES.names()


@pytest.mark.parametrize("name", sorted(CASES))
def test_contract(name):
    """A finite scalar, a positive weight, a gradient into the encoder, and the same step from the same address."""
    module, how = make(name)
    batch = make_batch(4, **how)
    step = module(batch, generator(3))
    assert step.loss.shape == ()
    assert torch.isfinite(step.loss)
    assert step.weight > 0
    step.loss.backward()
    grads = [p.grad for p in module.encoder.parameters() if p.grad is not None]
    assert sum(float(g.abs().sum()) for g in grads) > 0
    assert all(torch.isfinite(g).all() for g in grads)
    again = make(name)[0](batch, generator(3))
    assert torch.equal(step.loss.detach(), again.loss.detach())
    module.after_step(0, 10)


COUPLED = [n for n in sorted(CASES) if make(n)[0].batch_coupled]


@pytest.mark.parametrize("name", COUPLED)
def test_cached_gradients_are_the_whole_batch_s(name):
    """The encoder sees parts of a batch; loss and gradient are those of the whole batch."""
    (whole, how), (parted, _) = make(name), make(name)
    batch = make_batch(8, **how)
    losses, seen = [], {1: [], 3: []}
    for module, parts in ((whole, 1), (parted, 3)):
        module.train()
        module.encoder.norm.register_forward_hook(lambda _m, _i, out, parts=parts: seen[parts].append(len(out)))
        with in_parts(module.encoder, parts) if parts > 1 else nullcontext():
            step = module(batch, generator(1))
        step.loss.backward()
        losses.append(float(step.loss.detach()))
    assert max(seen[3]) <= -(-max(seen[1]) // 3), "a third of what it sees at once, of several views a sample too"
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    scale = max(float(p.grad.abs().max()) for p in whole.parameters() if p.grad is not None)
    for (key, a), b in zip(whole.named_parameters(), parted.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), key
        if a.grad is not None:
            assert float((a.grad - b.grad).abs().max()) <= 1e-5 * scale, key


class Placed(Tiny):
    """Reads the coordinates of a sample."""

    def tokenize(self, batch):
        tokens = super().tokenize(batch)
        known = torch.nan_to_num(batch.where.lonlat).float().sum(1)
        return replace(tokens, x=tokens.x + known[:, None, None] * torch.linspace(-1, 1, self.width))


def placed(name, batch, **more):
    """The loss where the encoder knows, and may read, where each sample lies."""
    torch.manual_seed(0)
    given, how = CASES[name]
    encoder = Placed(how.get("sensors", (S2, S1)))
    torch.manual_seed(11)
    module = parse_member({"kind": name, **given, **more}, OBJECTIVES).build(Kit(encoder, make_batch(1, **how)))
    return module(batch, generator(3)).loss.detach()


@pytest.mark.parametrize("name", COUPLED)
def test_samples_are_not_told_apart_by_their_coordinates(name):
    """Both sides of a contrast have them in common, so an encoder that reads them need not look at a pixel."""
    batch = make_batch(4, **CASES[name][1])
    lonlat = torch.rand(4, 2, generator=generator("lonlat")).double() * 90
    moved = replace(batch, where=replace(batch.where, lonlat=lonlat))
    assert torch.equal(placed(name, batch), placed(name, moved))
    if name in ("croma", "latent-mim"):
        assert not torch.equal(placed(name, batch), placed(name, moved, hide_place=False)), "the control"


def test_a_coupled_run_in_parts_is_the_run(tmp_path):
    """Sums, not Adam: an update that divides by the gradient's size would blow rounding up."""
    config = replace(BASE, steps=4, optimizer="sgd", lr=1e-2)
    one, _ = run(tmp_path / "one", "croma", config)
    four, report = run(tmp_path / "four", "croma", replace(config, accumulate=4))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one.values(), four.values(), strict=True))
    assert report.compute["flops_by_shape"].keys() == {"8 x sentinel2-l2a 2x4x16x16 + sentinel1-rtc 2x2x16x16"}


def kept_bytes(module, batch, parts):
    """Bytes that the graph of a loss keeps for its backward pass."""
    kept = {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
    with hooks, in_parts(module.encoder, parts) if parts > 1 else nullcontext():
        module(batch, generator(0))
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    return sum(v for k, v in kept.items() if k not in own)


def test_cached_gradients_keep_less():
    batch = make_batch(16)
    module, _ = make("decur")
    assert kept_bytes(module, batch, 8) < 0.5 * kept_bytes(module, batch, 1)


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_sample_alone_is_the_sample_in_the_batch(name):
    """Where samples do not meet, the loss of a batch is the weighted mean of the samples' own losses."""
    module, how = make(name)
    if module.batch_coupled:
        return  # see test_cached_gradients_are_the_whole_batch_s
    # a sum of objectives counts samples: exact where each hides equally many tokens a sample
    batch = make_batch(4, holes=name != "sum", **how)
    whole = module(batch, generator(3))
    ones = [module(batch[i], generator(3)) for i in range(4)]
    mean = sum(float(s.loss.detach()) * s.weight for s in ones) / sum(s.weight for s in ones)
    assert mean == pytest.approx(float(whole.loss.detach()), rel=1e-4)
    assert sum(s.weight for s in ones) == pytest.approx(whole.weight)


@pytest.mark.parametrize("name", sorted(CASES))
def test_bf16(name):
    module, how = make(name)
    with torch.autocast("cpu", torch.bfloat16):
        step = module(make_batch(4, **how), generator(3))
    assert step.loss.dtype == torch.float32
    exact = make(name)[0](make_batch(4, **how), generator(3)).loss.detach()
    assert float(step.loss.detach()) == pytest.approx(float(exact), rel=0.05, abs=0.02)
