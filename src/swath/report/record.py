"""The `record.json` of a run, and what the pages made of one say alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swath.core.errors import UserError
from swath.report.page import code, text

SCHEMA = 1


def read(folder: str | Path, kind: str) -> dict[str, Any]:
    """The record that `swath KIND` left in a run's folder."""
    path = Path(folder) / "record.json"
    if not path.is_file():
        raise UserError("there is no record.json", where=str(folder), remedy=f"give the folder swath {kind} wrote")
    record = json.loads(path.read_text(encoding="utf-8"))
    if record.get("kind") != kind or record.get("schema") != SCHEMA:
        raise UserError(f"this is no record of swath {kind}, schema {SCHEMA}", where=str(path))
    return record


def number(value: Any, form: str = ".4g", unit: str = "") -> str:
    """A number in words; what could not be measured is said so."""
    return "not known" if value is None else f"{value:{form}}{unit}"


def used(energy: Mapping[str, Any]) -> dict[str, str]:
    """Energy and what it emitted, in words; a run that was not measured has not used nothing."""
    kwh, kg = (energy[k] if energy.get("methods") else None for k in ("kwh", "kgco2e"))
    return {
        "energy": number(None if kwh is None else 1000 * kwh, ".3g", " Wh"),
        "CO2e": number(None if kg is None else 1000 * kg, ".3g", " g"),
    }


def line(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """The points of a curve: the steps that have a value of `key`."""
    return [(float(r["step"]), r[key]) for r in rows if r.get(key) is not None]


def again(record: Mapping[str, Any], unknown: str) -> list[str]:
    """The command that makes the run anew (`unknown` where it was not started by one), and the run it resolved to."""
    whole = code(json.dumps(record["run"], indent=1))
    command = " ".join(record["command"]) or unknown
    run = f"<details><summary>The resolved run</summary>{whole}</details>"
    return [text("The command that makes this again:"), code(command), run]
