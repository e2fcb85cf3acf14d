"""`swath show FAMILY NAME`: one member, whole."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    family: Annotated[str, typer.Argument(help="A family, such as sensors; or bundle.")],
    name: Annotated[str, typer.Argument(help="A member of it; or the bundle's path.")],
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Show one member of a family."""
    from swath.cli.members import describe
    from swath.cli.output import answer

    if family == "bundle":
        from swath.adapt.bundle import open_card

        facts = open_card(name)
        if as_json:
            answer(facts, True)
            return
        facts["metrics"] = dict(sorted(facts["metrics"].items(), key=lambda item: "/" in item[0]))  # of classes: last
        rows = {f"{x['sensor']} ({x['kind']}), dates: {_span(x['dates'])}": x["bands"] for x in facts.pop("inputs")}
    else:
        facts, rows = describe(family, name)
        if as_json:
            answer({**facts, **rows}, True)
            return
    answer({k: v for k, v in facts.items() if v not in (None, "", (), {}, [])}, False)
    for title, table in rows.items():
        answer(table, False, title=title)


def _span(dates: list[int]) -> str:
    """The fewest and the most dates."""
    return "-".join(str(n) for n in dict.fromkeys(dates))
