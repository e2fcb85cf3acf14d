"""`swath init DATA`: write a card and a run file from what a folder holds."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    data: Annotated[
        str, typer.Argument(help="A folder of rasters (images/KEY.tif, masks/KEY.tif), a tortilla, a card.")
    ],
    *,
    task: Annotated[str, typer.Option(help="What to learn; `swath list tasks` names them. Or: pretrain.")],
    sensor: Annotated[str, typer.Option(help="The sensor, where the files do not say it: sentinel2-l2a")] = "",
    bands: Annotated[str, typer.Option(help="The files' bands in order, comma-separated: blue,green,red,nir")] = "",
    pattern: Annotated[str, typer.Option(help="How images are named, for example {site}_{date}.tif")] = "",
    path: Annotated[str, typer.Option(help="Where the data of a shipped card lie (`swath data list`).")] = "",
    out: Annotated[
        str, typer.Option(help="Where to write; by default the data folder, or one called as the file.")
    ] = "",
    encoder: Annotated[str, typer.Option(help="The encoder of the run file.")] = "swath-vit",
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Write card.toml and run.yaml: bands, units, classes, splits and statistics as found, assumptions as comments."""
    from pathlib import Path

    from swath.cli.output import answer, note, say
    from swath.core.errors import UserError
    from swath.data.propose import Hints
    from swath.data.ready import begin, says_itself
    from swath.data.start import start

    names = tuple(b.strip() for b in bands.split(",") if b.strip())
    hints, place = Hints(sensor, names, pattern), Path(out) if out else None
    known = says_itself(data)
    if known and hints != Hints():
        raise UserError("these data say what they are", where=data, remedy="leave out --sensor, --bands and --pattern")
    if known or path:
        done = begin(data, task, place, encoder, path=path or None)
    else:
        done = start(Path(data), task, hints, place, encoder)
    for text in () if as_json else done.assumed:
        note(f"assumed: {text}")
    facts = {"card": done.card and str(done.card), "run": str(done.run), **done.found}
    shown = {k: v for k, v in facts.items() if v is not None}
    answer({**facts, "assumed": list(done.assumed)} if as_json else shown, as_json)
    if not as_json:
        say()
        say(f"next: swath check {done.run}, then swath {'pretrain' if task == 'pretrain' else 'tune'} {done.run}")
