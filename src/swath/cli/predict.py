"""`swath predict BUNDLE DATA`: answers for the samples of a data set."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    bundle: Annotated[str, typer.Argument(help="A bundle folder or .swath file.")],
    data: Annotated[str, typer.Argument(help="A folder, card or tortilla file, as for swath check.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for the answers.")] = "predictions",
    split: Annotated[str, typer.Option(help="Only this split.")] = "",
    uncertainty: Annotated[bool, typer.Option(help="Also entropy, conformal sets or intervals, strangeness.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Predict every sample: maps as GeoTIFF on the sample's grid, the rest as lines of predictions.jsonl."""
    from pathlib import Path

    from swath.adapt.bundle import Bundle
    from swath.adapt.predict import predict
    from swath.cli.output import answer
    from swath.data.open import open_source

    done = predict(Bundle.load(bundle), open_source(data), Path(out), split=split, uncertainty=uncertainty)
    answer(done, as_json)
