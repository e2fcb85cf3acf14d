"""Groups, layer decay and schedules."""

import math

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_train import ToyEncoder, ToyTask

from swath.core import UserError
from swath.train import LoopConfig
from swath.train.optim import blocks_of, build, depth_of, drops, groups, lr_factor, worth_going_on


def config(**more):
    return LoopConfig(**{"steps": 100, **more})


def test_blocks_are_found_by_shape_not_by_name():
    assert [n for n, _ in blocks_of(ToyEncoder(depth=4))] == [f"blocks.{i}" for i in range(4)]
    stages = torch.nn.Module()
    stages.body = torch.nn.Sequential(*(ToyEncoder(depth=2) for _ in range(2)))
    assert [n for n, _ in blocks_of(stages)] == [f"body.{i}.blocks.{j}" for i in range(2) for j in range(2)]


def test_layer_decay_grows_with_depth():
    rows = groups(ToyTask(), config(layer_decay=0.5))
    scale = {n: g["scale"] for g in rows for n in g["names"]}
    assert scale["encoder.embed.weight"] == 0.5**4
    assert scale["encoder.blocks.0.up.weight"] == 0.5**3
    assert scale["encoder.blocks.2.up.weight"] == 0.5
    assert scale["encoder.norm.weight"] == scale["head.weight"] == 1.0
    assert depth_of(ToyEncoder())["blocks.1.norm.weight"] == 2


def test_vectors_do_not_decay_and_frozen_ones_are_absent():
    module = ToyTask()
    module.encoder.embed.requires_grad_(False)
    rows = groups(module, config(weight_decay=0.1))
    decay = {n: g["weight_decay"] for g in rows for n in g["names"]}
    assert decay["head.weight"] == 0.1
    assert decay["head.bias"] == decay["encoder.norm.weight"] == 0.0
    assert "encoder.embed.weight" not in decay
    module.requires_grad_(False)
    with pytest.raises(UserError, match="everything is frozen"):
        groups(module, config())


def test_schedules_at_known_points():
    cos = config(schedule="cosine", warmup=10, floor=0.1)
    assert lr_factor(cos, 0, 110) == pytest.approx(1 / 11)
    assert lr_factor(cos, 10, 110) == 1.0
    assert lr_factor(cos, 60, 110) == pytest.approx(0.55)
    assert lr_factor(cos, 110, 110) == pytest.approx(0.1)
    assert lr_factor(config(schedule="linear"), 25, 100) == 0.75
    steps = config(schedule="multistep", milestones=(0.6, 80), gamma=0.1)
    assert [lr_factor(steps, s, 100) for s in (59, 60, 80)] == pytest.approx([1, 0.1, 0.01])
    assert lr_factor(config(schedule="constant"), 99, 100) == 1.0
    assert lr_factor(config(warmup=0.5), 24, 100) == pytest.approx(25 / 51)


@given(
    st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5]), max_size=25),
    st.integers(0, 4),
    st.sampled_from(["min", "max"]),
)
def test_plateau_drops_where_torch_drops(history, patience, mode):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, 0.5, patience, threshold=0.0)
    for value in history:
        torchs.step(value)
    assert 0.5 ** drops(history, patience, 1 if mode == "max" else -1) == pytest.approx(optimizer.param_groups[0]["lr"])


def test_plateau_and_patience_look_at_history_only():
    flat = [0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.7]
    assert drops(flat, 3, 1) == 1 and drops(flat, 4, 1) == 0
    assert lr_factor(config(schedule="plateau", plateau_patience=3), 9, 100, flat) == pytest.approx(0.1)
    assert drops([3, 2, 1], 2, -1) == 0
    assert worth_going_on([0.5, 0.6, 0.6], 2, 1)
    assert not worth_going_on([0.5, 0.6, 0.6, 0.5], 2, 1)
    assert worth_going_on([], 1, 1)
    nan = math.nan  # no score: neither the best so far nor a gain
    assert worth_going_on([nan, 0.5, 0.6, 0.7], 2, 1) and worth_going_on([nan, 0.5, 0.6, nan], 2, 1)
    assert not worth_going_on([0.5, nan, nan], 2, 1) and not worth_going_on([nan, nan, nan], 2, -1)


@given(st.integers(0, 1000), st.integers(1, 1000), st.floats(0, 0.9), st.sampled_from(["cosine", "linear"]))
def test_the_factor_stays_between_zero_and_one(step, total, warmup, schedule):
    value = lr_factor(config(schedule=schedule, warmup=warmup), min(step, total), total)
    assert 0 <= value <= 1
    assert math.isfinite(value)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_optimisers_reduce_a_quadratic(name):
    module = torch.nn.Linear(4, 4)
    target = torch.eye(4)
    rate = {"adamw": 0.05, "sgd": 0.05, "lars": 20.0}[name]
    optimizer = build(module, config(optimizer=name, weight_decay=0.0))
    for g in optimizer.param_groups:
        g["lr"] = rate
    losses = []
    for _ in range(60):
        loss = ((module.weight - target) ** 2).sum() + (module.bias**2).sum() * 0.01
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


def test_config_refuses():
    with pytest.raises(UserError, match="either"):
        LoopConfig()
    with pytest.raises(UserError, match="multiple"):
        LoopConfig(steps=1, batch_size=10, accumulate=3)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_updates_are_those_of_torch(name):
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    mine = build(ours, config(optimizer=name, weight_decay=0.1, betas=(0.9, 0.95)))
    rows = [{"params": [theirs.weight], "weight_decay": 0.1}, {"params": [theirs.bias], "weight_decay": 0.0}]
    if name == "adamw":
        other = torch.optim.AdamW(rows, lr=0.01, betas=(0.9, 0.95))
    else:
        other = torch.optim.SGD(rows, lr=0.01, momentum=0.9)
    for g in mine.param_groups:
        g["lr"] = 0.01
    for i in range(12):
        x = torch.randn(8, 5)
        for module, optimizer in ((ours, mine), (theirs, other)):
            optimizer.zero_grad()
            (module(x).sin() * (i + 1)).mean().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(ours.bias, theirs.bias, atol=1e-7, rtol=1e-6)


def test_the_compiler_is_not_imported_for_a_plain_run(tmp_path):
    import os
    import subprocess
    import sys
    from pathlib import Path

    code = (
        "import sys\nfrom toy_train import *\nfrom swath.train import *\n"
        "fit(ToyTask(), Feed(ToySource()), LoopConfig(steps=1, progress=False), out=sys.argv[1])\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    here = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": f"{here}:{here.parents[1] / 'src'}"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=env, check=True)


STAGED = {"resnet18": "conv1", "convnext_atto": "stem", "swin_tiny_patch4_window7_224": "patch_embed"}


@pytest.mark.parametrize(("model", "blocks"), zip(STAGED, (8, 12, 12), strict=True))
def test_depth_grows_along_networks_of_stages(model, blocks):
    """Every stage counts, and what leads from one to the next stands between them."""
    net = timm.create_model(model, num_classes=0)
    depth = depth_of(net)
    assert len(blocks_of(net)) == blocks and set(depth.values()) >= set(range(blocks + 1))
    for name, layer in depth.items():
        assert (layer == 0) == (name.startswith((STAGED[model], "bn1"))), name
        if ".downsample." in name and model != "resnet18":
            stage = name.split(".downsample")[0]
            assert layer == min(v for k, v in depth.items() if k.startswith(f"{stage}.blocks.")), name
    order = [max(v for k, v in depth.items() if b + "." in k) for b, _ in blocks_of(net)]
    assert order == list(range(1, blocks + 1))
