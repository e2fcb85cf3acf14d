"""Labels that are not rasters, found in a folder without a card: tables, COCO files, vector layers."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from swath.data.card import LabelCard
from swath.data.check.lists import rows_of
from swath.data.index import key_of

Row = Mapping[str, Any]
VECTOR_FILES = (".geojson", ".gpkg", ".geoparquet", ".shp", ".fgb")
_CLASS_COLUMNS = ("label", "class", "category", "class_name", "label_name", "name", "type", "crop", "target", "y")
_TAG_COLUMNS = ("labels", "tags", "classes", "categories", "label")
_NOT_LABELS = {
    "split", "subset", "partition", "fold", "date", "datetime", "time", "lon", "lat", "longitude", "latitude", "x", "y",
    "id", "fid", "year", "month", "crs", "width", "height", "path", "filename",
}  # fmt: skip
_SEPARATORS = re.compile(r"[;|,]")
MOST = 300


def table_label(root: Path, file: str, keys: Sequence[str], task: str) -> LabelCard | None:
    """A table's label for a task: which column holds the keys, which one the label."""
    try:
        rows: Sequence[Row] = rows_of(root / file)
    except (OSError, ValueError, csv.Error):
        return None
    known = set(keys)
    columns = [str(c) for c in rows[0]] if rows else []
    hits = {c: sum(key_of(str(r.get(c, ""))) in known for r in rows) for c in columns}
    key = max(columns, key=lambda c: hits[c], default="")
    if not key or hits[key] < 0.5 * len(known):
        return None
    kept = [r for r in rows if key_of(str(r.get(key, ""))) in known]
    rest = [c for c in columns if c != key]
    find = {"multilabel": _tags, "classify": _class, "scalar": _scalar, "regress": _scalar}.get(task)
    found = None if find is None else find(kept, rest)
    if found is None:
        return None
    kind, column, classes = found
    return LabelCard(kind, classes=classes, path=file, column=column, key=key)


def _first(columns: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The columns, those of the usual names first, without those that say where and when."""
    usual = [c for w in wanted for c in columns if c.strip().lower() == w]
    return usual + [c for c in columns if c not in usual and c.strip().lower() not in _NOT_LABELS]


def _tags(rows: Sequence[Row], columns: Sequence[str]) -> tuple[str, str, tuple[str, ...]] | None:
    flags = [c for c in columns if {str(r[c]).strip() for r in rows} <= {"0", "1", "0.0", "1.0", "True", "False"}]
    if len(flags) > 1:
        return "tags", "", tuple(flags)
    for column in _first(columns, _TAG_COLUMNS):
        lists = [r[column] if isinstance(r[column], list) else parts(str(r[column] or "")) for r in rows]
        tags = Counter(str(t) for tags in lists for t in cast("list[Any]", tags))
        if tags and len(tags) <= MOST and any(len(cast("list[Any]", t)) > 1 for t in lists):
            return "tags", column, tuple(sorted(tags))
    return None


def parts(text: str) -> list[str]:
    """`water; forest` as a list."""
    return [p.strip(" []'\"") for p in _SEPARATORS.split(text) if p.strip(" []'\"")]


def _class(rows: Sequence[Row], columns: Sequence[str]) -> tuple[str, str, tuple[str, ...]] | None:
    for column in _first(columns, _CLASS_COLUMNS):
        seen = Counter(word for r in rows if (word := str(r[column] or "").strip()))
        if 1 < len(seen) <= min(MOST, max(2, len(rows) // 2)) and not any("." in v and _number(v) for v in seen):
            whole = all(v.lstrip("-").isdigit() for v in seen)
            return "class", column, tuple(sorted(seen, key=int) if whole else sorted(seen))
    return None


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _scalar(rows: Sequence[Row], columns: Sequence[str]) -> tuple[str, str, tuple[str, ...]] | None:
    for column in _first(columns, ("value", "target", "label", "y")):
        if all(_number(str(r[column])) for r in rows if str(r[column] or "").strip()):
            return "scalar", column, ()
    return None


def coco_label(root: Path, file: str) -> LabelCard | None:
    """A COCO file's boxes."""
    try:
        data: Any = json.loads((root / file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not {"images", "annotations", "categories"} <= data.keys():
        return None
    from swath.data.labels import Coco

    return LabelCard("boxes", classes=Coco(root / file, LabelCard("boxes")).classes, path=file)


def vector_label(root: Path, path: str, files: Sequence[str]) -> LabelCard:
    """A vector layer (or a folder of them) as a mask: by its column of classes, else every polygon is class 1."""
    from swath.data.labels import read_vector

    seen: dict[str, Counter[str]] = {}
    for file in files[:: max(1, len(files) // 200)]:
        frame: Any = read_vector(root / file)
        for column in frame.columns:
            if str(column) != frame.geometry.name:
                seen.setdefault(str(column), Counter()).update(str(v) for v in frame[column])
    for column in _first(list(seen), _CLASS_COLUMNS):
        usual = column.strip().lower() in _CLASS_COLUMNS
        words = sorted(seen[column])
        if not usual or len(words) > MOST or any(_number(w) and not w.lstrip("-").isdigit() for w in words):
            continue
        if all(w.lstrip("-").isdigit() for w in words):
            values = tuple(sorted({0, *(int(w) for w in words)}))
            if values == (0,):
                continue
            names = tuple("background" if v == 0 else f"class{v}" for v in values)
            plain = values == tuple(range(len(values)))
            return LabelCard("mask", path=path, column=column, classes=names, values=() if plain else values)
        return LabelCard("mask", path=path, column=column, classes=("background", *words))
    return LabelCard("mask", path=path, classes=("background", "object"))
