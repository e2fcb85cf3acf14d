"""Scores under distribution shift (EarthShift): difference, effective robustness, ranks over shifts.

rho = OOD - (slope · ID + intercept), the line fitted by least squares over all (model, task) points of one shift.
Its mean over the fitted points is zero by construction: rho compares models with each other, it does not say that
any of them is robust. `leave_one_out` gives rho against the line fitted without the model it is said of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swath.core.errors import UserError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """One model on one task of a shift: score in and out of distribution."""

    model: str
    task: str
    inside: float
    outside: float

    @property
    def delta(self) -> float:
        """OOD - ID: negative when the shift hurts."""
        return self.outside - self.inside


@dataclass(frozen=True)
class Robustness:
    """Mean rho per model with its interval over bootstrapped points, and the line it is measured from."""

    rho: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    slope: float
    intercept: float


def _fit(points: Sequence[Point]) -> tuple[float, float]:
    x, y = (np.asarray(v, float) for v in zip(*((p.inside, p.outside) for p in points), strict=True))
    if len(points) < 3 or np.ptp(x) == 0:
        raise UserError(f"a line needs three points with different ID scores; there are {len(points)}")
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float(intercept)


def residuals(points: Sequence[Point]) -> Array:
    """rho of every point against the line through all of them."""
    slope, intercept = _fit(points)
    return np.asarray([p.outside - (slope * p.inside + intercept) for p in points])


def effective_robustness(points: Sequence[Point], repeats: int = 2000, seed: int = 0) -> Robustness:
    """Mean rho per model; the interval redraws tasks within each model and fits the line again."""
    models = sorted({p.model for p in points})
    rho = residuals(points)
    mean = {m: float(np.mean([r for r, p in zip(rho, points, strict=True) if p.model == m])) for m in models}
    rng = np.random.default_rng(seed)
    draws: dict[str, list[float]] = {m: [] for m in models}
    groups = {m: [p for p in points if p.model == m] for m in models}
    for _ in range(repeats):
        again = [g[i] for g in groups.values() for i in rng.integers(0, len(g), len(g))]
        if np.ptp([p.inside for p in again]) == 0:
            continue
        for p, r in zip(again, residuals(again), strict=True):
            draws[p.model].append(float(r))
    ends = {m: np.quantile(np.asarray(d).reshape(-1, len(groups[m])).mean(1), [0.025, 0.975]) for m, d in draws.items()}
    slope, intercept = _fit(points)
    low, high = ({m: float(e[k]) for m, e in ends.items()} for k in (0, 1))
    return Robustness(mean, low, high, slope, intercept)


def leave_one_out(points: Sequence[Point]) -> dict[str, float]:
    """Mean rho of each model against the line of the others."""
    out: dict[str, float] = {}
    for m in sorted({p.model for p in points}):
        slope, intercept = _fit([p for p in points if p.model != m])
        mine = [p.outside - (slope * p.inside + intercept) for p in points if p.model == m]
        out[m] = float(np.mean(mine))
    return out


def mean_ranks(per_shift: Sequence[dict[str, float]]) -> dict[str, float]:
    """Rank of each model (1 is best) averaged over shifts; a model missing in one is refused."""
    from scipy.stats import rankdata

    models = sorted({m for shift in per_shift for m in shift})
    if any(set(shift) != set(models) for shift in per_shift):
        raise UserError("a mean rank needs every model in every shift")
    ranks = np.asarray([rankdata([-shift[m] for m in models]) for shift in per_shift])
    return {m: float(r) for m, r in zip(models, ranks.mean(0), strict=True)}
