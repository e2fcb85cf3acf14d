"""20 steps of every objective on a CPU: a refactor that moves a curve has changed the objective.

`SWATH_GOLDEN=write pytest tests/golden/test_objective_curves.py` rewrites the file after a change that was meant.
"""

import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "objectives"))
from cases import CASES, make
from tiny_tokens import TinySource

from swath.train import Feed, LoopConfig, fit

FILE = Path(__file__).with_name("objective_curves.json")


@pytest.mark.parametrize("name", sorted(CASES))
def test_curve(tmp_path, name):
    module, how = make(name)
    config = LoopConfig(steps=20, batch_size=8, lr=2e-3, warmup=2, clip=1.0, log_every=1, progress=False, energy="off")
    fit(module, Feed(TinySource(**how)), config, out=tmp_path)
    curve = [round(json.loads(t)["loss"], 5) for t in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    if os.environ.get("SWATH_GOLDEN") == "write":
        FILE.write_text(json.dumps({**known, name: curve}, sort_keys=True, indent=0) + "\n")
        return
    assert curve == pytest.approx(known[name], rel=2e-3, abs=2e-4)
