"""`swath data verify CARD FOLDER`: are these the files that the card means?"""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    card: Annotated[str, typer.Argument(help="A card's name or file.")],
    folder: Annotated[str, typer.Argument(help="Where the files lie.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Compare the files' sha256 with the card's; exit 2 if one is wrong or none is there."""
    from pathlib import Path

    from swath.cli.output import answer
    from swath.data.card import find_card
    from swath.data.catalogue import verify

    rows = verify(find_card(card), Path(folder))
    answer(rows, as_json, title=card)
    states = {r["state"] for r in rows}
    if "wrong" in states or "right" not in states:
        raise typer.Exit(2)
