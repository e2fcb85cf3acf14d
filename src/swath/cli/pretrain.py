"""`swath pretrain RUN`: learn from unlabelled data; the weights load into tuning as they are."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    run: Annotated[str, typer.Argument(help="A run file (YAML).")],
    *,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Override a key: loop.steps=100")] = None,
    out: Annotated[str, typer.Option(help="Where to write; by default runs/NAME.")] = "",
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew even where a checkpoint is.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Pretrain an encoder. A run that was stopped goes on from its last checkpoint; start it by torchrun for ranks."""
    import os
    from dataclasses import replace

    from swath.cli.output import answer
    from swath.core.config import load
    from swath.objectives.pretraining import PretrainRun, pretrain

    config = load(run, PretrainRun, sets or [])
    if out:
        config = replace(config, out=out)
    done = pretrain(config, resume="never" if fresh else "auto")
    if os.environ.get("RANK", "0") != "0":
        return
    report = done.report
    facts = {
        "weights": str(done.weights),
        "card": str(done.weights.with_name("card.json")),
        "steps": report.steps,
        "resumed_from": report.resumed_from,
        "loss": round(report.loss, 6),
        "seconds": round(report.seconds, 1),
        "kwh": round(report.energy.kwh, 6),
        "sha256": done.card["sha256"],
    }
    answer(facts, as_json)
