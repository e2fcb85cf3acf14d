"""`swath tune` under torchrun: every rank learns, one writes."""

import json
import os
import subprocess
import sys

import pytest
from tests.data.chips import folder

from swath.adapt.run import TuneRun
from swath.adapt.tune import tune
from swath.core import UserError, config
from swath.data.propose import Hints
from swath.data.start import start

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))


def plan(root, **loop):
    data = {"kind": "folder", "path": str(root), "card": str(root / "card.toml")}
    return {
        "name": "two", "data": data, "encoder": {"kind": "swath-vit", "size": "nano", "patch": 8}, "task": "segment",
        "loop": {"steps": 2, "batch_size": 4, "progress": False, **loop},
        "trust": {"calibrate": False, "ood": False, "bootstrap": 0, "chips": 1},
    }  # fmt: skip


@pytest.mark.slow
def test_two_ranks_write_once(tmp_path):
    folder(tmp_path / "chips", n=20, size=16)
    start(tmp_path / "chips", "segment", Hints("sentinel2-l2a", ("blue", "green", "red", "nir"), ""))
    (tmp_path / "run.json").write_text(json.dumps(plan(tmp_path / "chips")))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "swath.cli",
         "tune", str(tmp_path / "run.json"), "--json", "--out", str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert not done.returncode, done.stderr[-2000:]
    assert done.stdout.count('"score":') == 1
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 1
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["fit"]["steps"] == 2 and record["chips"]
    assert (tmp_path / "out" / "two.swath").is_file() and (tmp_path / "out" / "report.html").is_file()


def test_shards_are_refused_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    raw = plan(tmp_path, parallel="fsdp") | {"out": str(tmp_path / "out")}
    with pytest.raises(UserError, match="fsdp"):
        tune(config.parse(raw, TuneRun))
    assert not (tmp_path / "out").exists()
