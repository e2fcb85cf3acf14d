"""`swath merge choose RUN...`: one checkpoint of each pretraining run, at equal validation loss."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    runs: Annotated[list[str], typer.Argument(help="Folders of `swath pretrain` with snapshots.")],
    *,
    slack: Annotated[float, typer.Option(help="Losses up to this times the best of the worst run count.")] = 1.1,
    normalise: Annotated[bool, typer.Option("--normalise", help="Losses from each run's start to its best.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Choose the checkpoints to merge: those of the smallest spread of held-out loss."""
    from swath.adapt.merge._choose import comparable, curve_of, equal_loss
    from swath.cli.output import answer, note, table

    curves = {run: curve_of(run) for run in runs}
    comparable({run: head for run, (head, _) in curves.items()})
    found = equal_loss({run: points for run, (_, points) in curves.items()}, slack=slack, normalise=normalise)
    rows = [{"run": r, "step": p.step, "loss": p.loss, "way": round(found.ways[r], 4), "file": p.file}
            for r, p in found.points.items()]  # fmt: skip
    if as_json:
        answer({"points": rows, "spread": found.spread, "mean": found.mean}, True)
        return
    table([{**row, "loss": f"{row['loss']:.5f}", "way": f"{row['way']:.0%}"} for row in rows])
    if found.apart and not normalise:
        note("note: these losses are equal, the training behind them (`way`: from a run's start to its best) is not; "
             "where losses lie on other scales, as those of radar and optical bands do, take --normalise")  # fmt: skip
    note(f"spread {found.spread:.5f}, mean {found.mean:.5f}; next: swath merge run "
         + " ".join(p.file for p in found.points.values()) + " --base BASE --out DIR")  # fmt: skip
