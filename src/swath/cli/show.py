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
    import dataclasses
    import inspect

    from swath.cli import families
    from swath.cli.output import answer

    if family == "bundle":
        from swath.adapt.bundle import open_card

        answer(open_card(name), as_json)
        return
    member = families.family(family).get(name)
    if dataclasses.is_dataclass(member) and not isinstance(member, type):
        facts = dataclasses.asdict(member)
        if not as_json and isinstance(facts.get("bands"), tuple):
            answer(list(facts.pop("bands")), False, title=name)
    else:
        facts = {"name": name, "about": inspect.getdoc(member) or "", "where": getattr(member, "__module__", "")}
        if dataclasses.is_dataclass(member):
            facts["settings"] = {f.name: str(f.type) for f in dataclasses.fields(member)}
    answer(facts, as_json, title=name)
