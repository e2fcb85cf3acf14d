"""On a real GPU: the CPU's answers, and runs that learn. Skipped where there is none."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.extend([str(Path(__file__).parents[1] / name) for name in ("contract", "objectives", "adapt")])
import tiny_adapt as tiny
from cases import CASES
from cases import make as make_objective
from test_encoders import batch_for
from test_tune import make as make_run
from tiny_tokens import TinySource

from swath.adapt.bundle import Bundle
from swath.adapt.tune import tune
from swath.core import collate
from swath.models import ENCODERS, build_encoder
from swath.train import Feed, LoopConfig, fit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.mark.parametrize("name", ENCODERS.names())
def test_encoders(name):
    torch.manual_seed(7)
    encoder = build_encoder(f"{name}/tiny").eval()
    batch = batch_for(encoder.spec, 2)
    with torch.no_grad():
        want = encoder(batch)
        got = encoder.to("cuda")(batch.to("cuda"))
        for a, b in zip((*got.maps, got.pooled), (*want.maps, want.pooled), strict=True):
            torch.testing.assert_close(a.cpu(), b, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_bundle_tuned_there_answers_the_same_here(tmp_path, precision):
    source = tiny.TinySource("mask", n=40)
    loop = {"epochs": 6, "batch_size": 8, "progress": False, "device": "cuda", "precision": precision}
    found = tune(make_run(tmp_path, task="segment", loop=loop), source)
    assert found.scores["iou_macro"] > 0.6
    batch = collate([source.sample(i) for i in range(4)])
    here = Bundle.load(found.bundle).predict(batch)["probabilities"]
    there = Bundle.load(found.bundle).to("cuda").predict(batch.to("cuda"))["probabilities"].cpu()
    torch.testing.assert_close(there, here, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("name", sorted(CASES))
def test_objectives_learn(tmp_path, name):
    module, how = make_objective(name)
    config = LoopConfig(
        steps=20, batch_size=8, lr=2e-3, warmup=2, clip=1.0, progress=False, energy="off", device="cuda"
    )
    fit(module, Feed(TinySource(**how)), config, out=tmp_path)
    assert all(torch.isfinite(p).all() for p in module.parameters())
