"""`swath list FAMILY`: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    family: Annotated[str, typer.Argument(help="sensors, cards, encoders, weights, objectives, tasks, ...")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """List the members of a family; without a name, the families."""
    from swath.cli import families
    from swath.cli.output import answer

    if not family:
        answer([{"family": n} for n in families.known()], as_json)
        return
    answer([{"name": n} for n in families.family(family).names()], as_json, title=family)
