"""`swath export BUNDLE --to onnx`: the model for other runtimes, proven equal before it is written."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    bundle: Annotated[str, typer.Argument(help="A bundle folder or .swath file.")],
    to: Annotated[str, typer.Option("--to", help="onnx or torch-export")] = "onnx",
    out: Annotated[str, typer.Option("--out", "-o", help="The file; NAME.onnx or NAME.pt2 by default.")] = "",
    size: Annotated[int, typer.Option(help="Side of the input in pixels; the bundle's tile by default.")] = 0,
    base: Annotated[str, typer.Option(help="Weights of the base, for a delta whose record is not known here.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Export, run the file, compare with the bundle; a difference above 1e-4 is an error and nothing is written."""
    from pathlib import Path

    from swath.adapt.bundle import Bundle
    from swath.adapt.export import export
    from swath.cli.output import answer

    loaded = Bundle.load(bundle, base=base or None)
    answer(export(loaded, to, Path(out) if out else None, size), as_json)
