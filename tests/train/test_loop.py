"""The guarantees of the loop on one process: exact resume, workers, accumulation, refusals, non-finite values."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy_train import ToySource, ToyTask, flat, same

from swath.core import SwathError, UserError
from swath.train import Feed, LoopConfig, Validation, checkpoint, fit

BASE = LoopConfig(steps=12, batch_size=6, lr=5e-3, warmup=2, ema=0.9, clip=1.0, save_every=4, progress=False)


def train(out, config=BASE, module=None, source=None, **more):
    module = module or ToyTask(dropout=0.2, noise=True)
    report = fit(module, Feed(source or ToySource()), config, out=out, **more)
    return module, report


def lines(out):
    return [json.loads(t) for t in (out / "metrics.jsonl").read_text().splitlines()]


CHILD = """
import sys
from pathlib import Path
from toy_train import *
from swath.train import *
out, at, where = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
config = LoopConfig(steps=12, batch_size=6, lr=5e-3, warmup=2, ema=0.9, clip=1.0, save_every=4, progress=False)
if where == "saving":
    from swath.train import checkpoint
    real, count = checkpoint._sync, [0]
    def dying(path):
        count[0] += 1
        if count[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        real(path)
    checkpoint._sync = dying
module = ToyTask(dropout=0.2, noise=True, sleep_kill=at if where == "step" else None)
fit(module, Feed(ToySource()), config, out=out)
"""


def child(out, at, where):
    path = f"{Path(__file__).parent}:{Path(__file__).parents[2] / 'src'}"
    command = [sys.executable, "-c", CHILD, str(out), str(at), where]
    return subprocess.run(command, env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PATH": "/usr/bin"}, check=False)


@pytest.mark.parametrize(("at", "where"), [(2, "step"), (9, "step"), (2, "saving"), (7, "saving")])
def test_kill_9_and_resume_gives_the_same_weights_bitwise(tmp_path, at, where):
    whole, _ = train(tmp_path / "whole")
    killed = tmp_path / "killed"
    assert child(killed, at, where).returncode == -9
    resumed, report = train(killed)
    assert report.steps == 12
    if (at, where) != (2, "step") and where == "step":
        assert report.resumed_from == 8
    assert same(flat(whole), flat(resumed))
    assert int(resumed.seen) == 12
    assert not list((killed / "checkpoints").glob(".tmp-*"))


def test_stopping_at_every_step_gives_the_same_run(tmp_path):
    config = replace(BASE, save_every=1, keep=2)
    whole, _ = train(tmp_path / "whole", config)

    class Stop(Exception):
        pass

    class Fragile(ToyTask):
        left = 1

        def after_step(self, step, total):
            super().after_step(step, total)
            if self.left == 0:
                raise Stop
            self.left -= 1

    rounds = 0
    while True:
        module = Fragile(dropout=0.2, noise=True)
        try:
            train(tmp_path / "pieces", config, module)
            break
        except Stop:
            rounds += 1
    assert rounds > 5
    assert same(flat(whole), flat(module))
    assert [r["step"] for r in lines(tmp_path / "pieces")] == [r["step"] for r in lines(tmp_path / "whole")]


@pytest.mark.parametrize(("workers", "start"), [(1, "fork"), (2, "fork"), (2, "spawn")])
def test_workers_change_nothing(tmp_path, workers, start):
    alone, a = train(tmp_path / "a")
    many, b = train(tmp_path / "b", replace(BASE, workers=workers, start=start))
    assert same(flat(alone), flat(many))
    assert a.loss == b.loss


def test_accumulation_counts_truly(tmp_path):
    """Parts of unequal weight give the gradient of the whole batch, not a mean of means."""
    config = replace(BASE, steps=5, ema=None)
    runs = {k: train(tmp_path / str(k), replace(config, accumulate=k), ToyTask())[0].state_dict() for k in (1, 2, 3, 6)}
    for k in (2, 3, 6):
        for name, value in runs[1].items():
            torch.testing.assert_close(runs[k][name], value, atol=2e-6, rtol=1e-4)


def test_the_control_mean_of_means_would_differ(tmp_path):
    class Flat(ToyTask):
        def forward(self, batch, g):
            out = super().forward(batch, g)
            return replace(out, weight=1.0)

    config = replace(BASE, steps=5, ema=None)
    right = train(tmp_path / "a", config, ToyTask())[0].state_dict()
    wrong = train(tmp_path / "b", replace(config, accumulate=3), Flat())[0].state_dict()
    assert max(float((right[k] - wrong[k]).abs().max()) for k in right) > 1e-5


def test_feed_covers_each_sample_once_and_orders_by_epoch():
    feed, config = Feed(ToySource(), range(3, 23)), LoopConfig(epochs=2, batch_size=6, drop_last=False)
    parts = list(feed.parts(config, (0, 8)))
    first = [i for p in parts if p.epoch == 0 for i in p.samples]
    assert sorted(first) == list(range(3, 23))
    assert first != [i for p in parts if p.epoch == 1 for i in p.samples]
    assert [len(p.samples) for p in parts[:4]] == [6, 6, 6, 2]
    later = list(feed.parts(config, (5, 8)))
    assert later == parts[5:]


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_feed_keeps_the_order_for_any_world(world, accumulate):
    feed, config = Feed(ToySource()), LoopConfig(steps=6, batch_size=8, accumulate=accumulate)
    alone = [i for p in feed.parts(replace(config, accumulate=1), (0, 6)) for i in p.samples]
    ranks = [list(feed.parts(config, (0, 6), r, world)) for r in range(world)]
    steps = [[p.samples for p in rank if p.step == step] for step in range(6) for rank in ranks]
    assert [i for parts in steps for samples in parts for i in samples] == alone


def test_a_mismatch_is_an_error_that_shows_the_difference(tmp_path):
    train(tmp_path, run={"objective": {"mask_ratio": 0.75}})
    with pytest.raises(UserError, match=r"lr: 0.005 in the checkpoint, 0.001 now"):
        train(tmp_path, replace(BASE, lr=1e-3), run={"objective": {"mask_ratio": 0.75}})
    with pytest.raises(UserError, match=r"mask_ratio: 0.75 in the checkpoint, 0.6 now"):
        train(tmp_path, run={"objective": {"mask_ratio": 0.6}})
    with pytest.raises(UserError, match=r"data.source: 'toy-24-8'"):
        train(tmp_path, source=ToySource(n=30), run={"objective": {"mask_ratio": 0.75}})
    _, report = train(tmp_path, replace(BASE, lr=1e-3, allow=("config",)), run=None)
    assert report.resumed_from == 12


def test_code_and_environment_are_part_of_it(tmp_path, monkeypatch):
    from swath.train import checkpoint

    train(tmp_path)
    real = checkpoint.fingerprints

    def other(config, data):
        out = real(config, data)
        return out | {"environment": {**out["environment"], "torch": "1.0"}, "code": {**out["code"], "models": "x"}}

    monkeypatch.setattr(checkpoint, "fingerprints", other)
    with pytest.raises(UserError) as error:
        train(tmp_path)
    assert "code.models" in str(error.value)
    assert "environment.torch" in str(error.value)


def test_not_finite_stops_and_names_the_sample(tmp_path):
    with pytest.raises(UserError) as error:
        train(tmp_path, source=ToySource(poison=5), module=ToyTask())
    text = str(error.value)
    assert "key 105 (chip-5)" in text
    assert "sentinel2-l2a.nir 0" in text
    assert "label y" in text
    assert "1 not finite" in text
    assert text.count("key ") == 1


def test_skipping_is_asked_for_and_counted(tmp_path):
    config = replace(BASE, nonfinite="skip", ema=None)
    module, report = train(tmp_path, config, ToyTask(), ToySource(poison=5))
    assert report.skipped == 3
    assert int(module.seen) == 9
    assert all(torch.isfinite(v).all() for v in module.state_dict().values())
    assert len([r for r in lines(tmp_path) if "skipped" in r]) == 3
    assert math.isfinite(report.seconds)


def test_a_gradient_that_is_not_finite_stops_too(tmp_path):
    class Cliff(ToyTask):
        def forward(self, batch, g):
            out = super().forward(batch, g)
            edge = (self.head.weight * 0).sum().sqrt()
            return replace(out, loss=out.loss + edge)

    with pytest.raises(UserError, match="gradient norm nan"):
        train(tmp_path, module=Cliff())


def test_best_weights_early_stop_and_history(tmp_path):
    scores = iter([0.1, 0.5, 0.4, 0.3, 0.9, 0.9])
    kept = {}

    def run(module):
        value = next(scores)
        kept[value] = flat(module)
        return {"f1": value}

    config = replace(BASE, validate_every=2, patience=2, ema=None)
    module, report = train(tmp_path, config, ToyTask(), validate=Validation(run, "f1"))
    assert report.stopped == "early"
    assert (report.steps, report.best, report.best_step) == (8, 0.5, 4)
    assert same(flat(module), kept[0.5])
    again, second = train(tmp_path, config, ToyTask(), validate=Validation(run, "f1"))
    assert second.stopped == "early"
    assert same(flat(again), kept[0.5])


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize(("scores", "held"), [([0.1, 0.5, 0.9], False), ([0.9, 0.5, 0.1], True)])
def test_the_best_weights_are_written_once_and_come_back(tmp_path, ema, scores, held):
    """Where the newest are the best, a checkpoint holds no second copy; a later resume finds them all the same."""
    kept = {}

    def judged(values):
        def run(module):
            value = next(values)
            kept[value] = flat(module)
            return {"f1": value}

        return Validation(run, "f1")

    config = replace(BASE, steps=9, validate_every=3, save_every=3, ema=ema)
    whole, _ = train(tmp_path / "whole", config, validate=judged(iter(scores)))

    def killed(values):
        yield from values
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "two", config, validate=judged(killed(scores[:2])))
    last = checkpoint.latest(tmp_path / "two" / "checkpoints")
    assert last is not None
    assert any(k.startswith("best.") for k in load_file(last / "state.safetensors")) is held
    again, report = train(tmp_path / "two", config, validate=judged(iter(scores[2:])))
    assert report.resumed_from == 6
    assert same(flat(whole), flat(again))
    assert same(flat(again), kept[max(scores)])
    shutil.copytree(last, tmp_path / "three" / "checkpoints" / last.name)
    third, report = train(tmp_path / "three", config, validate=judged(iter([0.05])))  # worse than what was saved
    assert report.best == max(scores[:2])
    assert same(flat(third), kept[report.best])


@pytest.mark.parametrize("scores", [(0.1, 0.5), (0.5, 0.1)])
def test_a_run_that_was_validated_does_not_go_on_without(tmp_path, scores):
    given = iter(scores)
    config = replace(BASE, steps=9, validate_every=3, save_every=3)
    with pytest.raises(StopIteration):
        train(tmp_path, config, validate=Validation(lambda _: {"f1": next(given)}, "f1"))
    with pytest.raises(UserError, match="this run has none"):
        train(tmp_path, config)


def test_ema_weights_are_judged_and_kept(tmp_path):
    seen = []
    module, _ = train(tmp_path, replace(BASE, steps=3, validate_every=3), ToyTask(),
                      validate=Validation(lambda m: (seen.append(flat(m)), {"x": 1.0})[1], "x"))  # fmt: skip
    assert same(seen[0], flat(module))
    raw, _ = train(tmp_path / "raw", replace(BASE, steps=3, ema=None), ToyTask())
    assert not same(flat(raw), flat(module))


def test_constant_weights_stay_out_and_are_checked(tmp_path):
    class Frozen(ToyTask):
        constant = ("encoder",)

        def __init__(self, shift=0.0):
            super().__init__()
            self.encoder.requires_grad_(False)
            self.encoder.norm.bias += shift

    train(tmp_path, replace(BASE, ema=None), Frozen())
    from safetensors import safe_open

    with safe_open(next((tmp_path / "checkpoints").glob("step-*12")) / "state.safetensors", "pt") as f:
        assert not [k for k in f.keys() if "encoder" in k]  # noqa: SIM118
    with pytest.raises(UserError, match="frozen"):
        train(tmp_path, replace(BASE, ema=None), Frozen(0.1))


def test_coupled_batches_of_an_encoder_with_batch_statistics_refuse_to_be_cut(tmp_path):
    module = ToyTask()
    module.batch_coupled = True
    module.encoder.extra = torch.nn.BatchNorm1d(4)
    with pytest.raises(UserError, match="samples of a batch meet"):
        train(tmp_path, replace(BASE, accumulate=2), module)
    train(tmp_path, replace(BASE, accumulate=2, microbatch_negatives=True), module)


def test_energy_adds_up_over_resumes(tmp_path):
    _, a = train(tmp_path / "a", replace(BASE, steps=12))
    assert a.energy.kwh > 0
    assert "W per busy core" in a.energy.methods[0]
    assert child(tmp_path / "b", 9, "step").returncode == -9
    _, b = train(tmp_path / "b")
    first = json.loads((tmp_path / "b/checkpoints/step-00000008/state.json").read_text())["journey"]["energy"]
    assert b.energy.kwh > first["kwh"] > 0


def test_resume_words(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        train(tmp_path, resume="must")
    train(tmp_path)
    assert train(tmp_path, resume="auto")[1].resumed_from == 12
    assert train(tmp_path, resume="never")[1].resumed_from == 0


def test_bf16_learns(tmp_path):
    _, report = train(tmp_path, replace(BASE, steps=60, precision="bf16", ema=None), ToyTask())
    rows = [r["loss"] for r in lines(tmp_path)]
    assert report.loss < 0.7 * rows[0]


def test_a_missing_logger_is_named(tmp_path):
    with pytest.raises(SwathError, match="wandb"):
        train(tmp_path, replace(BASE, loggers=("wandb",)))
