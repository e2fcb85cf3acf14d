"""Import, select, store and audit: nothing is mixed, nothing is overwritten, what is missing is said."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from swath.bench import select
from swath.bench.audit import audit
from swath.bench.importers import IMPORTERS
from swath.bench.store import add
from swath.bench.suites import SUITES
from swath.core import Result, UnknownName, UserError
from swath.core.records import read

HEAD = "dataset,Metric,test metric,Seed,backbone,decoder,frozen_or_full_ft,n_trials,mlflow_run_status\n"
ROW = "so2sat,Overall_Accuracy,0.5,205,resnet50,UNet,full_ft,16,FINISHED\n"


@pytest.fixture
def csv(tmp_path):
    def write(text, name="sub.csv"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_an_import_keeps_source_and_row(csv):
    (record,) = IMPORTERS.get("geobench2")(csv(HEAD + ROW))
    assert (record.origin, record.tuning, record.value, record.seed, record.trials) == ("copied", "full", 0.5, 205, 16)
    assert "submission sub, row 2" in record.source and record.licences["weights"] == "Apache-2.0"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "lacks the columns"),
        (HEAD, "no rows"),
        (HEAD + ROW.replace("0.5", "good"), "row 2, column test metric"),
        ("\xff\xfe\x00", "not CSV|lacks"),
    ],
)
def test_a_wrong_file_is_named(csv, text, words):
    path = csv(text)
    if "\xff" in text:
        path.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(UserError, match=words) as error:
        IMPORTERS.get("geobench2")(path)
    assert "sub.csv" in str(error.value)


def test_a_failed_seed_is_kept_and_flagged(csv):
    rows = ROW.replace("0.5", "") + ROW.replace("FINISHED", "FAILED").replace("205", "206")
    assert [r.failed for r in IMPORTERS.get("geobench2")(csv(HEAD + rows))] == [True, True]


@pytest.mark.parametrize(("layout", "path", "n"), [
    ("geobench1", "geobench1/baseline_segmentation_results.csv", 3000),
    ("torchgeo-bench", "torchgeo_bench/all_results.csv", 2342),
])  # fmt: skip
def test_the_other_published_tables(shared, layout, path, n):
    records = IMPORTERS.get(layout)(shared / "published" / path)
    assert len(records) == n and len({r.source for r in records}) == n
    if layout == "torchgeo-bench":
        assert all(r.low <= r.value <= r.high for r in records if r.low is not None and r.high is not None)
        return
    whole = [r for r in records if r.extra["fraction"] == "1.00x train" and r.encoder == "ResNet50-U-Net-timm"]
    cell = [r.value for r in whole if r.dataset == "m-cashew-plant"]
    assert round(sum(cell) / len(cell), 4) == 0.4873


def result(**other):
    facts = dict(
        protocol="p", suite="geobench2", dataset="so2sat", encoder="e", tuning="full", seed=1, metric="m", value=0.5,
        origin="rerun",
    )  # fmt: skip
    return Result(**{**facts, **other})


def test_adding_twice_adds_nothing_and_another_value_is_refused(tmp_path):
    file = tmp_path / "r.jsonl"
    assert add(file, [result(), result(seed=2), result()]) == 2
    assert add(file, [result()]) == 0 and len(list(read(file))) == 2
    with pytest.raises(UserError, match=r"0\.5 there and 0\.6 here"):
        add(file, [result(value=0.6)])
    assert len(list(read(file))) == 2


@pytest.mark.parametrize(("field", "value", "word"), [
    ("origin", "copied", "origin"), ("tuning", "frozen", "tuning"), ("extra", {"submission": "x"}, "submission"),
])  # fmt: skip
def test_what_cannot_be_compared_is_not_mixed(field, value, word):
    rows = [result(), replace(result(), **{field: value})]
    with pytest.raises(UserError, match=f"--{word}"):
        select.choose(rows, SUITES.get("geobench2"), select.Choice())
    chosen = select.Choice(**{word: "x" if field == "extra" else value})
    assert select.choose(rows, SUITES.get("geobench2"), chosen) == rows[1:]


def test_an_unknown_licence_is_not_ranked():
    rows = [result(licences={"weights": "MIT"}), result(encoder="f")]
    kept, lost = select.licensed(rows)
    assert [r.encoder for r in kept] == ["e"] and lost == ["f"]


def test_the_audit_says_what_is_missing():
    whole = dict(
        licences={"weights": "MIT"}, code="1", hardware="cpu", seconds=1.0, units={"sentinel2-l2a": "reflectance"},
        hashes=dict.fromkeys(("weights", "data", "split", "metric", "preprocessing"), "0"),
        controls={"data": "a", "architecture": "b", "algorithm": "c"},
    )  # fmt: skip
    core = SUITES.get("geobench2").capabilities["Core"]
    rows = [result(dataset=d, seed=s, **whole) for d in core for s in range(5)]
    assert [e.met for e in audit(rows)] == [1.0] * 6
    worse = audit([*rows[:-1], replace(rows[0], encoder="f", licences={}, code="")])
    met = {e.name: e for e in worse}
    assert all(e.met < 1 for e in worse if e.name != "copied versus rerun" and "controls" not in e.name)
    assert any("f: licence" in line for line in met["named licence and weights"].missing)
    assert any("code version" in line for line in met["one harness"].missing)
    with pytest.raises(UserError):
        audit([])


def test_suites_are_whole():
    for name, suite in SUITES:
        assert suite.data and len({d.id for d in suite.data}) == len(suite.data), name
        assert suite.protocol.digest == suite.protocol.digest
    with pytest.raises(UnknownName, match="did you mean so2sat"):
        SUITES.get("geobench2").dataset("so2sta")


def swath(*words):
    return subprocess.run([sys.executable, "-m", "swath.cli", *words], capture_output=True, text=True)


def test_the_command_line(shared, tmp_path):
    file = tmp_path / "r.jsonl"
    source = shared / "published/geobench2/2ce4a907.csv"
    assert swath("bench", "import", "geobench2", str(source), "--out", str(file)).returncode == 0
    found = json.loads(swath("bench", "rank", str(file), "--suite", "geobench2", "--mode", "compat", "--json").stdout)
    assert round(100 * found["scores"]["Core"]["clay_v1_base"]["score"], 1) == 78.6
    honest = swath("bench", "rank", str(file), "--mode", "honest", "--json", "--repeats", "2000")
    row = json.loads(honest.stdout)["scores"]["Core"]["clay_v1_base"]
    assert {"score", "low", "high", "p_first", "rank_low", "rank_high"} <= set(row)
    assert row["low"] < row["score"] < row["high"]
    done = swath("bench", "rank", str(tmp_path / "none.jsonl"))
    assert done.returncode == 2 and "none.jsonl" in done.stderr
