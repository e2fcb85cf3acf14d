"""`swath bench audit RECORDS`: six expectations, and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Records = Annotated[list[Path], typer.Argument(help="Record files (JSON lines).")]
Json = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]


def command(records: Records, as_json: Json = False) -> None:
    """Score records against the six community expectations."""
    from swath.bench.audit import audit as score
    from swath.bench.select import load
    from swath.cli.output import answer_json, say

    found = score(load(records))
    if as_json:
        answer_json([{"name": e.name, "met": e.met, "missing": list(e.missing)} for e in found])
        return
    for e in found:
        say(f"{e.met:6.1%}  {e.name}")
        for line in e.missing:
            say(f"          missing: {line}")
