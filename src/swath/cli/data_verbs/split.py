"""`swath data split DATA`: leak-proof splits, written as a CSV of key and split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    data: Annotated[str, typer.Argument(help="A folder, card, tortilla or shipped card's name.")],
    *,
    path: Annotated[str | None, typer.Option("--path", help="Where a shipped card's data lies.")] = None,
    rule: Annotated[
        str,
        typer.Option("--rule", help="blocks, continent, time, random; or tile, event, country, group with --table."),
    ] = "blocks",
    fractions: Annotated[str, typer.Option("--fractions", help="Shares of the splits.")] = "train=.7,val=.15,test=.15",
    hold_out: Annotated[str, typer.Option("--hold-out", help="Whole groups, e.g. test=africa+asia.")] = "",
    size: Annotated[float, typer.Option("--size", help="Side of a block in metres.")] = 50_000.0,
    buffer: Annotated[float, typer.Option("--buffer", help="Metres kept free between two splits.")] = 0.0,
    gap: Annotated[float, typer.Option("--gap", help="Days kept free (rule time).")] = 0.0,
    column: Annotated[str, typer.Option("--column", help="Column of the table that holds the group.")] = "",
    table: Annotated[Path | None, typer.Option("--table", help="CSV or Parquet of key and columns.")] = None,
    stratify: Annotated[str, typer.Option("--stratify", help="Keep this label's class shares in every split.")] = "",
    seed: Annotated[int, typer.Option("--seed")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Default: splits.csv in the folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Deal samples to splits by space, group, continent or time, with a buffer, and report what distance remains."""
    from dataclasses import asdict, replace

    from swath.cli.output import answer_json, say
    from swath.data import splits
    from swath.data.open import open_source
    from swath.data.split_words import columns_of, line, pairs, placed

    samples = splits.samples_of(open_source(data, path=path, assume=True), classes=stratify)
    if table is not None:
        samples = replace(samples, columns=columns_of(table, samples.names))
    shares = {k: float(v) for k, v in pairs(fractions).items()}
    held = {k: tuple(v.split("+")) for k, v in pairs(hold_out).items()}
    how = splits.SplitRule(rule, shares, held, column, size, buffer, gap, bool(stratify), seed)
    found = splits.split(samples, how)
    folder = Path(path or data)
    file = out or (folder if folder.is_dir() else folder.parent) / "splits.csv"
    splits.write(file, samples, found)
    leaks = splits.audit(samples, found.parts) if placed(samples) else []
    sizes = {k: len(v) for k, v in found.parts.items()}
    if as_json:
        answer_json({"rule": found.rule, "file": str(file), "splits": sizes, "dropped": len(found.dropped),
                     "distances": [asdict(x) for x in leaks]})  # fmt: skip
        return
    say(f"{found.rule}: " + ", ".join(f"{k} {v}" for k, v in sizes.items()) + f"; {len(found.dropped)} in no split")
    for leak in leaks:
        say(line(leak))
    say(f"written to {file}")
