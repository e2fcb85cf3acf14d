"""Filters and series: which scenes are clear enough, which dates make a series, which samples stay.

The defaults are Prithvi-EO-2.0's (Szwarcman et al. 2024, https://arxiv.org/abs/2412.02732): clouds at most 20 %,
missing at most 1 %, four dates, 1 to 6 months apart. Where the published code leaves fill values in place (it
interpolates and drops the result), this one fills, or the filter refuses: `fill_nearest` is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swath.core.batch import Batch, Layer
from swath.core.errors import UserError
from swath.core.rng import numpy_generator

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class QualityFilter:
    """Largest shares of clouded and of missing pixels a timestep may have."""

    cloud: float = 0.20
    missing: float = 0.01

    def __post_init__(self) -> None:
        if not (0 <= self.cloud <= 1 and 0 <= self.missing <= 1):
            raise UserError(f"shares lie between 0 and 1: cloud {self.cloud}, missing {self.missing}")

    def keep(self, cloud: Floats, missing: Floats) -> NDArray[np.bool_]:
        """True where both shares are known and small enough."""
        with np.errstate(invalid="ignore"):
            return (cloud <= self.cloud) & (missing <= self.missing)

    def keeps(self, batch: Batch, cloud: Floats | None = None) -> bool:
        """Whether every dated layer of a sample is observed well enough; `cloud` per timestep where it is known."""
        for layer in batch.layers.values():
            missing = missing_share(layer)
            clouds = np.zeros_like(missing) if cloud is None or cloud.shape != missing.shape else cloud
            if not self.keep(clouds, missing).all():
                return False
        return True


def missing_share(layer: Layer) -> Floats:
    """Share of invalid pixels per sample and timestep (B, T)."""
    return (~layer.valid).double().mean(dim=(2, 3, 4)).numpy()


def cloud_share(classes: NDArray[np.integer], clouded: Sequence[int]) -> Floats:
    """Share of pixels of a scene classification (..., H, W) that are of the clouded classes."""
    return np.isin(classes, list(clouded)).mean(axis=(-2, -1))


@dataclass(frozen=True)
class SeriesRule:
    """Series of `length` to `longest` dates, `min_days` to `max_days` apart.

    With fewer than `enough` series the quality limits rise by `relax` and `max_days` by `relax_days`, until the sum
    of the limits is above `give_up`. `stride` takes every n-th date of a series in the end.
    """

    length: int = 4
    longest: int = 16
    min_days: int = 28
    max_days: int = 84
    cloud: float = 0.15
    missing: float = 0.05
    enough: int = 10
    relax: float = 0.10
    relax_days: int = 28
    give_up: float = 0.60
    stride: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.min_days <= self.max_days or not 1 <= self.length <= self.longest or self.stride < 1:
            raise UserError(
                f"a series of {self.length}-{self.longest} dates, {self.min_days}-{self.max_days} days apart"
            )
        if self.relax <= 0 and self.enough > 0 and self.cloud + self.missing <= self.give_up:
            raise UserError("relax must be above 0, or enough be 0", remedy="else the search would not end")


def candidates(days: NDArray[np.int64], good: Floats, rule: SeriesRule, max_days: int) -> list[tuple[int, ...]]:
    """One greedy series from each scene: next the best scene that lies min to max days later."""
    order = np.argsort(days, kind="stable")
    when, quality = days[order], good[order]
    found: list[tuple[int, ...]] = []
    for start in range(len(order)):
        chain = [start]
        while len(chain) < rule.longest:
            low = int(np.searchsorted(when, when[chain[-1]] + rule.min_days, "left"))
            high = int(np.searchsorted(when, when[chain[-1]] + max_days, "right"))
            if low >= high:
                break
            chain.append(low + int(np.argmax(quality[low:high])))
        picked = chain[:: rule.stride]
        if len(picked) >= rule.length:
            found.append(tuple(int(order[i]) for i in picked))
    return found


def choose_series(
    days: Sequence[int], cloud: Sequence[float], missing: Sequence[float], rule: SeriesRule | None = None, seed: int = 0
) -> list[tuple[int, ...]]:
    """Series of scene indices in time order; no scene is in two of them.

    The next one is drawn with p ~ sum(1 / density(date)) * mean(good), which flattens years and seasons.
    """
    rule = rule or SeriesRule()
    when, clouds, gaps = np.asarray(days, np.int64), np.asarray(cloud, float), np.asarray(missing, float)
    limits, span = (rule.cloud, rule.missing), rule.max_days
    while True:
        rows = np.flatnonzero(QualityFilter(min(1, limits[0]), min(1, limits[1])).keep(clouds, gaps))
        good = (1 - clouds[rows]) * (1 - gaps[rows])
        series = [tuple(int(rows[i]) for i in s) for s in candidates(when[rows], good, rule, span)]
        limits, span = (limits[0] + rule.relax, limits[1] + rule.relax), span + rule.relax_days
        if len(series) >= rule.enough or sum(limits) > rule.give_up:
            break
    density = _density(when)
    value = (1 - clouds) * (1 - gaps)
    rng, used, chosen = numpy_generator(seed, "series"), set[int](), list[tuple[int, ...]]()
    while series:
        weight = np.array([sum(1 / density[i] for i in s) * float(np.mean(value[list(s)])) for s in series])
        pick = series[int(rng.choice(len(series), p=weight / weight.sum()))] if weight.sum() > 0 else series[0]
        chosen.append(pick)
        used.update(pick)
        series = [s for s in series if not used & set(s)]
    return chosen


def _density(days: NDArray[np.int64], width: float = 45.0) -> Floats:
    """Gaussian kernel density of the dates, `width` days wide."""
    apart = (days[:, None] - days[None, :]) / width
    return np.exp(-0.5 * apart**2).mean(1)


def fill_nearest(x: NDArray[np.floating], missing: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Each missing pixel from the nearest observed one of its row (the left one on a tie); empty rows stay missing."""
    flat, holes = x.reshape(-1, x.shape[-1]).copy(), missing.reshape(-1, x.shape[-1])
    column = np.arange(x.shape[-1])
    for row, hole in zip(flat, holes, strict=True):
        seen = np.flatnonzero(~hole)
        if seen.size and hole.any():
            right = np.searchsorted(seen, column).clip(0, len(seen) - 1)
            left = (right - 1).clip(0)
            nearer = np.where(np.abs(seen[left] - column) <= np.abs(seen[right] - column), seen[left], seen[right])
            row[hole] = row[nearer[hole]]
        elif not seen.size:
            row[:] = np.nan
    return flat.reshape(x.shape)
