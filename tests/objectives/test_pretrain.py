"""`swath pretrain`: from a run file to weights that load, a card that says what they are, and exact resume."""

import json
import subprocess
import sys

import pytest
import torch
import yaml

from swath.cli.main import main
from swath.core import SwathWarning
from swath.core.config import load
from swath.models import build_encoder
from swath.models.loading import file_sha256
from swath.objectives.pretraining import PretrainRun, pretrain
from swath.objectives.pretraining.probe import knn, linear

RUN = {
    "name": "hills",
    "data": {
        "kind": "world",
        "sensors": {"sentinel2-l2a": ["green", "red", "nir"]},
        "chips": {"train": 12, "val": 4, "test": 4},
        "size": 16,
        "dates": ["04-20", "07-20"],
        "clouds": 0.0,
    },
    "encoder": {"kind": "swath-vit", "size": "nano", "patch": 4},
    "objective": {"kind": "mae", "mask": {"kind": "random", "ratio": 0.75}, "width": 32, "depth": 1, "heads": 2},
    "loop": {"steps": 4, "batch_size": 4, "lr": 0.001, "progress": False},
}


def command(path, *more):
    args = [sys.executable, "-m", "swath.cli", "pretrain", str(path), "--json", *more]
    return subprocess.run(args, capture_output=True, text=True, cwd=path.parent, check=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(RUN))
    first = command(path)
    assert first.returncode == 0, first.stderr
    return path, json.loads(first.stdout)


def test_weights_load_with_a_complete_proof(done):
    path, facts = done
    weights = path.parent / facts["weights"]
    encoder = build_encoder(RUN["encoder"], weights=weights)
    assert encoder.proof.complete
    assert encoder.proof.fraction == 1.0
    assert facts["sha256"] == file_sha256(weights)
    assert facts["steps"] == 4


def test_the_card_says_what_was_done(done):
    path, facts = done
    card = json.loads((path.parent / facts["card"]).read_text())
    assert card["objective"]["mask"] == {"kind": "random", "ratio": 0.75, "predict": 1.0}
    assert card["data"]["samples"] == 12, "validation and test samples are never learnt from"
    assert card["sensors"] == {"sentinel2-l2a": ["green", "red", "nir"]}
    assert card["energy"]["kwh"] > 0
    assert card["joules_per_sample"] > 0
    assert card["weights_from"] == "random"


def inside(capsys, path, *more):
    """The command in this process: exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as end:
        main(["pretrain", str(path), "--json", *more])
    out = capsys.readouterr()
    return end.value.code or 0, out.out, out.err


def test_it_goes_on_and_refuses_another_run(done, capsys, monkeypatch):
    path, _ = done
    monkeypatch.chdir(path.parent)
    assert json.loads(inside(capsys, path)[1])["resumed_from"] == 4
    code, _, text = inside(capsys, path, "--set", "objective.mask.ratio=0.5")
    assert code == 2
    assert "ratio: 0.75 in the checkpoint, 0.5 now" in text
    fresh = inside(capsys, path, "--set", "objective.mask.ratio=0.5", "--fresh", "--out", "other")
    assert json.loads(fresh[1])["resumed_from"] == 0


def test_unknown_words_name_the_nearest(done, capsys):
    code, _, text = inside(capsys, done[0], "--set", "objective.kind=maee")
    assert code == 2
    assert "did you mean mae" in text


def test_continual_pretraining_starts_from_weights(done, tmp_path):
    path, facts = done
    weights = path.parent / facts["weights"]
    sets = [f"weights={weights}", "loop.steps=1", "loop.lr=0.0", f"out={tmp_path}"]
    again = pretrain(load(path, PretrainRun, sets))
    before, after = build_encoder(RUN["encoder"], weights=weights), again.objective.encoder
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert again.card["weights_from"] == str(weights)


def test_the_weights_tune(done, tmp_path):
    from swath.core.config import parse

    tune = pytest.importorskip("swath.adapt.tune")
    from swath.adapt.run import TuneRun

    path, facts = done
    data = {**RUN["data"], "labels": ["land_cover"], "near": "cropland"}
    run = parse({"name": "t", "data": data, "encoder": RUN["encoder"], "task": "segment", "tuning": "frozen",
                 "weights": str(path.parent / facts["weights"]), "out": str(tmp_path),
                 "loop": {"steps": 2, "batch_size": 4, "progress": False}}, TuneRun)  # fmt: skip
    assert tune.tune(run) is not None


def test_probes_find_what_is_there_and_nothing_else():
    g = torch.Generator().manual_seed(0)
    y = torch.randint(3, (300,), generator=g)
    told = torch.randn(300, 8, generator=g) + 4 * torch.nn.functional.one_hot(y, 8)
    blind = torch.randn(300, 8, generator=g)
    for probe in (knn, linear):
        assert probe((told[:150], y[:150]), (told[150:], y[150:])) > 0.8
        assert probe((blind[:150], y[:150]), (blind[150:], y[150:])) < 0.5


def test_a_folder_of_rasters_without_labels(tmp_path, capsys, monkeypatch):
    """`swath init --task pretrain`, then the run file as it is: two sensors, mixed dates, gaps, one sensor missing."""
    rasterio = pytest.importorskip("rasterio")
    g = torch.Generator().manual_seed(0)
    for site in range(6):
        for folder, names in (("S1RTC", ("VV", "VH")), ("S2L2A", ("B02", "B04", "B08"))):
            if folder == "S1RTC" and site in (0, 3):
                continue
            x = torch.rand(len(names), 32, 32, generator=g) * 3000 + 200
            x[:, :8, :8] = 0
            place = rasterio.Affine(10, 0, 5e5 + 5e3 * site, 0, -10, 55e5)
            path = tmp_path / "rasters" / folder / f"site{site}_2021-0{4 + site % 3}-11.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            x, kind = (x / 400 - 20, "float32") if folder == "S1RTC" else (x, "uint16")
            how = {"width": 32, "height": 32, "count": len(names), "dtype": kind, "crs": "EPSG:32632", "nodata": 0}
            with rasterio.open(path, "w", driver="GTiff", transform=place, **how) as file:
                file.write(x.numpy().astype(kind))
                for i, n in enumerate(names, 1):
                    file.set_band_description(i, n)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["init", "rasters", "--task", "pretrain"])
    assert not end.value.code, capsys.readouterr().err
    capsys.readouterr()
    sets = ["encoder.size=nano", "encoder.patch=8", "loop.epochs=1", "loop.batch_size=2", "loop.progress=false"]
    sets += ["objective.width=16", "objective.depth=1", "objective.heads=2"]
    code, out, err = inside(capsys, "rasters/run.yaml", *(w for s in sets for w in ("--set", s)))
    assert code == 0, err
    card = json.loads((tmp_path / json.loads(out)["card"]).read_text())
    assert card["sensors"] == {"sentinel1-rtc": ["vv", "vh"], "sentinel2-l2a": ["blue", "red", "nir"]}
    sets += ["bands={sentinel1-rtc: [vv, vh]}", "out=radar"]
    with pytest.warns(SwathWarning, match="2 of 6 samples have nothing of sentinel1-rtc"):
        code, out, err = inside(capsys, "rasters/run.yaml", *(w for s in sets for w in ("--set", s)))
    assert code == 0, err
    assert list(json.loads((tmp_path / "radar/card.json").read_text())["sensors"]) == ["sentinel1-rtc"]
