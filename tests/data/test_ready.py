"""`swath init` for data that say what they are: only a run file is written, and it opens."""

import json

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from tests.data.chips import S2, folder
from tests.data.pack import benv2_like, tiff, tortilla

from swath.cli.main import main
from swath.core import UnknownName, UserError
from swath.core.config import load
from swath.data.check import check
from swath.data.open import open_source
from swath.data.propose import Hints
from swath.data.ready import begin, says_itself
from swath.data.start import start

CARD = """
name = "moist"
[layout]
kind = "pixels"
path = "p.parquet"
[[layer]]
sensor = "sentinel2-l2a"
bands = ["red", "nir"]
[[label]]
kind = "scalar"
column = "moisture"
name = "moisture"
"""


@pytest.fixture
def benv2(tmp_path):
    file = tmp_path / "geobench_benv2.0000.part.tortilla"
    file.write_bytes(benv2_like(6))
    return file


def opened(run):
    return open_source(yaml.safe_load(run.read_text())["data"])


def test_a_tortilla_becomes_a_run_that_tunes_its_label(benv2, tmp_path, monkeypatch):
    run = pytest.importorskip("swath.adapt.run")
    monkeypatch.chdir(tmp_path)
    done = begin(benv2.name, "multilabel", tmp_path / "o")
    assert done.card is None and not done.assumed and [p.name for p in (tmp_path / "o").iterdir()] == ["run.yaml"]
    parsed = load(done.run, run.TuneRun)
    assert parsed.task.kind == "multilabel" and parsed.loop.batch_size == 1
    monkeypatch.chdir("/")
    assert len(parsed.data.build()) == len(opened(done.run)) == done.found["samples"] == 6
    assert done.found["splits"] == {k: len(v) for k, v in opened(done.run).splits().items()}
    with pytest.raises(UserError, match=r"run\.yaml is there already"):
        begin(str(benv2), "multilabel", tmp_path / "o")


def test_a_task_that_the_labels_do_not_fit_says_which_do(benv2, tmp_path):
    with pytest.raises(UserError, match="label of kind mask; found") as caught:
        begin(str(benv2), "segment", tmp_path / "o")
    assert "--task multilabel" in caught.value.remedy and not (tmp_path / "o").exists()
    with pytest.raises(UnknownName):
        begin(str(benv2), "segmant", tmp_path / "o")


def test_series_with_a_card_and_learning_without_labels(tmp_path):
    rows = [{"key": k, "date": f"2020-0{m}-01", "B04": 500 * m, "B08": 900, "moisture": float(m)}
            for k in "abcd" for m in (1, 2)]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    (tmp_path / "card.toml").write_text(CARD)
    assert says_itself(str(tmp_path))
    done = begin(str(tmp_path), "scalar", tmp_path / "o")
    assert len(opened(done.run)) == 4 and any("no split 'train'" in a for a in done.assumed)
    text = yaml.safe_load(begin(str(tmp_path / "card.toml"), "pretrain", tmp_path / "p").run.read_text())
    assert text["objective"]["kind"] == "mae" and "task" not in text


def test_folders_of_rasters_are_looked_at_as_before(tmp_path):
    folder(tmp_path / "d", n=12)
    assert not says_itself(str(tmp_path / "d"))
    start(tmp_path / "d", "segment", Hints("sentinel2-l2a", S2))
    assert not says_itself(str(tmp_path / "d")), "a card of ours changes nothing"


def test_the_command(benv2, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as done:
        main(["init", str(benv2), "--task", "multilabel", "--json"])
    assert done.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["card"] is None and told["run"] == str(tmp_path / "geobench_benv2.0000.part" / "run.yaml")
    for more, word in ((["--sensor", "sentinel2-l2a"], "say what they are"), (["--task", "classify"], "multilabel")):
        with pytest.raises(SystemExit) as done:
            main(["init", str(benv2), "--task", "multilabel", "--out", str(tmp_path / "x"), *more])
        assert done.value.code == 2 and word in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["init", str(tmp_path / "nowhere"), "--task", "segment"])
    assert "neither such a file or folder" in capsys.readouterr().err


def test_a_file_nobody_has_a_card_for_is_refused(tmp_path):
    rows = [("a", "GTiff", "train", tiff(np.ones((3, 8, 8), "uint16")), {})]
    (tmp_path / "x.tortilla").write_bytes(tortilla(rows))
    with pytest.raises(UserError):
        begin(str(tmp_path / "x.tortilla"), "segment", tmp_path / "o")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("folder", "task"), [("m-eurosat", "classify"), ("brick_kiln", "classify"),
                                              ("m-SA-crop-type", "segment")])  # fmt: skip
def test_a_folder_of_hdf5_samples_is_known_by_its_name(shared, tmp_path, folder, task):
    place = shared / "real/geobench_v1_samples" / folder
    assert says_itself(str(place)) and check(place, workers=1).ok
    done = begin(str(place), task, tmp_path / "o")
    assert len(opened(done.run)) == 5 and done.found["splits"] == {"all": 5}


def test_a_folder_of_hdf5_samples_of_no_known_name_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    with h5py.File(tmp_path / "mine/a.hdf5", "w") as file:
        file["band"] = np.zeros((4, 4))
    for ask in (lambda: begin(str(tmp_path / "mine"), "classify", tmp_path / "o"), lambda: check(tmp_path / "mine")):
        with pytest.raises(UserError, match="no card is known") as caught:
            ask()
        assert "m-eurosat" in caught.value.remedy
    folder(tmp_path / "d", n=2)
    (tmp_path / "d/images/notes.hdf5").write_bytes(b"")
    assert not says_itself(str(tmp_path / "d/images")), "rasters beside a file of another kind stay rasters"


def test_a_path_beside_data_that_lie_somewhere_is_refused(benv2, tmp_path):
    folder(tmp_path / "d", n=4)
    for ref in (benv2, tmp_path / "d"):
        with pytest.raises(UserError, match="shipped card"):
            begin(str(ref), "segment", tmp_path / "o", path="x")
        with pytest.raises(UserError, match="shipped card"):
            check(ref, path="x")
    with pytest.raises(SystemExit) as done:
        main(["init", str(tmp_path / "d"), "--task", "segment", "--path", "x"])
    assert done.value.code == 2 and not (tmp_path / "d/run.yaml").exists()
