"""`swath init` and `swath tune`: from files to the report in two commands, for every task there is."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from swath.adapt.tasks import TASKS
from swath.cli.main import main
from swath.world.files import Render, render

SMALL = ["--set", "encoder.size=nano", "--set", "loop.epochs=1", "--set", "trust.bootstrap=20"]
SUMMER, SEASON = ("2023-06-05",), ("2023-04-10", "2023-06-05", "2023-08-20")
CASES = {
    "segment": ("land_cover", "land", SUMMER),
    "classify": ("scene_class", "any", SUMMER),
    "multilabel": ("tags", "any", SUMMER),
    "regress": ("canopy_height", "forest", SUMMER),
    "scalar": ("yield", "cropland", SEASON),
    "detect": ("buildings", "city", SUMMER),
    "instances": ("fields", "cropland", SUMMER),
    "boundaries": ("field_boundary", "cropland", SUMMER),
    "change": ("change", "forest", ("2019-07-10", "2023-07-20")),
    "series": ("crop", "cropland", SEASON),
    "superres": ("hires", "land", SUMMER),
}


def world(root, task):
    label, near, days = CASES[task]
    done = Render(str(root), 7, ("sentinel2-l2a",), days, (label,), chips=14, size=32, near=near, clouds=0.3)
    assert len(list(render(done))) == 14


def holes(root, task):
    """Series with holes of nodata, and the middle date as it was."""
    rng = np.random.default_rng(0)
    place = {"height": 32, "width": 32, "crs": "EPSG:32632"}
    for i in range(14):
        place["transform"] = Affine(10, 0, 4e5 + 5000 * i, 0, -10, 5.3e6)
        base = rng.integers(1200, 4000, (4, 4, 4)).repeat(8, 1).repeat(8, 2)
        for folder, names in (("images", ("2023-05-01", "2023-06-01", "2023-07-01")), ("targets", ("",))):
            (root / folder).mkdir(parents=True, exist_ok=True)
            for day in names:
                x = base.astype("uint16")
                if day:
                    x[:, rng.random((32, 32)) < 0.3] = 0
                name = f"{folder}/k{i:02d}{'_' * bool(day)}{day}.tif"
                with rasterio.open(root / name, "w", count=4, dtype="uint16", nodata=0, **place) as out:
                    out.write(x)
                    out.descriptions = ("blue", "green", "red", "nir")


def said(capsys, words):
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json"])
    told = capsys.readouterr()
    assert ended.value.code == 0, told.err
    return json.loads(told.out)


QUICK = ("superres", "gapfill")


@pytest.mark.parametrize("task", [t if t in QUICK else pytest.param(t, marks=pytest.mark.slow) for t in TASKS.names()])
def test_from_files_to_the_report(task, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (holes if task == "gapfill" else world)(tmp_path / "data", task)
    given = ["--sensor", "sentinel2-l2a"] if task == "gapfill" else []
    begun = said(capsys, ["init", "data", "--task", task, *given])
    assert begun["samples"] == 14 and set(begun["splits"]) == {"train", "val", "test"}
    found = said(capsys, ["tune", "data/run.yaml", *SMALL, "--out", "out"])
    assert found["value"] == found["value"] and found["value"] is not None
    page = Path(found["report"]).read_text()
    assert found["score"] in page and "swath" in page
    card = said(capsys, ["show", "bundle", found["packed"]])
    assert card["task"] == task and found["score"] in card["metrics"]


def test_every_task_is_tried():
    assert {*CASES, "gapfill"} == set(TASKS.names())
