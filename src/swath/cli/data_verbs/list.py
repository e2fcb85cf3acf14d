"""`swath data list`: the catalogue of cards by the attributes people choose by."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    *,
    task: Annotated[str, typer.Option(help="segment, classify, tag, regress, detect, instances, change, ...")] = "",
    sensor: Annotated[str, typer.Option(help="A sensor id; * stands for anything: sentinel1-*")] = "",
    max_gb: Annotated[float | None, typer.Option(help="At most this size; unknown ones are left out.")] = None,
    group: Annotated[str, typer.Option(help="A group such as geobench2 or geobench2-core.")] = "",
    licence: Annotated[str, typer.Option(help="An SPDX id; * stands for anything: CC-BY*")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """List data sets: task, classes, sensors, gsd, size, coverage, licence, samples, year."""
    from swath.cli.output import answer, note
    from swath.data.catalogue import Wish, find, row

    cards = find(Wish(task, sensor, max_gb, group, licence))
    if max_gb is not None:
        unknown = [c.name for c in find(Wish(task, sensor, None, group, licence)) if c.size_gb is None]
        if unknown:
            note(f"{len(unknown)} more fit but their size is not known: {', '.join(unknown[:8])}")
    answer([row(c) for c in cards], as_json, title=f"{len(cards)} data sets")
