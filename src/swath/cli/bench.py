"""`swath bench`: import, rank and audit records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Judge: records, rankings with intervals, audits.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]
Records = Annotated[list[Path], typer.Argument(help="Record files (JSON lines).")]


@app.command("import")
def import_(
    layout: Annotated[str, typer.Argument(help="geobench2, geobench1 or torchgeo-bench.")],
    files: Annotated[list[Path], typer.Argument(help="Published CSV files.")],
    out: Annotated[Path | None, typer.Option("--out", help="Append the records here; else they are printed.")] = None,
) -> None:
    """Turn published tables into records of origin `copied`."""
    from swath.bench.importers import IMPORTERS
    from swath.bench.store import add
    from swath.cli.output import note, say

    read = IMPORTERS.get(layout)
    records = [r for file in files for r in read(file)]
    if out is None:
        for record in records:
            say(record.line())
    else:
        added = add(out, records)
        note(f"{added} records added to {out} ({len(records) - added} were there already)")


@app.command()
def rank(
    records: Records,
    suite: Annotated[str, typer.Option(help="The suite to rank on.")] = "geobench2",
    mode: Annotated[str, typer.Option(help="compat: as published. honest: with intervals.")] = "honest",
    submission: Annotated[str, typer.Option(help="Only this submission.")] = "",
    tuning: Annotated[str, typer.Option(help="Only this tuning.")] = "",
    origin: Annotated[str, typer.Option(help="rerun, copied or author.")] = "",
    repeats: Annotated[int, typer.Option(help="Bootstrap draws (honest).")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the draws (honest).")] = 0,
    as_json: Json = False,
) -> None:
    """Rank encoders, either exactly as published or with what the records really support."""
    from swath.bench.ranking import Request, answer_of, tables_of
    from swath.bench.select import Choice
    from swath.cli.output import answer_json, say, table

    found = answer_of(records, Request(suite, mode, Choice(submission, tuning, origin), repeats, seed))
    if as_json:
        answer_json(found)
        return
    for title, rows, remark in tables_of(found):
        table(rows, title)
        if remark:
            say(remark)


@app.command()
def audit(records: Records, as_json: Json = False) -> None:
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
