"""`swath bench import LAYOUT FILES`: published tables as records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
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
