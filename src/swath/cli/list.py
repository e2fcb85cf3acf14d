"""`swath list FAMILY`: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    family: Annotated[str, typer.Argument(help="sensors, cards, encoders, weights, objectives, tasks, ...")] = "",
    sensor: Annotated[str, typer.Option("--for", help="Weights trained on this sensor.")] = "",
    max_params: Annotated[str, typer.Option("--max-params", help="Weights up to this size: 100M, 1.5B.")] = "",
    licence: Annotated[str, typer.Option("--licence", help="Weights under this licence: apache-2.0, mit, ...")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """List the members of a family; without a name, the families. Weights can be filtered."""
    from swath.cli import families
    from swath.cli.output import answer
    from swath.core.errors import UserError

    if not family:
        answer([{"family": n, "members": len(families.listing(n).names())} for n in families.known()], as_json)
        return
    if family == "weights":
        from swath.models.weights import choose

        found = choose(sensor, max_params, licence)
        rows = [
            {
                "name": r.name,
                "encoder": r.encoder or f"tokenizer {r.tokenizer}",
                "params": f"{r.params / 1e6:.1f}M",
                "licence": r.licence,
                "sensors": ", ".join(r.sensors),
                "pinned": bool(r.revision),
            }
            for r in found
        ]
        answer(rows, as_json, title=f"{len(rows)} weights")
        return
    if sensor or max_params or licence:
        raise UserError("only weights can be filtered by sensor, size or licence", where=f"swath list {family}")
    members = families.listing(family)
    answer([{"name": n, "about": members.about(n)} for n in members.names()], as_json, title=family)
