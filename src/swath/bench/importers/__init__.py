"""Published result files as records of origin `copied`. One file per layout; `MEMBER(path)` gives its records."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

from swath.core.errors import UserError
from swath.core.family import Family
from swath.core.records import Result

Importer = Callable[[Path], list[Result]]
IMPORTERS: Family[Importer] = Family("importer", "swath.bench.importers")


def rows_of(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV that must have these columns; each knows its `#row`."""
    if not path.is_file():
        raise UserError("there is no such file", where=str(path))
    try:
        with open(path, newline="", encoding="utf-8") as text:
            reader = csv.DictReader(text)
            lost = [c for c in columns if c not in (reader.fieldnames or ())]
            if lost:
                raise UserError(f"the file lacks the columns {lost}", where=str(path), remedy="is it of this layout?")
            rows = [{k: v for k, v in row.items() if isinstance(v, str)} for row in reader]
    except (UnicodeDecodeError, csv.Error) as why:
        raise UserError(f"the file is not CSV: {why}", where=str(path)) from why
    if not rows:
        raise UserError("the file has no rows", where=str(path))
    for number, row in enumerate(rows, 2):
        row["#row"] = str(number)
    return rows


def number(row: dict[str, str], column: str, path: Path) -> float:
    """A cell as a number; an empty one is NaN, any other text an error with its row."""
    text = row.get(column, "").strip()
    try:
        return float(text) if text else float("nan")
    except ValueError:
        raise UserError(f"'{text}' is not a number", where=f"{path}, row {row['#row']}, column {column}") from None


__all__ = ["IMPORTERS", "Importer", "number", "rows_of"]
