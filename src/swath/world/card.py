"""What a rendered data set holds, as the card that `swath init`, `tune` and `check` read, and one table a label.

Labels of whole chips stand in a table each (`labels/{label}.csv`), boxes without masks in a COCO file, objects with
masks as rasters of their numbers.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from swath.core import LabelSpec, Sensor
from swath.world.labels import LABELS
from swath.world.planet import comes_masked

STILL = ("elevation", "classes")
"""Kinds of sensor that have no dates."""
CLOUD = 1
"""Of the cloud masks: 0 clear, 1 cloud, 2 thin cloud, 3 shadow."""
_COLUMN = {"class": "class", "tags": "tags", "scalar": "value"}


def card_of(
    name: str, sensors: Sequence[Sensor], labels: Sequence[str], masked: Sequence[str], *, clouds: bool = True
) -> str:
    """The card as TOML; `masked` names the labels of objects with masks, `clouds`: whether cloud masks are there."""
    rows = [
        "# Written by swath world.", f"name = {_toml(name)}", 'licence = "CC0-1.0"', "",
        "[layout]", 'kind = "folder"', 'path = "."', "",
    ]  # fmt: skip
    for sensor in sensors:
        date = "" if sensor.kind in STILL else "_{date}"
        path = f"images/{{key}}{date}_{sensor.id}.tif"
        more = _clouds(sensor) if clouds else []
        rows += ["[[layer]]", *_pairs({"sensor": sensor.id, "bands": sensor.names, "path": path}), *more, ""]
    for one in labels:
        rows += ["[[label]]", *_label(LABELS[one], one in masked), ""]
    return "\n".join(rows).rstrip() + "\n"


def _clouds(sensor: Sensor) -> list[str]:
    """Products with a cloud mask are read with it; others come as they are, and the card says so."""
    if sensor.kind != "optical":
        return []
    if comes_masked(sensor.id):
        return _pairs({"clouds": "clouds/{key}_{date}.tif", "hides": (CLOUD,)})
    return [f"# {sensor.id} comes without a cloud mask: pixels under clouds count as observed. To hide them:",
            '# clouds = "clouds/{key}_{date}.tif"', f"# hides = [{CLOUD}]  # 2 is thin cloud, 3 shadow"]  # fmt: skip


def _label(spec: LabelSpec, masked: bool) -> Iterator[str]:
    folder = f"labels/{spec.name}"
    table = spec.kind in _COLUMN
    path = f"{folder}.csv" if table else f"{folder}.json" if spec.kind == "boxes" and not masked else folder
    more = {"column": _COLUMN[spec.kind]} if table else {"ignore": (255,)} if spec.kind == "mask" else {}
    bounds = {k: v for k, v in (("low", spec.low), ("high", spec.high)) if v is not None}
    text = {k: v for k, v in (("colours", spec.colours), ("unit", spec.unit)) if v}
    classes = {"classes": spec.classes} if spec.classes else {}
    yield from _pairs({"name": spec.name, "kind": spec.kind, "path": path, **classes, **text, **bounds, **more})


def _pairs(table: Mapping[str, Any]) -> list[str]:
    return [f"{k} = {_toml(v)}" for k, v in table.items()]


def _toml(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"  # pyright: ignore[reportUnknownVariableType]
    return json.dumps(value, ensure_ascii=False)


def table_of(spec: LabelSpec, rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Keys and values of a class, tags or a scalar as CSV; an empty cell is not labelled."""
    out = io.StringIO()
    made = csv.writer(out, lineterminator="\n")
    made.writerow(("key", _COLUMN[spec.kind]))
    for key, held in rows:
        value: Any = held[_COLUMN[spec.kind]]
        made.writerow((key, ";".join(value) if spec.kind == "tags" else "" if value is None else value))
    return out.getvalue()


def coco_of(spec: LabelSpec, rows: Sequence[tuple[str, dict[str, Any]]], size: int) -> dict[str, Any]:
    """Boxes as COCO has them."""
    notes: list[dict[str, Any]] = []
    for i, (_, held) in enumerate(rows):
        for (x0, y0, x1, y1), name in zip(held["boxes"], held["classes"], strict=True):
            box = [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]
            kind = spec.classes.index(name)
            notes.append({"id": len(notes), "image_id": i, "category_id": kind, "bbox": box, "iscrowd": 0})
    return {
        "images": [
            {"id": i, "file_name": f"{k}.tif", "width": size, "height": size} for i, (k, _) in enumerate(rows)
        ],
        "categories": [{"id": i, "name": n} for i, n in enumerate(spec.classes)],
        "annotations": notes,
    }  # fmt: skip


def gathered(out: Path, name: str, keys: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """What the chips' own files say of a label."""
    return [(k, json.loads((out / "labels" / name / f"{k}.json").read_text(encoding="utf-8"))) for k in keys]


__all__ = ["STILL", "card_of", "coco_of", "gathered", "table_of"]
