"""Chapter four: a small honest comparison, by the same tune, with seeds and intervals."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from demo import learn
from swath.bench.ask import Asked, plan_of
from swath.bench.plan import Entrant
from swath.bench.ranking import Request, answer_of
from swath.bench.run import run
from swath.core.records import read
from swath.models import encoder_config
from swath.report import figures as f
from swath.report import leaderboard
from swath.report import page as p

SEEDS = 3


def chapter(page: p.Page, out: Path, weights: Path) -> None:
    """Add the chapter: crops of the world-mini suite, frozen, four encoders."""
    began = time.monotonic()
    asked = Asked(tunings=("linear",), only=("crops",))
    plan = plan_of("world-mini", asked, {"seeds": SEEDS, "out": str(out / "bench")}, [])
    kept = [e for e in plan.encoders if e.name in ("raw pixels", "MOSAIKS")]
    vit = encoder_config(learn.ENCODER)
    kept.append(Entrant(vit, "swath-vit-tiny, random"))
    kept.append(Entrant(vit, "swath-vit-tiny, pretrained", str(weights), licence="Apache-2.0"))
    records = run(replace(plan, encoders=tuple(kept)))
    found = answer_of([records], Request("world-mini", "honest", repeats=4000))
    rows = list(read(records))
    board = leaderboard.write(found, rows, out / "bench" / "leaderboard.html")
    cells = {e.label: [100 * r.value for r in rows if r.encoder == e.label and not r.failed] for e in kept}
    page.section("Judged honestly")
    page.add(
        p.text(
            f"The crop of a field from four dates, frozen encoders under a linear probe, {SEEDS} seeds each: one dot a fit. Every dot "
            "is a record with seed, hashes, licence and energy; nothing on this page is copied."
        )
    )
    page.add(p.figure(f.strips(cells, "accuracy per seed"), "Accuracy in per cent; the tick is the mean."))
    page.add(
        p.text(
            f"{len(rows)} fits in {time.monotonic() - began:.0f} s; the whole leaderboard: {board.relative_to(out.parent)}.",
            "note",
        )
    )
