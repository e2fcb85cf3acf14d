"""The table of learning gates is whole, and it is that of the records."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest

from swath.objectives import OBJECTIVES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def gate():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("learning_gate")
    sys.path.remove(str(ROOT / "benchmarks"))


def test_every_objective_was_gated(gate):
    assert set(gate.PLANS) == set(OBJECTIVES.names())
    have = {(r["objective"], r["seed"], r.get("link")) for r in gate.records()}
    for name in OBJECTIVES.names():
        assert {(name, 0, "whole"), (name, 1, "whole"), (name, 0, "broken")} <= have, name
    rows = [(r["objective"], r["seed"], r.get("link"), tuple(r["sensors"])) for r in gate.records()]
    assert len(rows) == len(set(rows))


def test_records_are_of_the_plans(gate):
    for r in gate.records():
        if r["objective"] != "random":
            plan = gate.PLANS[r["objective"]]
            assert (r["steps"], r["batch"]) == (plan.steps, plan.batch), r["objective"]


def test_the_table_is_that_of_the_records(gate, tmp_path):
    page = shutil.copy(ROOT / "docs/pretrain.md", tmp_path / "pretrain.md")
    gate.table(Path(page))
    assert Path(page).read_text() == (ROOT / "docs/pretrain.md").read_text()
    assert "not complete" not in Path(page).read_text()


def test_what_the_page_says_of_trials_is_in_their_records(gate):
    """Gains per chip over the best of three random encoders on the same sensors, each told on the page."""
    told = (ROOT / "docs/pretrain.md").read_text().split("<!-- gates: end -->")[1].split("## Speed")[0]
    trials = [json.loads(t) for t in gate.TRIALS.read_text().splitlines()]
    assert {r["objective"] for r in trials} == {"croma", "triplet", "moco"}
    for r in trials:
        best = max(b["chip"] for b in gate.records() if b["objective"] == "random" and b["sensors"] == r["sensors"])
        assert f"{100 * (r['chip'] - best):+.1f}" in told, r
