"""`swath data sample RECIPE`: choose places by a published recipe, from a table of tiles or the simulated Earth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    recipe: Annotated[str, typer.Argument(help="A sampler (`swath list samplers`) or a file of one's own (.toml).")],
    *,
    table: Annotated[Path | None, typer.Option("--table", help="Parquet or CSV of tiles with covariates.")] = None,
    world: Annotated[
        int, typer.Option("--world", help="Instead of a table: so many tiles of the simulated Earth.")
    ] = 0,
    seed: Annotated[int | None, typer.Option("--seed", help="The recipe's own by default.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the sample as Parquet.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the shares as a picture.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Run a sampling recipe, and report how diverse the sample is (entropy in nats)."""
    import numpy as np

    from swath.cli.output import answer
    from swath.core.errors import UserError
    from swath.data import diversity
    from swath.data.continents import continent_of
    from swath.data.samplers.cells import Cells, read_cells, world_cells, write_cells
    from swath.data.samplers.draw import draw
    from swath.data.samplers.recipe import find_recipe

    chosen = find_recipe(recipe)
    if (table is None) == (world == 0):
        raise UserError("give either --table or --world", where=recipe)
    near = "city" if chosen.around is not None else "land"
    cells = read_cells(table) if table is not None else world_cells(world, seed or 0, near=near)
    drawn = draw(chosen, cells, seed)
    columns = dict(drawn.table().columns)
    if "continent" not in columns and {"lon", "lat"} <= columns.keys():
        columns["continent"] = np.array(continent_of(drawn.cells.lonlat))
    if out is not None:
        write_cells(Cells(columns), out)
    aspects = [a for a in ("continent", "biome", "lulc") if a in columns or any(c.startswith(a + ":") for c in columns)]
    found = diversity.of_table(columns, aspects)
    if plot is not None:
        diversity.plot(found, plot)
    splits = {s: drawn.split.count(s) for s in dict.fromkeys(drawn.split)}
    answer(
        {"recipe": chosen.name, "cells": len(drawn.cells), "splits": splits, "stages": dict(drawn.stages),
         "missed": dict(drawn.missed), "entropy": dict(found.entropy), "differs": chosen.differs}, as_json,
    )  # fmt: skip
