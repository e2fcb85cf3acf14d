"""Equal validation loss (MOMO): one checkpoint per run, chosen so that all stand equally far in their training.

Given (checkpoint, loss) lists of several runs, pick one of each run so that max l - min l is smallest; of equal spreads
the one of lower mean loss. All losses are sorted together and a window slides over them that always holds every run.

Two guards. At the start of training all losses are equal and high: only losses up to `slack` times the best of the
worst run count. And losses can be compared at all only if the objectives are set alike: anything else is refused.
With `normalise` a run's loss is counted from its best to its start, (l - best) / (start - best).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swath.core.errors import UserError


@dataclass(frozen=True)
class Point:
    """One checkpoint of a run."""

    step: int
    loss: float
    file: str = ""


@dataclass(frozen=True)
class Choice:
    """A checkpoint for each run, how far their losses lie apart, and their mean.

    `ways`: how much of the way from its start to its best loss each run has gone."""

    points: dict[str, Point]
    spread: float
    mean: float
    ways: dict[str, float]

    @property
    def apart(self) -> bool:
        """Whether equal losses are no equal training: one run has gone half of its way less than another."""
        return max(self.ways.values()) - min(self.ways.values()) > 0.5


def curve_of(folder: str | Path) -> tuple[dict[str, Any], list[Point]]:
    """What a run's objective was, and its snapshots."""
    home = Path(folder)
    file = home / "snapshots/curve.json"
    if not file.is_file():
        raise UserError(
            "this run kept no snapshots", where=str(folder), remedy="pretrain with `snapshots: {}` and validate_every"
        )
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
        points = [Point(int(p["step"]), float(p["loss"]), str(file.parent / p["file"])) for p in body["points"]]
        return dict(body["objective"]), points
    except (KeyError, TypeError, ValueError) as why:
        raise UserError(f"the curve does not read: {why!r}", where=str(file)) from why


def comparable(objectives: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse losses of objectives that are set differently."""
    names = list(objectives)
    for name in names[1:]:
        one, two = objectives[names[0]], objectives[name]
        keys = [k for k in sorted({*one, *two}) if one.get(k) != two.get(k)]
        if keys:
            k = keys[0]
            raise UserError(
                f"'{k}' of the objective is {two.get(k)!r} here and {one.get(k)!r} in {names[0]}: "
                "their losses cannot be compared",
                where=name,
                remedy="pretrain all runs with one objective",
            )


def equal_loss(runs: Mapping[str, Sequence[Point]], *, slack: float = 1.1, normalise: bool = False) -> Choice:
    """The checkpoints of smallest spread."""
    best = {name: min((p.loss for p in run if math.isfinite(p.loss)), default=math.nan) for name, run in runs.items()}
    for name, low in best.items():
        if math.isnan(low):
            raise UserError("there is no checkpoint with a finite loss", where=name)
    if not runs:
        raise UserError("there is no run to choose from")
    limit = slack * max(best.values()) if max(best.values()) > 0 else max(best.values()) / slack
    starts = {name: min(run, key=lambda p: p.step).loss for name, run in runs.items()}
    entries: list[tuple[float, str, Point]] = []
    for name, run in runs.items():
        scale = starts[name] - best[name]
        for p in run:
            if math.isfinite(p.loss) and p.loss <= limit:
                value = ((p.loss - best[name]) / scale if scale > 0 else 0.0) if normalise else p.loss
                entries.append((value, name, p))
    entries.sort(key=lambda e: (e[0], e[1], -e[2].step))
    found: tuple[float, float, dict[str, Point]] | None = None
    held: dict[str, int] = {}
    left = 0
    for right, (_, name, _) in enumerate(entries):
        held[name] = held.get(name, 0) + 1
        while held[entries[left][1]] > 1:
            held[entries[left][1]] -= 1
            left += 1
        if len(held) == len(runs):
            picked: dict[str, tuple[float, Point]] = {}
            for value, who, point in entries[left : right + 1]:
                picked.setdefault(who, (value, point))
            values = [v for v, _ in picked.values()]
            spread, mean = max(values) - min(values), sum(values) / len(values)
            if found is None or (spread, mean) < found[:2]:
                found = spread, mean, {k: picked[k][1] for k in runs}
    assert found is not None  # every run's best lies below the limit
    losses = [p.loss for p in found[2].values()]
    ways = {
        k: (starts[k] - p.loss) / (starts[k] - best[k]) if starts[k] > best[k] else 1.0 for k, p in found[2].items()
    }
    return Choice(found[2], max(losses) - min(losses), sum(losses) / len(losses), ways)


__all__ = ["Choice", "Point", "comparable", "curve_of", "equal_loss"]
