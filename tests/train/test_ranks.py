"""Two ranks on gloo: the order of samples, the loss and the weights of one process; shards, traps and resume."""

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_train import ToySource, ToyTask, flat

from swath.train import Feed, LoopConfig, checkpoint, fit

BASE = LoopConfig(steps=8, batch_size=6, lr=5e-3, clip=0.05, save_every=4, log_every=1, progress=False)

CHILD = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
import torch, torch.distributed as dist
from toy_train import *
from swath.train import *
from swath.train.ranks import whole_state
out, more = Path(sys.argv[1]), json.loads(sys.argv[2])
config = LoopConfig(**{"steps": 8, "batch_size": 6, "lr": 5e-3, "clip": 0.05, "save_every": 4, "log_every": 1,
                       "progress": False, **more})
class Seen(ToySource):
    def sample(self, index, bands=None):
        with open(out / f"seen-{dist.get_rank()}", "a") as f:
            f.write(f"{index}\\n")
        return super().sample(index, bands)
class Dated(Block):
    def forward(self, x, years=None):
        if years is not None:
            text = json.dumps({"years": years.tolist(), "weights": str(self.up.weight.dtype)})
            (out / "arrived.json").write_text(text)
        return super().forward(x)
module = ToyTask(noise=True)
if more.get("precision") == "bf16":
    last = module.encoder.blocks[-1]
    for block in module.encoder.blocks:
        block.__class__ = Dated
    first = module.encoder.blocks[0]
    plain = ToyEncoder.forward
    def dated(self, x):
        first(torch.zeros(1, 1, 16), years=torch.arange(2016.0, 2024.0))
        return plain(self, x)
    ToyEncoder.forward = dated
report = fit(module, Feed(Seen()), config, out=out)
state = whole_state(module)
torch.save(state, out / f"weights-{dist.get_rank()}.pt")
dist.barrier()
dist.destroy_process_group()
# Everything is written; gloo's threads may abort a process that winds down by itself.
os._exit(0)
"""


def torchrun(out, **more):
    out.mkdir(exist_ok=True)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    here = Path(__file__).parent
    path = f"{here}:{here.parents[1] / 'src'}"
    procs = []
    for rank in range(2):
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank),
               "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
        command = [sys.executable, "-W", "ignore", "-c", CHILD, str(out), json.dumps(more)]
        procs.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    ends = [p.communicate(timeout=200)[1] for p in procs]
    assert [p.returncode for p in procs] == [0, 0], "\n".join(ends)[-3000:]
    return [torch.load(out / f"weights-{r}.pt") for r in range(2)]


def alone(out, config=BASE):
    module = ToyTask(noise=True)
    fit(module, Feed(ToySource()), config, out=out)
    return flat(module)


def losses(out):
    return [json.loads(t)["loss"] for t in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    out = tmp_path_factory.mktemp("single")
    return out, alone(out)


@pytest.mark.parametrize(
    ("parallel", "accumulate"), [("ddp", 1), ("fsdp", 1), pytest.param("ddp", 3, marks=pytest.mark.slow)]
)
def test_two_ranks_are_the_same_run(tmp_path, single, parallel, accumulate):
    """Weights of parts differ (valid pixels), and the clip bites: one coefficient, one true count."""
    first, second = torchrun(tmp_path, parallel=parallel, accumulate=accumulate)
    for k in first:
        assert torch.equal(first[k], second[k]), "ranks drifted apart"
        torch.testing.assert_close(first[k], single[1][k], atol=1e-5, rtol=1e-4)
    assert losses(tmp_path) == pytest.approx(losses(single[0]), abs=1e-5)
    seen = [[int(i) for i in (tmp_path / f"seen-{r}").read_text().split()] for r in range(2)]
    part = 6 // 2
    joined = [i for at in range(0, len(seen[0]), part) for rank in seen for i in rank[at : at + part]]
    assert joined == [i for p in Feed(ToySource()).parts(BASE, (0, 8)) for i in p.samples]


def keep_to(out, step):
    """Take the checkpoints after a step away, as if the run had been killed there."""
    steps = sorted((out / "checkpoints").glob("step-*"))
    assert any(int(p.name.removeprefix("step-")) == step for p in steps)
    for path in steps:
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_resume_what_one_began_and_back(tmp_path, single, parallel):
    """A checkpoint of one process (step 4) goes on with two ranks, and theirs (step 6) goes on with one."""
    out, often = tmp_path / "run", replace(BASE, save_every=2, keep=9)
    alone(out, often)
    keep_to(out, 4)
    torchrun(out, parallel=parallel, save_every=2, keep=9)
    assert len((out / "seen-0").read_text().split()) == 4 * 3
    assert losses(out) == pytest.approx(losses(single[0]), abs=1e-5)
    keep_to(out, 6)
    assert (out / "checkpoints/step-00000006/.metadata").exists() == (parallel == "fsdp")
    again = alone(out, often)
    for k, v in single[1].items():
        torch.testing.assert_close(again[k], v, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_sharded_checkpoint_is_published_whole(tmp_path):
    torchrun(tmp_path, parallel="fsdp")
    last = checkpoint.latest(tmp_path / "checkpoints")
    assert last is not None
    assert (last / ".metadata").exists()
    assert ".metadata" in json.loads((last / "manifest.json").read_text())
    torchrun(tmp_path, parallel="fsdp")


def test_trap_1_fsdp_casts_no_input(tmp_path):
    """FSDP2's own default would turn the years 2016..2023 into 2016 and 2024 on their way into a block."""
    years = torch.arange(2016.0, 2024.0)
    assert len(set(years.bfloat16().tolist())) == 2
    torchrun(tmp_path, parallel="fsdp", precision="bf16", steps=1)
    seen = json.loads((tmp_path / "arrived.json").read_text())
    assert seen["years"] == years.tolist()
    assert "float32" in seen["weights"]
