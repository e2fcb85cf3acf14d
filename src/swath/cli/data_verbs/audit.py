"""`swath data audit DATA`: how near the splits of a data set come to each other."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    data: Annotated[str, typer.Argument(help="A folder, card, tortilla or shipped card's name.")],
    *,
    path: Annotated[str | None, typer.Option("--path", help="Where a shipped card's data lies.")] = None,
    below: Annotated[float | None, typer.Option("--below", help="Exit 2 when two splits are nearer (metres).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Quantify leakage: the distance from each sample to the nearest one of another split."""
    from dataclasses import asdict

    import numpy as np

    from swath.cli.output import answer_json, say
    from swath.core.errors import UserError
    from swath.data import splits
    from swath.data.open import open_source
    from swath.data.split_words import line

    source = open_source(data, path=path, assume=True)
    parts = {k: np.asarray(list(v), dtype=np.int64) for k, v in source.splits().items()}
    if len(parts) < 2:
        raise UserError("there is only one split: nothing to compare", where=data, remedy="swath data split")
    leaks = splits.audit(splits.samples_of(source), parts)
    if as_json:
        answer_json([asdict(x) for x in leaks])
    else:
        for leak in leaks:
            say(line(leak))
    if below is not None and any(x.nearest_m < below for x in leaks):
        raise SystemExit(2)
