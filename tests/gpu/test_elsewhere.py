"""Every encoder, objective and task on another device: nothing stays behind, and the answers are the CPU's."""

import sys
from pathlib import Path

import pytest
import torch

from pretend import THERE, Pretend, carried, elsewhere

sys.path.extend([str(Path(__file__).parents[1] / name) for name in ("contract", "objectives", "adapt")])
import tiny_adapt as tiny
from cases import CASES
from cases import make as make_objective
from test_encoders import batch_for
from test_tune import make as make_run
from tiny_tokens import make_batch

from swath.adapt.bundle import Bundle
from swath.adapt.tasks import TASKS
from swath.adapt.tune import tune
from swath.core import collate, generator
from swath.models import ENCODERS, build_encoder
from swath.models.layers import products
from swath.objectives import OBJECTIVES


def test_what_meets_is_refused_and_what_travels_comes_back():
    with elsewhere():
        x = torch.ones(3, device=THERE)
        with pytest.raises(RuntimeError, match="on the CPU"):
            x + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
        assert float((x + 1).sum()) == 6 and torch.equal((x * 2).cpu(), torch.full((3,), 2.0))


@pytest.mark.parametrize("name", ENCODERS.names())
def test_encoders(name, monkeypatch):
    monkeypatch.setattr(products, "LEAST", sys.maxsize)  # oneDNN is the CPU's alone: both sides take torch's own road
    torch.manual_seed(7)
    encoder = build_encoder(f"{name}/tiny").eval()
    batch = batch_for(encoder.spec, 2)
    with torch.no_grad():
        want = encoder(batch)
        with elsewhere():
            got = carried(encoder)(batch.to(THERE))
            assert all(isinstance(m, Pretend) for m in (*got.maps, got.pooled))
            for a, b in zip((*got.maps, got.pooled), (*want.maps, want.pooled), strict=True):
                assert torch.equal(a.cpu(), b)


@pytest.mark.parametrize("name", sorted(CASES))
def test_objectives(name):
    (here, how), (away, _) = make_objective(name), make_objective(name)
    batch = make_batch(**how)
    want = here(batch, generator(3, "step"))
    with elsewhere():
        got = carried(away)(batch.to(THERE), generator(3, "step"))
        got.loss.backward()
        assert float(got.loss) == pytest.approx(float(want.loss), rel=1e-5)
        grads = [p.grad for p in away.parameters() if p.grad is not None]
        assert grads and all(isinstance(g, Pretend) for g in grads)
        if hasattr(away, "after_step"):
            away.after_step(0, 10)


SOURCES = {
    "segment": tiny.TinySource("mask", n=16),
    "classify": tiny.TinySource("class", n=16),
    "multilabel": tiny.TinySource("tags", n=16),
    "regress": tiny.TinySource("map", n=16),
    "scalar": tiny.TinySource("scalar", n=16),
    "series": tiny.TinySource("class", n=16, dates=3),
    "change": tiny.ChangeSource(n=16),
    "boundaries": tiny.ObjectSource(n=16),
    "detect": tiny.ObjectSource(n=16),
    "instances": tiny.ObjectSource(n=16),
    "gapfill": tiny.HoleySource(n=16),
    "superres": tiny.CoarseSource(n=16),
}


@pytest.mark.parametrize("task", [*sorted(SOURCES), "detect-fcos"])
def test_tasks(task, tmp_path, monkeypatch):
    monkeypatch.setattr(products, "LEAST", sys.maxsize)  # as above: else ranks of strangeness tell the two roads apart
    source = SOURCES[task.removesuffix("-fcos")]
    task = {"kind": "detect", "head": "fcos"} if task == "detect-fcos" else task
    loop = {"steps": 1, "batch_size": 4, "progress": False}
    bundle = Bundle.load(
        tune(make_run(tmp_path, task=task, loop=loop, trust={"bootstrap": 0, "chips": 0}), source).bundle
    )
    batch = collate([source.sample(i) for i in range(2)])
    want = bundle.predict(batch, uncertainty=True)
    with elsewhere():
        carried(bundle.task)
        got = bundle.predict(batch.to(THERE), uncertainty=True)
        assert set(got) == set(want)
        for key in sorted(want):
            torch.testing.assert_close(got[key].detach().cpu(), want[key], atol=1e-5, rtol=1e-4)
        scores = bundle.task.scores()
        scores.update(got, batch.to(THERE))
        assert scores.compute()
        bundle.task.train().requires_grad_(True)
        bundle.task(batch.to(THERE), generator(3, "step")).loss.backward()


def test_every_task_and_objective_is_here():
    assert set(SOURCES) == set(TASKS.names())
    assert set(CASES) == set(OBJECTIVES.names())
