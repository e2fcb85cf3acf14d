"""What the split verbs read and say: `a=1,b=2`, tables of columns, and lines for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swath.core.errors import UserError
from swath.data.check.lists import rows_of
from swath.data.splits import Leak, Samples


def pairs(text: str) -> dict[str, str]:
    """`train=.7,val=.3` as a mapping."""
    out: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, sep, value = part.partition("=")
        if not sep or not value:
            raise UserError(f"'{part}' is not of the form name=value", where=text)
        out[name.strip()] = value.strip()
    return out


def columns_of(table: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """The columns of a table in the order of the samples; its key is `key`, `id` or `name`."""
    if not table.is_file():
        raise UserError("there is no such table", where=str(table))
    rows = rows_of(table)
    key = next((k for k in ("key", "id", "name") if rows and k in rows[0]), None)
    if key is None:
        raise UserError("the table has no column key, id or name", where=str(table))
    by_key = {str(r[key]): r for r in rows}
    missing = [n for n in names if n not in by_key]
    if missing:
        raise UserError(f"the table does not know the sample '{missing[0]}'", where=str(table))
    return {c: [by_key[n][c] for n in names] for c in rows[0] if c != key}


def placed(samples: Samples) -> bool:
    """Every sample's place is known."""
    return samples.lonlat is not None and bool(np.isfinite(samples.lonlat).all())


def line(leak: Leak) -> str:
    """One pair of splits in a sentence."""
    near = ", ".join(f"{v:.1%} within {float(k):g} m" for k, v in leak.within.items())
    return (
        f"{leak.a} to {leak.b}: nearest {leak.nearest_m:.0f} m ({leak.sample} - {leak.neighbour}), 5 % below "
        f"{leak.p05_m:.0f} m, median {leak.median_m:.0f} m; {near}"
    )
