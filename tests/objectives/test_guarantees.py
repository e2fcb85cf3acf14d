"""The engine's six guarantees (docs/train.md), for every variant of `mae`, `moco` and `latent-mim`: what each of them
keeps beside weights (a queue, moving averages, batch statistics, frozen targets) has to come back too.

1 kill -9 anywhere, 2 any number of workers, 3 two ranks, 4 whole or absent checkpoints, 5 fingerprints, 6 losses that
are not finite.
"""

import json
import os
import socket
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import make
from tiny_tokens import TinySource

from swath.core import SwathError, UserError
from swath.core.config import plain
from swath.train import Feed, LoopConfig, checkpoint, fit

VARIANTS = {
    "mae": {},
    "moco": {},
    "moco-2": {"version": 2},
    "latent-mim": {},
    "latent-mim-average": {"target": "average", "ema": [0.9, 1.0]},
}
EVERY = sorted(VARIANTS)
FIRST = [v if v in ("mae", "moco", "latent-mim") else pytest.param(v, marks=pytest.mark.slow) for v in EVERY]
STEPS = 6
BASE = LoopConfig(steps=STEPS, batch_size=8, lr=2e-3, clip=1.0, save_every=2, log_every=1, progress=False)
SGD = replace(BASE, optimizer="sgd", lr=2e-2)


def build(variant):
    if variant not in VARIANTS:  # any other objective, by its name
        module, how = make(variant)
        return module.train(), TinySource(**how)
    name = variant.removesuffix("-2").removesuffix("-average")
    module, how = make(name, **VARIANTS[variant])
    return module.train(), TinySource(**how)


def run(out, variant, config=BASE, source=None):
    module, data = build(variant)
    settings = {"objective": plain(module.config)}
    report = fit(module, Feed(source or data), config, out=out, run=settings)
    return {k: v.clone() for k, v in module.state_dict().items()}, report


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def losses(out):
    return [json.loads(t)["loss"] for t in (out / "metrics.jsonl").read_text().splitlines()]


def script(main, *args, world=1):
    """Run a few lines in processes of their own; their exit codes and what they wrote."""
    here = Path(__file__).parent
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    procs = []
    for rank in range(world):
        env = {**os.environ, "PYTHONPATH": f"{here}:{here.parents[1] / 'src'}", "OMP_NUM_THREADS": "1"}
        if world > 1:
            env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
                    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
        command = [sys.executable, "-W", "ignore", "-c", main, *map(str, args)]
        procs.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    ends = [p.communicate(timeout=250) for p in procs]
    return [p.returncode for p in procs], ends[0][0], "\n".join(e[1] for e in ends)[-3000:]


# Kills a forked run at every moment asked for, resumes it and says how it went, one JSON line a moment.
KILLED = """
import json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import test_guarantees as t
from swath.train import checkpoint
out, variant, moments = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
whole = t.run(out / "whole", variant)[0]
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def doomed(folder, kind, step):
    module, source = t.build(variant)
    count, forward, after, sync = [-1], module.forward, module.after_step, checkpoint._sync
    def before(batch, generator):
        count[0] += 1
        return die() if kind == "forward" and count[0] == step else forward(batch, generator)
    def behind(at, total):
        after(at, total)
        if kind == "moved" and at == step:
            die()
    def writing(path):
        if kind == "saving" and count[0] == step and path.name == "manifest.json":
            die()
        sync(path)
    module.forward, module.after_step, checkpoint._sync = before, behind, writing
    t.fit(module, t.Feed(source), t.BASE, out=folder, run={"objective": t.plain(module.config)})
for kind, step in moments:
    folder = out / f"{kind}-{step}"
    child = os.fork()
    if not child:
        try:
            doomed(folder, kind, step)
        finally:
            os._exit(1)
    signalled = os.WTERMSIG(os.waitpid(child, 0)[1])
    state, report = t.run(folder, variant)
    left = sorted(p.name for p in (folder / "checkpoints").iterdir())
    print(json.dumps({"signal": signalled, "from": report.resumed_from, "same": t.same(state, whole), "left": left}))
"""


def killed(out, variant, moments):
    codes, text, errors = script(KILLED, out, variant, json.dumps(moments))
    assert codes == [0], errors
    found = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert len(found) == len(moments)
    for (kind, step), row in zip(moments, found, strict=True):
        saved = step // 2 * 2  # a kill before or during a save at the end of a step has lost that step
        assert row == {"signal": 9, "from": saved, "same": True, "left": row["left"]}, (kind, step, row)
        assert row["left"] == ["step-00000004", "step-00000006"], "nothing half-written stays"


@pytest.mark.parametrize("variant", FIRST)
def test_1_and_4_killed_and_resumed(tmp_path, variant):
    """Between two saves, and in the middle of one: the last good checkpoint stands."""
    killed(tmp_path, variant, [("moved", 2), ("saving", 3)])


@pytest.mark.slow
@pytest.mark.parametrize("variant", EVERY)
def test_1_killed_at_every_step_and_moment(tmp_path, variant):
    moments = [(kind, step) for kind in ("forward", "moved") for step in range(STEPS)]
    killed(tmp_path, variant, [*moments, ("saving", 1), ("saving", 3), ("saving", 5)])


@pytest.mark.parametrize("variant", EVERY)
def test_2_workers(tmp_path, variant):
    alone, _ = run(tmp_path / "a", variant)
    assert same(run(tmp_path / "b", variant, replace(BASE, workers=2))[0], alone)
    assert not same(run(tmp_path / "c", variant, replace(BASE, seed=1))[0], alone), "the control: another order"


RANKS = """
import os, sys, torch, torch.distributed as dist
from pathlib import Path
import test_guarantees as t
from dataclasses import replace
out = Path(sys.argv[1])
class Seen(t.TinySource):
    def sample(self, index, bands=None):
        with open(out / f"seen-{os.environ['RANK']}", "a") as f:
            f.write(f"{index} ")
        return super().sample(index, bands)
source = Seen(**t.build(sys.argv[2])[1].how)
config = replace(t.SGD, accumulate=int(sys.argv[3]))
state, _ = t.run(out, sys.argv[2], config, source)
torch.save(state, out / f"weights-{dist.get_rank()}.pt")
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # everything is written; gloo's threads may abort a process that winds down by itself
"""


def two_ranks(out, variant, accumulate=1):
    """A run of two gloo ranks against one process: order of samples, losses and weights.

    With SGD: Adam turns the rounding noise of gradients that are zero in theory (a bias before a batch norm) into
    whole steps, and the runs of any two orders of summation part.
    """
    alone, _ = run(out / "one", variant, SGD)
    two = out / "two"
    two.mkdir()
    codes, _, errors = script(RANKS, two, variant, accumulate, world=2)
    assert codes == [0, 0], errors
    # 1e-5; above 10 (decur's are sums of about 20) a millionth, as fp32 has but eight steps to that
    assert losses(two) == pytest.approx(losses(out / "one"), abs=1e-5, rel=1e-6)
    first, second = (torch.load(two / f"weights-{r}.pt") for r in range(2))
    for k, v in alone.items():
        torch.testing.assert_close(first[k], v, atol=1e-4, rtol=1e-3)
        assert torch.equal(first[k], second[k]), f"ranks drifted apart in {k}"
    part = 8 // 2
    seen = [[int(i) for i in (two / f"seen-{r}").read_text().split()] for r in range(2)]
    joined = [i for at in range(0, len(seen[0]), part) for rank in seen for i in rank[at : at + part]]
    feed = Feed(build(variant)[1])
    wanted = [i for p in feed.parts(SGD, (0, STEPS)) for i in p.samples]
    assert joined == wanted


@pytest.mark.parametrize("variant", FIRST)
def test_3_two_ranks_are_one(tmp_path, variant):
    two_ranks(tmp_path, variant)


PARTS = ["moco", "latent-mim", *(pytest.param(n, marks=pytest.mark.slow) for n in ("moco-2", "dino", "seco"))]
PARTS += [pytest.param(n, marks=pytest.mark.slow) for n in ("triplet", "decur", "croma", "latent-mim-average")]


@pytest.mark.parametrize("variant", PARTS)
def test_3_two_ranks_with_cached_gradients_are_one(tmp_path, variant):
    """Two ranks that cut their share into two parts each see all partners: the loss is that of one whole batch."""
    two_ranks(tmp_path, variant, accumulate=2)


@pytest.mark.parametrize("variant", EVERY)
def test_4_a_full_disk_and_a_damaged_file(tmp_path, variant, monkeypatch):
    whole, _ = run(tmp_path / "whole", variant)
    real, writes = checkpoint._sync, []

    def full(path):
        writes.append(path.name)
        if writes.count("manifest.json") == 2:
            raise OSError(28, "No space left on device")
        real(path)

    monkeypatch.setattr(checkpoint, "_sync", full)
    with pytest.raises(SwathError, match="No space left") as error:
        run(tmp_path / "run", variant)
    assert "step-00000002" in str(error.value)
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000002"]
    monkeypatch.setattr(checkpoint, "_sync", real)
    state, report = run(tmp_path / "run", variant, BASE)
    assert report.resumed_from == 2
    assert same(state, whole)
    file = tmp_path / "run/checkpoints/step-00000006/state.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.warns(Warning, match="damaged"):
        state, report = run(tmp_path / "run", variant)
    assert report.resumed_from == 4
    assert same(state, whole)


CHANGED = {"mae": {"norm_pix": False}, "moco": {"tau": 0.3}, "latent-mim": {"contrast": 0.2}}


@pytest.mark.parametrize("variant", EVERY)
def test_5_fingerprints(tmp_path, variant, monkeypatch):
    """Another objective, loop, data set or code is refused, and the difference is shown; the same one goes on."""
    run(tmp_path, variant)
    assert run(tmp_path, variant)[1].resumed_from == STEPS
    name = variant.removesuffix("-2").removesuffix("-average")
    ((key, value),) = CHANGED[name].items()
    monkeypatch.setitem(VARIANTS, variant, {**VARIANTS[variant], key: value})
    with pytest.raises(UserError, match=rf"objective\.{key}: .* in the checkpoint, {value} now"):
        run(tmp_path, variant)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"loop\.batch_size: 8 in the checkpoint, 4 now"):
        run(tmp_path, variant, replace(BASE, batch_size=4))
    with pytest.raises(UserError, match=r"data\.source: .tiny-16.* in the checkpoint, .tiny-17"):
        run(tmp_path, variant, source=TinySource(n=17, **build(variant)[1].how))
    monkeypatch.setattr(checkpoint, "_code", lambda root: {"objectives": "other"})
    with pytest.raises(UserError, match=r"code\.objectives"):
        run(tmp_path, variant)


class Poisoned(TinySource):
    """Sample 5 holds one infinite pixel that says it is valid."""

    def sample(self, index, bands=None):
        batch = super().sample(index, bands)
        if index == 5:
            batch.layers["sentinel2-l2a"].x[0, :, 2, 3, 4] = float("inf")
        return batch


@pytest.mark.parametrize("variant", EVERY)
def test_6_a_loss_that_is_not_finite(tmp_path, variant):
    """Stops at once and names the sample, also where samples meet in the loss; a skip is asked for and counted, and
    leaves nothing of the sample in the weights, statistics, averages and queues."""
    source = Poisoned(**build(variant)[1].how)
    with pytest.raises(UserError) as error:
        run(tmp_path / "stop", variant, source=source)
    text = str(error.value)
    assert "key 1005" in text
    assert "sentinel2-l2a.nir" in text
    assert "not finite" in text
    assert text.count("key ") == 1, "the others are not to blame"
    assert not (tmp_path / "stop/encoder.safetensors").exists()
    state, report = run(tmp_path / "skip", variant, replace(BASE, nonfinite="skip"), source)
    assert report.skipped == STEPS // 2, "once an epoch"
    assert all(torch.isfinite(v.float()).all() for v in state.values())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(tmp_path / "fine", variant, replace(BASE, nonfinite="skip"))[1].skipped == 0
