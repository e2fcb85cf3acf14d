"""`swath init DATA`: write a card and a run file from what a folder holds."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    data: Annotated[str, typer.Argument(help="A folder of rasters, such as images/KEY.tif with masks/KEY.tif.")],
    *,
    task: Annotated[str, typer.Option(help="What to learn; `swath list tasks` names them. Or: pretrain.")],
    sensor: Annotated[str, typer.Option(help="The sensor, where the files do not say it: sentinel2-l2a")] = "",
    bands: Annotated[str, typer.Option(help="The files' bands in order, comma-separated: blue,green,red,nir")] = "",
    pattern: Annotated[str, typer.Option(help="How images are named, for example {site}_{date}.tif")] = "",
    out: Annotated[str, typer.Option(help="Where to write; by default into the data folder.")] = "",
    encoder: Annotated[str, typer.Option(help="The encoder of the run file.")] = "swath-vit",
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Write card.toml and run.yaml: bands, units, classes, splits and statistics as found, assumptions as comments."""
    from pathlib import Path

    from swath.cli.output import answer, note
    from swath.data.propose import Hints
    from swath.data.start import start

    names = tuple(b.strip() for b in bands.split(",") if b.strip())
    done = start(Path(data), task, Hints(sensor, names, pattern), Path(out) if out else None, encoder)
    for text in () if as_json else done.assumed:
        note(f"assumed: {text}")
    facts = {"card": str(done.card), "run": str(done.run), **done.found}
    answer({**facts, "assumed": list(done.assumed)} if as_json else facts, as_json)
