"""How much of a difference each factor explains: variance shares of a balanced factorial design, with intervals.

For every factor (and every pair) the sum of squares of its cell means around what the smaller terms predict, as
omega squared: (SS - df · MSE) / (SS_total + MSE), so that a factor without effect is near zero and not above it.
Intervals redraw seeds inside the cells (bootknife).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from swath.bench import stats
from swath.core.errors import UserError
from swath.core.records import Result

Array = NDArray[np.float64]
FACTORS = ("data", "architecture", "algorithm")


@dataclass(frozen=True)
class Share:
    """Part of the total variance a term explains, and its interval."""

    term: str
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Design:
    """A balanced table of values: one axis per factor, then data set, then seed."""

    factors: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    values: Array


def design(records: Iterable[Result], factors: Sequence[str] = FACTORS, dataset: str = "") -> Design:
    """Read the factors from the records' controls; a missing cell is named, since shares need a full design."""
    rows = [r for r in records if not r.failed and (not dataset or r.dataset == dataset)]
    lost = sorted({r.encoder for r in rows if any(not r.controls.get(f) for f in factors)})
    if lost or not rows:
        raise UserError(f"no controls {'/'.join(factors)} for {', '.join(lost) or 'any record'}", where="study")
    sets = sorted({r.dataset for r in rows})
    levels = [sorted({r.controls[f] for r in rows}) for f in factors]
    cells: dict[tuple[str, ...], list[float]] = {}
    for r in rows:
        cells.setdefault((*(r.controls[f] for f in factors), r.dataset), []).append(r.value)
    for key in product(*levels, sets):
        if key not in cells:
            raise UserError(
                f"the design has no fit of {' x '.join(key)}", where="study", remedy="run it: shares need all"
            )
    n = min(len(v) for v in cells.values())
    if n < 2:
        raise UserError("a study needs two seeds a cell or more", where="study")
    values = np.asarray([cells[key][:n] for key in product(*levels, sets)])
    shape = (*(len(v) for v in levels), len(sets), n)
    named = [*factors, *(["data set"] if len(sets) > 1 else [])]
    axes = [tuple(v) for v in levels] + ([tuple(sets)] if len(sets) > 1 else [])
    table = values.reshape(shape) if len(sets) > 1 else values.reshape(*shape[:-2], n)
    return Design(tuple(named), tuple(axes), table)


def _terms(n: int) -> list[tuple[int, ...]]:
    return [t for k in (1, 2) for t in combinations(range(n), k)]


def omega(values: Array) -> dict[tuple[int, ...], float]:
    """Omega squared of every factor and pair; `values` ends with the seed axis."""
    n = values.ndim - 1
    grand = values.mean()
    total = float(((values - grand) ** 2).sum())
    within = float(((values - values.mean(-1, keepdims=True)) ** 2).sum())
    free = values.size - values[..., 0].size
    mse = within / free
    effects: dict[tuple[int, ...], Array] = {(): np.asarray(grand)}
    out: dict[tuple[int, ...], float] = {}
    for term in _terms(n):
        others = tuple(a for a in range(values.ndim) if a not in term)
        effect = values.mean(others, keepdims=True) - grand
        for k in range(1, len(term)):
            for part in combinations(term, k):
                effect = effect - effects[part]
        effects[term] = effect
        ss = float((effect**2).sum()) * values.size / effect.size
        df = int(np.prod([values.shape[a] - 1 for a in term]))
        out[term] = (ss - df * mse) / (total + mse) if total > 0 else 0.0
    return out


def decompose(plan: Design, repeats: int = 2000, seed: int = 0, level: float = 0.95) -> list[Share]:
    """Shares of every term, largest first, and of the seeds (what is left)."""
    rng = np.random.default_rng(seed)
    point = omega(plan.values)
    flat = plan.values.reshape(1, -1, plan.values.shape[-1])
    labels = tuple(str(i) for i in range(flat.shape[1]))
    draws: dict[tuple[int, ...], list[float]] = {t: [] for t in point}
    for part in stats.resample(stats.Table(("all",), labels, flat), repeats, rng):
        for again in part:
            for term, value in omega(again.reshape(plan.values.shape)).items():
                draws[term].append(value)
    shares: list[Share] = []
    for term, value in point.items():
        low, high = np.quantile(draws[term], [(1 - level) / 2, (1 + level) / 2])
        shares.append(Share(" x ".join(plan.factors[a] for a in term), value, float(low), float(high)))
    rest = [1 - sum(d) for d in zip(*draws.values(), strict=True)]
    low, high = np.quantile(rest, [(1 - level) / 2, (1 + level) / 2])
    shares.append(Share("seeds and higher terms", 1 - sum(point.values()), float(low), float(high)))
    return sorted(shares, key=lambda s: -s.share)


def varies(records: Iterable[Result]) -> Mapping[str, int]:
    """How many values each control takes: a comparison in which more than one varies explains nothing alone."""
    rows = list(records)
    return {f: len({r.controls.get(f, "") for r in rows}) for f in FACTORS}
