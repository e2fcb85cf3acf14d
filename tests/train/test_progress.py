"""What people read while a run goes on."""

import json

from swath.core.config import parse
from swath.train.config import LoopConfig
from swath.train.progress import Progress


def test_scores_of_each_class_go_to_the_file_and_not_to_the_terminal(tmp_path, capsys):
    progress = Progress(tmp_path, parse({"steps": 4}, LoopConfig), 4, 0)
    progress.note(2, {"iou/water": 0.25, "iou/wood": 0.75, "iou_macro": 0.5, "best": 0.5})
    said = capsys.readouterr().err
    assert "iou_macro 0.5" in said and "best 0.5" in said and "water" not in said
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["iou/water"] == 0.25
