"""`swath data diversity DATA`: entropy over continents and classes, and spectral entropy per sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    data: Annotated[str, typer.Argument(help="A folder, card, tortilla, pack or shipped card's name.")],
    *,
    path: Annotated[str | None, typer.Option("--path", help="Where a shipped card's data lies.")] = None,
    split: Annotated[str, typer.Option("--split", help="Only this split.")] = "",
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the shares as a picture.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Report how diverse a data set is, in nats; the bins of the spectral entropy are stated."""
    from dataclasses import asdict

    from swath.cli.output import answer
    from swath.core.errors import UserError
    from swath.data import diversity
    from swath.data.open import open_source

    source = open_source(data, path=path)
    rows = None
    if split:
        if split not in source.splits():
            raise UserError(f"there is no split '{split}'", where=data, remedy=f"it has: {', '.join(source.splits())}")
        rows = list(source.splits()[split])
    found = diversity.of_source(source, rows)
    if plot is not None:
        diversity.plot(found, plot)
    answer(asdict(found), as_json)
