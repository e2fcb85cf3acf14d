"""What verbs print: a table for people, JSON for programs. Nothing else writes to standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast


def say(text: str = "") -> None:
    """A line for people."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """A line on standard error: progress and remarks that a pipe must not see."""
    sys.stderr.write(text + "\n")


def answer_json(value: Any) -> None:
    """One JSON document."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


def table(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Rows of equal keys as a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    grid = Table(title=title or None, title_justify="left")
    columns = [c for c in dict.fromkeys(k for row in rows for k in row) if any(_words(row.get(c)) for row in rows)]
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(escape(_words(row.get(c))) for c in columns))  # [brackets] are no markup
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(grid)


def _words(value: Any) -> str:
    """A value as people read it: nothing for None, commas between the items of a list or mapping, six digits."""
    if isinstance(value, list | tuple):
        return ", ".join(_words(v) for v in cast("list[Any]", value))
    if isinstance(value, Mapping):
        items = ((k, _words(v)) for k, v in cast("Mapping[Any, Any]", value).items())
        return "; ".join(f"{k}: {v}" for k, v in items if v)
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.0f}" if value.is_integer() else f"{value:.1f}"
    return "" if value is None else str(value)


def answer(value: Any, as_json: bool, title: str = "") -> None:
    """A list of rows or a mapping, as JSON or for people."""
    if as_json:
        answer_json(value)
    elif isinstance(value, Mapping):
        width = max((len(str(k)) for k in value), default=0)
        for key, item in value.items():
            say(f"{key!s:<{width}}  {_words(item)}".rstrip())
    else:
        table(value, title)
