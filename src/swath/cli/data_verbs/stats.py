"""`swath data stats DATA`: mean, spread and extremes per band, class shares per label; stored with the data's hash."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def command(
    data: Annotated[str, typer.Argument(help="A folder, card, run file, tortilla or shipped card's name.")],
    *,
    path: Annotated[str | None, typer.Option("--path", help="Where a shipped card's data lies.")] = None,
    split: Annotated[str, typer.Option("--split", help="Only this split; all samples by default.")] = "",
    out: Annotated[Path | None, typer.Option("--out", help="Where to store them; beside the data by default.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure even if stored ones are of this data.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Measure a data set in one streamed pass; invalid pixels count nowhere."""
    from swath.cli.output import answer_json, note, say, table
    from swath.core.errors import UserError
    from swath.data.open import open_source
    from swath.data.stats import read, save, statistics

    source = open_source(data, path=path)
    place = Path(path or data)
    default = place / "statistics.json" if place.is_dir() else place.with_name(place.name + ".statistics.json")
    file = out or default
    found = None
    if file.is_file() and not again:
        try:
            found = read(file, source.fingerprint)
        except UserError as stale:
            note(stale.what)
        found = found if found is not None and found.split == split else None
    if found is None:
        found = statistics(source, split)
        save(found, file)
        note(f"stored in {file}")
    if as_json:
        answer_json(asdict(found))
        return
    say(f"{found.source}: {found.samples} samples{f' of {split}' if split else ''}, data {found.fingerprint[:12]}")
    table([{"sensor": s, **asdict(b)} for s, bands in found.layers.items() for b in bands])
    for name, label in found.labels.items():
        shares = ", ".join(f"{k} {v:.2%}" for k, v in label.shares.items())
        say(f"{name} ({label.kind}): {shares or f'mean {label.mean}, std {label.std}, {label.count} values'}")
