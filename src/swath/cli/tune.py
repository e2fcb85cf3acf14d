"""`swath tune run.yaml`: from labels to a bundle and its report."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    run: Annotated[str, typer.Argument(help="The run file; `swath init DATA --task segment` writes one.")],
    sets: Annotated[list[str] | None, typer.Option("--set", help="Override a key: loop.lr=0.0003.")] = None,
    out: Annotated[str, typer.Option("--out", "-o", help="Folder to write; the run file's own by default.")] = "",
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew even where a checkpoint is.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Fit the model, judge it on the test split, write bundle, record and report."""
    import sys

    from swath.adapt import opening
    from swath.cli.output import answer, note, say
    from swath.core import config
    from swath.core.heap import importing

    extra = [f"out={out}"] if out else []
    extra += ["loop.progress=false"] if as_json else []
    raw = config.read(run, [*(sets or []), *extra])
    opening.begin(raw)
    with importing():
        from swath.adapt.run import TuneRun
        from swath.adapt.tune import tune
        from swath.report.tune import write

    loaded = config.parse(raw, TuneRun, where=run)
    found = tune(loaded, command=["swath", *sys.argv[1:]], resume="never" if fresh else "auto")
    if not found.lead:
        return
    page = write(found.out)
    primary = found.primary
    facts = {
        "score": primary, "value": found.scores.get(primary), "interval": found.record["intervals"].get(primary),
        "baseline": found.baseline.get(primary), "bundle": str(found.bundle), "packed": str(found.packed),
        "report": str(page),
    }  # fmt: skip
    if as_json:
        answer({**facts, "scores": found.record["scores"], "notes": found.record["notes"]}, True)
        return
    for line in found.record["notes"]:
        note(f"note: {line}")
    answer({k: v for k, v in facts.items() if v is not None}, False)
    say()
    mapped = found.record["card"]["label"]["kind"] in ("mask", "map", "boxes")
    say(
        f"next: swath map {found.packed} SCENE.tif --out map.tif"
        if mapped
        else f"next: swath predict {found.packed} DATA"
    )
