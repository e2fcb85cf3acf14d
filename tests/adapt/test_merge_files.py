"""Merging as a user does it: pretrain twice with snapshots, choose, diagnose, merge; merge two bundles."""

import json

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from swath.adapt.bundle import Bundle
from swath.adapt.merge._judge import judge_of
from swath.adapt.merge._run import family_of
from swath.adapt.merge._states import floats, open_parent
from swath.adapt.run import TuneRun
from swath.adapt.tune import tune
from swath.cli.main import build
from swath.core.config import parse, plain
from swath.core.errors import UserError
from swath.objectives.pretraining import PretrainRun, pretrain

BANDS = ["blue", "green", "red", "nir"]
LOOP = {"steps": 6, "batch_size": 4, "lr": 0.001, "progress": False, "validate_every": 2}


def run_of(out, seed, snapshots=True):
    data = {"kind": "world", "seed": seed, "sensors": {"sentinel2-l2a": BANDS}, "size": 16,
            "chips": {"train": 12, "val": 6}, "dates": ["07-10"], "clouds": 0.0}  # fmt: skip
    raw = {
        "name": f"w{seed}", "data": data, "encoder": {"kind": "swath-vit", "size": "nano", "patch": 8},
        "objective": {"kind": "mae", "width": 32, "depth": 1, "heads": 2}, "loop": LOOP, "out": str(out / f"w{seed}"),
    }  # fmt: skip
    return parse(raw | ({"snapshots": {"samples": 6}} if snapshots else {}), PretrainRun)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        pretrain(run_of(out, seed))
    return out


def swath(*words):
    done = CliRunner().invoke(build(), [str(w) for w in words])
    assert done.exit_code == 0, done.output
    return done


def test_snapshots_tell_the_way_and_change_nothing(runs, tmp_path):
    curve = json.loads((runs / "w1/snapshots/curve.json").read_text())
    assert [p["step"] for p in curve["points"]] == [0, 2, 4, 6]
    last = load_file(runs / "w1/snapshots/6.safetensors")
    saved = load_file(runs / "w1/encoder.safetensors")
    plain = load_file(pretrain(run_of(tmp_path, 1, snapshots=False)).weights)
    assert all((saved[k] == plain[k]).all() and (saved[k] == last[k]).all() for k in saved)
    assert curve["points"][-1]["loss"] < curve["points"][0]["loss"]
    start = [load_file(runs / f"w{s}/snapshots/0.safetensors") for s in (1, 2)]
    assert all((start[0][k] == start[1][k]).all() for k in start[0])


def test_choose_diagnose_and_merge(runs, tmp_path):
    chosen = json.loads(swath("merge", "choose", runs / "w1", runs / "w2", "--slack", "9", "--json").stdout)
    files, base = [p["file"] for p in chosen["points"]], runs / "w1/snapshots/0.safetensors"
    assert len(files) == 2 and chosen["spread"] >= 0 and all(0 <= p["way"] <= 1 for p in chosen["points"])
    found = json.loads(swath("merge", "diagnose", runs / "w1", runs / "w2", "--base", base, "--json").stdout)
    assert found["cosines"][0][0] == pytest.approx(1) and -1 < found["cosines"][0][1] < 1
    assert "cos" in swath("merge", "diagnose", runs / "w1", runs / "w2", "--base", base).stdout
    told = swath("merge", "run", *files, "--base", base, "--set", "lam=0.4", "--out", tmp_path / "both", "--json")
    assert json.loads(told.stdout)["licence"] == "CC0-1.0"
    card = json.loads((tmp_path / "both/card.json").read_text())
    assert card["encoder"]["kind"] == "swath-vit" and len(card["merge"]["parents"]) == 2
    raw = run_of(tmp_path, 1, snapshots=False)
    again = parse(
        {**plain(raw), "weights": str(tmp_path / "both/encoder.safetensors"), "out": str(tmp_path / "on")}, PretrainRun
    )
    assert pretrain(again).card["weights_from"].endswith("both/encoder.safetensors")


def test_choose_says_when_equal_losses_are_no_equal_training(tmp_path):
    for name, losses in (("radar", (1.0, 0.7)), ("optical", (0.9, 0.68, 0.2))):
        points = [{"step": 10 * i, "loss": v, "file": f"{i}.safetensors"} for i, v in enumerate(losses)]
        (tmp_path / name / "snapshots").mkdir(parents=True)
        (tmp_path / name / "snapshots/curve.json").write_text(json.dumps({"objective": {}, "points": points}))
    told = [
        swath("merge", "choose", tmp_path / "radar", tmp_path / "optical", *more) for more in ((), ("--normalise",))
    ]
    said = ["the training behind them" in t.stdout + t.stderr for t in told]
    assert said == [True, False] and "31%" in told[0].stdout and "100%" in told[1].stdout


def test_a_run_without_snapshots_says_how_to_keep_them(tmp_path):
    done = CliRunner().invoke(build(), ["merge", "choose", str(tmp_path)])
    assert isinstance(done.exception, UserError) and "snapshots: {}" in str(done.exception.remedy)


def tuned(out, seed):
    data = {"kind": "world", "seed": 7, "sensors": {"sentinel2-l2a": BANDS}, "size": 16, "labels": ["land_cover"],
            "chips": {"train": 8, "val": 4, "test": 4}, "dates": ["07-10"], "clouds": 0.0}  # fmt: skip
    raw = {
        "name": f"t{seed}", "data": data, "encoder": {"kind": "swath-vit", "size": "nano", "patch": 8},
        "task": "segment", "out": str(out / f"t{seed}"), "loop": {**LOOP, "steps": 2, "seed": seed},
        "trust": {"bootstrap": 5, "chips": 0},
    }  # fmt: skip
    (out / f"t{seed}.yaml").write_text(json.dumps(raw))
    return tune(parse(raw, TuneRun))


def test_bundles_merge_into_a_bundle(runs, tmp_path):
    one, two = tuned(tmp_path, 1), tuned(tmp_path, 2)
    judge = tmp_path / "t1.yaml"
    swath("merge", "run", one.bundle, two.packed, "--kind", "greedy", "--judge", judge, "--out", tmp_path / "soup")
    swath("merge", "run", one.bundle, two.packed, "--kind", "uniform", "--out", tmp_path / "mean")
    first, second, mean = (Bundle.load(p) for p in (one.bundle, two.bundle, tmp_path / "mean"))
    for k, v in mean.task.state_dict().items():
        if v.is_floating_point():
            torch.testing.assert_close(v, (first.task.state_dict()[k] + second.task.state_dict()[k]) / 2)
    assert mean.card.metrics == {} and mean.card.calibration.conformal is None
    assert len(mean.card.provenance["merge"]["parents"]) == 2
    score = judge_of(parse(json.loads(judge.read_text()), TuneRun), open_parent(one.bundle))
    values = [score(floats(open_parent(p).state)) for p in (tmp_path / "soup", one.bundle, two.bundle)]
    assert values[0] >= max(values[1:]) - 1e-9
    with pytest.raises(UserError, match="a bundle and a weights do not merge"):
        family_of([open_parent(one.bundle), open_parent(runs / "w1")])
