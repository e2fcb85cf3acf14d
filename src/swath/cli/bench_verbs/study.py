"""`swath bench study RECORDS`: how much of the differences each factor explains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    records: Annotated[list[Path], typer.Argument(help="Record files (JSON lines).")],
    factor: Annotated[list[str] | None, typer.Option("--factor", help="Controls to compare; several.")] = None,
    dataset: Annotated[str, typer.Option(help="Only this data set.")] = "",
    tuning: Annotated[str, typer.Option(help="Only this tuning.")] = "",
    repeats: Annotated[int, typer.Option(help="Bootstrap draws.")] = 2000,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Variance shares of data, architecture and algorithm, with intervals."""
    from dataclasses import asdict

    from swath.bench.select import load
    from swath.bench.study import FACTORS, decompose, design
    from swath.cli.output import answer

    rows = [r for r in load(records) if not tuning or r.tuning == tuning]
    shares = decompose(design(rows, tuple(factor or FACTORS), dataset), repeats)
    answer([asdict(s) for s in shares], as_json, title="share of the variance (omega squared)")
