"""Running a suite: one record a cell, nothing twice, failures kept; real GEO-Bench-2 files run a one-step cell each."""

import json
import subprocess
import sys

import pytest

from swath.bench.ask import Asked, plan_of
from swath.bench.plan import Plan, cells
from swath.bench.run import run
from swath.core import UnknownName, UserError
from swath.core.config import parse
from swath.core.records import read

TINY = {"kind": "world", "seed": 3, "sensors": {"sentinel2-l2a": ["red", "nir"]}, "labels": ["scene_class"], "size": 16,
        "chips": {"train": 8, "val": 4, "test": 6}, "dates": ["07-10"], "clouds": 0.0}  # fmt: skip
PIXELS = {"encoder": {"kind": "pixels", "bands": ["red", "nir"]}, "name": "pixels"}


def plan(tmp_path, **other):
    raw = {"suite": "world-mini", "datasets": ["scenes"], "data": {"scenes": TINY}, "tunings": ["knn", "linear"],
           "encoders": [PIXELS, {"encoder": {"kind": "swath-vit", "size": "nano"}}], "seeds": 2,
           "loop": {"steps": 2, "batch_size": 4, "energy": "off"}, "out": str(tmp_path / "bench")}  # fmt: skip
    return parse({**raw, **other}, Plan)


def test_cells_are_an_order_and_an_identity(tmp_path):
    work = list(cells(plan(tmp_path)))
    assert len(work) == 8 and len({c.key for c in work}) == 8
    assert [c.key for c in cells(plan(tmp_path))] == [c.key for c in work]
    assert {c.key for c in cells(plan(tmp_path, out="elsewhere"))} == {c.key for c in work}
    assert not {c.key for c in cells(plan(tmp_path, loop={"steps": 3}))} & {c.key for c in work}


def test_a_run_resumes_and_keeps_what_failed(tmp_path):
    broken = {"encoder": {"kind": "pixels", "bands": ["red", "nir"], "steps": 3}, "name": "wants a series"}
    short = plan(tmp_path, encoders=[PIXELS, broken], tunings=["linear"])
    seen = []
    records = run(short, say=lambda i, n, r: seen.append((i, n, r.encoder)))
    rows = list(read(records))
    assert len(rows) == 4 and seen[-1][:2] == (4, 4)
    good, bad = [r for r in rows if not r.failed], [r for r in rows if r.failed]
    assert {r.encoder for r in bad} == {"wants a series"} and "1 timesteps for 3" in bad[0].extra["error"]
    for r in good:
        assert 0 <= r.value <= 1 and r.origin == "rerun" and r.suite == "world-mini" and r.hashes["data"]
        assert r.licences["weights"] == "LicenseRef-no-weights" and len({x.protocol for x in rows}) == 1
    seen.clear()
    run(short, say=lambda i, n, r: seen.append(i))
    assert not seen and len(list(read(records))) == 4
    run(plan(tmp_path, encoders=[PIXELS], tunings=["linear"], seeds=3), say=lambda i, n, r: seen.append(i))
    assert seen == [3] and len(list(read(records))) == 5


def test_the_same_seed_gives_the_same_record(tmp_path):
    one = plan(tmp_path / "a", tunings=["linear"], seeds=1)
    two = plan(tmp_path / "b", tunings=["linear"], seeds=1)
    values = [[r.value for r in read(run(p))] for p in (one, two)]
    assert values[0] == values[1]


@pytest.mark.slow
def test_two_processes_give_the_same_records(tmp_path):
    from swath.bench.run import Engine

    alone = {(r.encoder, r.seed): r.value for r in read(run(plan(tmp_path / "a", tunings=["linear"])))}
    both = {
        (r.encoder, r.seed): r.value for r in read(run(plan(tmp_path / "b", tunings=["linear"]), Engine(workers=2)))
    }
    assert alone == both


def test_what_is_not_known_is_asked(tmp_path):
    with pytest.raises(UserError, match="benv2"):
        list(
            cells(
                parse({"suite": "geobench2", "encoders": [PIXELS], "tunings": ["linear"], "datasets": ["benv2"]}, Plan)
            )
        )
    with pytest.raises(UserError, match="two encoders"):
        list(cells(plan(tmp_path, encoders=[PIXELS, PIXELS])))
    with pytest.raises(UnknownName, match="scenes"):
        list(cells(plan(tmp_path, datasets=["scene"])))
    with pytest.raises(UserError, match="which encoders"):
        plan_of("geobench2", Asked(), {}, [])
    assert len(plan_of("world-mini", Asked(), {}, []).encoders) >= 6
    with pytest.raises(UserError, match="ID=PATH"):
        plan_of("geobench2", Asked(("dofa/base",), data=("benv2=/nowhere",)), {}, [])


@pytest.mark.slow
def test_real_files_run_a_cell_each(shared, tmp_path):
    names = sorted(p.stem for p in (shared / "tortilla").glob("*.tortilla"))
    words = ["bench", "run", "geobench2", "--encoder", "swath-vit/nano", "--tuning", "linear", "--seeds", "1"]
    words += ["--set", "loop.steps=1", "--set", "loop.batch_size=2", "--out", str(tmp_path)]
    for n in names:
        words += ["--only", n, "--data", f"{n}={shared / 'tortilla' / n}.tortilla"]
    done = subprocess.run([sys.executable, "-m", "swath.cli", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert sorted(r["dataset"] for r in rows) == names
    assert not [r["extra"].get("error") for r in rows if r["failed"]]
