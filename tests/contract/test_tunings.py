"""Every tuning on every trunk it is declared for: a tiny run learns, its delta saves and loads, and it merges."""

import copy
import sys
from pathlib import Path

import pytest
import torch

from swath.adapt import delta, sites
from swath.adapt.task import Context
from swath.adapt.tasks.segment import Segment
from swath.adapt.tuning import TUNINGS
from swath.adapt.tuning.bitfit import BitFit
from swath.adapt.tuning.lora import LoRA
from swath.core.batch import collate
from swath.core.errors import UserError
from swath.models.decoders.linear import Linear

sys.path.insert(0, str(Path(__file__).parents[1] / "adapt"))
import tiny_adapt as tiny

TRUNKS = ("vit", "swin", "resnet")
SPECIAL = {"hybrid": {"parts": (LoRA(rank=4), BitFit())}, "selective": {"patterns": ("*norm*", "*bn*", "*layer1*")}}
FACTOR = 0.8
"""After 30 steps the loss is at most this share of the first one."""
STILL = ("frozen", "linear", "knn")


def make(name, trunk):
    member = TUNINGS.get(name)
    given = dict(SPECIAL.get(name, {}))
    if name == "selective":
        given["patterns"] = {"vit": ("*norm*", "*mlp*"), "swin": ("*norm*", "*mlp*"), "resnet": ("*bn*", "*layer1*")}[
            trunk
        ]
    return member(**given)


def pairs():
    return [(n, t) for n in TUNINGS.names() for t in TRUNKS if t in TUNINGS.get(n).on]


@pytest.fixture(scope="module")
def batch():
    source = tiny.TinySource(n=8)
    return collate([source.sample(i) for i in range(8)])


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_convolutions_by_groups_are_left_out(name):
    """As in ConvNeXt and ResNeXt: a rank below the groups is none, and `peft` refuses it."""
    base = tiny.build("resnet")
    base.trunk.layer1[0].conv2 = torch.nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
    tuned = TUNINGS.get(name)(rank=4).apply(copy.deepcopy(base))
    inserted = {k for k, p in tuned.named_parameters() if p.requires_grad}
    assert any("layer1.0.conv1" in k for k in inserted) and not any("layer1.0.conv2" in k for k in inserted)
    assert set(TUNINGS.get(name)().merge(tuned).state_dict()) == set(base.state_dict())


@pytest.mark.parametrize(("name", "trunk"), pairs())
def test_learns_saves_loads_merges(name, trunk, batch):
    tuning, base = make(name, trunk), tiny.build(trunk)
    prints = delta.fingerprints(base)
    task = Segment().build(Context(tiny.LABELS["mask"], tuning.apply(base), Linear()))
    first, last = train(task, batch)
    assert last < FACTOR * first
    changed = delta.changes(task.encoder, prints)
    assert bool(changed) == (name not in STILL)
    other = tuning.apply(tiny.build(trunk))
    delta.load(other, changed)
    task.eval()
    with torch.no_grad():
        want = task.encoder(batch)
        again = other.eval()(batch)
        merged = tuning.merge(copy.deepcopy(task.encoder)).eval()(batch)
    for a, b, c in zip(
        (*want.maps, want.pooled), (*again.maps, again.pooled), (*merged.maps, merged.pooled), strict=True
    ):
        assert torch.equal(a, b)
        torch.testing.assert_close(c, a, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "trunk"), [p for p in pairs() if TUNINGS.get(p[0]).exact])
def test_exact_merge_restores_the_layout(name, trunk):
    tuning = make(name, trunk)
    merged = tuning.merge(tuning.apply(tiny.build(trunk)))
    assert set(merged.state_dict()) == set(tiny.build(trunk).state_dict())


@pytest.mark.parametrize(
    ("name", "trunk"), [(n, t) for n in TUNINGS.names() for t in TRUNKS if t not in TUNINGS.get(n).on]
)
def test_undeclared_pairs_are_refused_in_words(name, trunk):
    with pytest.raises(UserError, match=name):
        make(name, trunk).apply(tiny.build(trunk))


def train(task, batch, steps=30):
    moving = [p for p in task.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=1e-2)
    losses = []
    for _ in range(steps):
        torch.manual_seed(0)
        task.train()
        step = task(batch)
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        losses.append(float(step.loss))
    return losses[0], losses[-1]


@pytest.mark.parametrize("trunk", TRUNKS)
def test_trunks_are_recognised(trunk):
    encoder = tiny.build(trunk)
    assert sites.trunk(encoder) == trunk
    assert len(sites.blocks(encoder)) == {"vit": 4, "swin": 4, "resnet": 6}[trunk]


def test_several_deltas_share_one_base():
    base = tiny.build("vit")
    mine = [LoRA().apply(copy.deepcopy(base)) for _ in range(2)]
    for one in mine:
        assert delta.share(one, base) > 0
    names = {delta.base_name(n): p for n, p in mine[0].named_parameters()}
    for n, p in base.named_parameters():
        assert names[n].data_ptr() == p.data_ptr()
    with torch.no_grad():
        for n, p in mine[0].named_parameters():
            if "lora_B" in n:
                p.add_(0.1)
    batch = collate([tiny.TinySource().sample(0)])
    a, b, c = (m.eval()(batch).pooled for m in (*mine, base))
    assert not torch.allclose(a, b)
    torch.testing.assert_close(b, c)


@pytest.mark.parametrize("given", ["holes", "whole", "bf16"])
@pytest.mark.parametrize("name", [n for n in TUNINGS.names() if "vit" in TUNINGS.get(n).on])
def test_swath_vit_takes_every_tuning(name, given, batch):
    """Its blocks are flat, its attention is masked where pixels are missing and goes ways of its own where none are:
    what is inserted must still learn."""
    from dataclasses import replace

    from swath.core.batch import Batch
    from swath.models import build_encoder

    own = {**SPECIAL.get(name, {}), **({"patterns": ("*norm*", "*fc1*")} if name == "selective" else {})}
    tuning = TUNINGS.get(name)(**own)
    torch.manual_seed(0)
    encoder = tuning.apply(build_encoder({"kind": "swath-vit", "size": "nano", "patch": 8}))
    layer = batch.layers[tiny.SENSOR.id]
    valid = layer.valid.clone()
    valid[..., :8, :8] = given != "holes"
    some = Batch({tiny.SENSOR.id: replace(layer, valid=valid)}, batch.where)[:2]
    with torch.autocast("cpu", torch.bfloat16, enabled=given == "bf16"):
        found = encoder.eval()(some)
    moving = [p for p in encoder.parameters() if p.requires_grad]
    assert bool(moving) == (name not in STILL)
    if moving:
        (found.maps[-1].square().mean() + found.pooled.sum()).backward()
        assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in moving)
    if given != "bf16":
        with torch.no_grad():
            merged = tuning.merge(copy.deepcopy(encoder)).eval()(some)
        torch.testing.assert_close(merged.pooled, found.pooled.detach(), atol=1e-5, rtol=1e-5)


def test_the_selective_default_finds_norms_by_what_they_are():
    base = TUNINGS.get("selective")().apply(tiny.build("resnet"))
    moving = [n for n, p in base.named_parameters() if p.requires_grad]
    assert moving and all(".bn" in n or ".downsample.1." in n for n in moving)
    with pytest.raises(UserError, match="no parameters to select from"):
        TUNINGS.get("selective")().apply(torch.nn.Identity())
