"""`swath check DATA`: look at data before any training; exit code 2 when something is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    data: Annotated[str, typer.Argument(help="A folder, a card (.toml or its name), a run file (.yaml), a tortilla.")],
    *,
    path: Annotated[str | None, typer.Option(help="Where the data of a shipped card lie.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="To compare with the split sizes.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Reader processes; one a core by default.")] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Run only this check; may be repeated.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with thumbnails.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Check pairing, bands, units, values, labels, grids, dates, duplicates and splits; names file, band and value."""
    import sys
    import time

    from swath.cli.output import answer_json, say
    from swath.data.check import check
    from swath.data.check.text import lines

    last = [0.0]

    def progress(done: int, total: int) -> None:
        now = time.monotonic()
        if not quiet and (now - last[0] > 0.5 or (done == total and last[0] > 0)):
            last[0] = now
            sys.stderr.write(f"\rread {done} of {total} files" + ("\n" if done == total else ""))
            sys.stderr.flush()

    report = check(data, batch_size=batch_size, workers=workers, only=tuple(only or ()), progress=progress, path=path)
    if html is not None:
        from swath.data.check.html import write

        write(report, html)
    if as_json:
        answer_json(report.plain())
    else:
        for line in lines(report):
            say(line)
    if not report.ok:
        raise SystemExit(2)
