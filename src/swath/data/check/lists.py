"""Text beside the rasters: split lists, class legends, tables of dates."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, cast

from swath.core.errors import UserError
from swath.data.names import SPLIT_WORDS, split_called

LISTS = (".csv", ".tsv", ".json", ".txt", ".lst", ".parquet", ".geojson")
MOST_BYTES = 64 << 20
_SPLIT_COLUMNS = ("split", "subset", "partition", "fold_name", "tortilla:data_split", "set")
_KEY_COLUMNS = ("key", "id", "name", "file", "filename", "file_name", "image", "image_id", "chip", "chip_id", "sample",
                "path", "stem", "tile")  # fmt: skip
_DATE_COLUMNS = ("date", "dates", "datetime", "time", "timestamp", "acquisition_date", "acquired")
_LEGENDS = ("legend", "classes", "class_names", "class_map", "label_map", "labels_legend", "categories")
Legend = dict[int, str]


@dataclass
class SplitList:
    """One or more files that say which key is in which split; `tokens` keep what was written."""

    file: str
    splits: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    problems: list[str] = field(default_factory=list[str])


def _stem(text: str) -> str:
    name = PurePosixPath(text.strip().strip('"').replace("\\", "/")).name
    head, dot, tail = name.rpartition(".")
    return head if dot and tail.lower() in ("tif", "tiff", "png", "jpg", "jpeg", "jp2", "npy", "h5", "hdf5") else name


def rows_of(path: Path) -> list[dict[str, Any]]:
    """A table's rows, from CSV, TSV, Parquet or GeoJSON."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path).to_pylist()
    text = path.read_text(encoding="utf-8-sig")
    if suffix == ".geojson":
        data = json.loads(text)
        return [f.get("properties") or {} for f in data.get("features", [])] if isinstance(data, dict) else []
    lines = text.splitlines()
    return list(csv.DictReader(lines, delimiter="\t" if suffix == ".tsv" else ","))


def _column(rows: list[dict[str, Any]], wanted: Iterable[str]) -> str | None:
    names = {str(k).strip().lower(): str(k) for k in (rows[0] if rows else {})}
    return next((names[w] for w in wanted if w in names), None)


def read_splits(root: Path, tables: list[str], keys: set[str]) -> list[SplitList]:
    """Split lists in any of the usual spellings; a table that names no known key is no split list."""
    found: list[SplitList] = []
    for file in tables:
        stem = PurePosixPath(file).stem.lower()
        try:
            splits = _splits_in(root / file, "split" in stem)
        except (ValueError, OSError, RecursionError, csv.Error, UserError) as why:
            if "split" in stem:
                found.append(SplitList(file, {}, [f"the split list cannot be read: {why}"]))
            continue
        written = {t for tokens in splits.values() for t in tokens}
        if written and len(written & keys) >= max(1, len(written) // 4):
            found.append(SplitList(file, splits))
    return found


def listed(path: Path) -> SplitList:
    """The list that somebody named: it has to be one, and its splits may be called anything."""
    try:
        splits = _splits_in(path, True)
    except (ValueError, OSError, RecursionError, csv.Error) as why:
        raise UserError(f"the split file cannot be read: {why}", where=str(path)) from why
    if not splits:
        raise UserError(
            "the split file holds no split", where=str(path),
            remedy='write {"train": [keys], "val": [...]} as JSON, or a table with the columns key and split',
        )  # fmt: skip
    return SplitList(path.name, splits)


def _splits_in(path: Path, any_name: bool) -> dict[str, list[str]]:
    out: dict[str, list[str]] = defaultdict(list)
    suffix = path.suffix.lower()
    own = next((SPLIT_WORDS[w] for w in _tokens(path.stem) if w in SPLIT_WORDS), "")
    if suffix == ".json":
        _from_json(json.loads(path.read_text(encoding="utf-8")), own, any_name, out)
    elif suffix in (".csv", ".tsv", ".parquet", ".geojson"):
        rows = rows_of(path) if suffix != ".geojson" or path.stat().st_size < MOST_BYTES else []
        split, key = _column(rows, _SPLIT_COLUMNS), _column(rows, _KEY_COLUMNS)
        if split and key:
            said = [split_called(str(row[split] or "").strip()) for row in rows]
            for row, name in zip(rows, said, strict=True) if any_name or set(said) & set(SPLIT_WORDS.values()) else ():
                if name:
                    out[name].append(_stem(str(row[key])))
        elif own and key:
            out[own] = [_stem(str(row[key])) for row in rows]
        elif own and suffix == ".csv":
            out[own] = [_stem(line.split(",")[0]) for line in path.read_text(encoding="utf-8").splitlines() if line]
    elif own:
        out[own] = [_stem(line.split()[0]) for line in path.read_text(encoding="utf-8").splitlines() if line.split()]
    return dict(out)


def _tokens(text: str) -> list[str]:
    return [w for w in text.lower().replace("-", "_").replace(".", "_").split("_") if w]


def _from_json(data: Any, own: str, any_name: bool, out: dict[str, list[str]]) -> None:
    if isinstance(data, list):
        for item in cast(list[Any], data):
            if isinstance(item, str) and own:
                out[own].append(_stem(item))
            elif isinstance(item, dict):
                row = {str(k).lower(): v for k, v in cast(dict[Any, Any], item).items()}
                key = next((row[k] for k in _KEY_COLUMNS if k in row), None)
                said = next((row[k] for k in _SPLIT_COLUMNS if k in row), own)
                if key is not None and said:
                    out[split_called(str(said))].append(_stem(str(key)))
    elif isinstance(data, dict):
        table = cast(dict[str, Any], data)
        inner = cast(
            dict[str, Any], next((table[k] for k in ("splits", "split") if isinstance(table.get(k), dict)), table)
        )
        usual = {n for n, v in inner.items() if isinstance(v, list) and n.lower() in SPLIT_WORDS}
        for name, value in inner.items():
            if isinstance(value, list) and (name in usual or (any_name and not usual)):
                out[split_called(name)] += [_stem(_key_in(item)) for item in cast(list[Any], value)]
            elif isinstance(value, str) and value.lower() in SPLIT_WORDS:
                out[split_called(value)].append(_stem(name))


def _key_in(item: Any) -> str:
    return next((str(item[k]) for k in _KEY_COLUMNS if k in item), "") if isinstance(item, dict) else str(item)


def read_legend(root: Path, tables: list[str]) -> Legend | None:
    """Class names by value from a file called `classes`, `legend`, ... at the top or one folder down."""
    for file in tables:
        path = PurePosixPath(file)
        if path.stem.lower() not in _LEGENDS:
            continue
        try:
            legend = _legend_in(root / file)
        except (ValueError, OSError, csv.Error):
            continue
        if legend:
            return legend
    return None


def _legend_in(path: Path) -> Legend:
    if path.suffix.lower() == ".json":
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and isinstance(data.get("classes"), (dict, list)):
            data = data["classes"]
        if isinstance(data, list):
            return {i: str(v) for i, v in enumerate(data)}
        if isinstance(data, dict):
            if all(str(k).lstrip("-").isdigit() for k in data):
                return {int(k): str(v) for k, v in data.items()}
            if all(isinstance(v, int) for v in data.values()):
                return {int(v): str(k) for k, v in data.items()}
        return {}
    if path.suffix.lower() in (".csv", ".tsv"):
        rows = rows_of(path)
        value, name = _column(rows, ("value", "id", "class", "class_id", "index")), _column(rows, ("name", "label"))
        if value:
            return {int(str(r[value])): str(r[name]) if name else str(r[value]) for r in rows}
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    heads = [line.replace(",", " ").replace(":", " ").replace("=", " ").split(maxsplit=1) for line in lines]
    if heads and all(h[0].isdigit() for h in heads):
        return {int(h[0]): h[-1] for h in heads}
    return dict(enumerate(lines))


def read_dates(root: Path, tables: list[str], keys: set[str]) -> dict[str, list[str]]:
    """Dates per key from any table with a key and a date column, in the order of the rows."""
    found: dict[str, list[str]] = defaultdict(list)
    for file in tables:
        if PurePosixPath(file).suffix.lower() not in (".csv", ".tsv", ".parquet", ".geojson"):
            continue
        try:
            rows = rows_of(root / file)
        except (ValueError, OSError, csv.Error):
            continue
        key, date = _column(rows, _KEY_COLUMNS), _column(rows, _DATE_COLUMNS)
        if not key or not date:
            continue
        for row in rows:
            stem = _stem(str(row[key]))
            if stem in keys:
                value = row[date]
                many = (
                    value
                    if isinstance(value, (list, tuple))
                    else str(value).strip("[]() ").replace(";", ",").split(",")
                )
                found[stem] += [str(v).strip(" '\"") for v in cast(list[Any], many)]
    return dict(found)
