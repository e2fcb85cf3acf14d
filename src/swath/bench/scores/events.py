"""Scores of rare events and forecasts (ExEBench): contingency tables, anomaly correlation, tail errors.

a hits, b false alarms, c misses, d correct rejections:
POD = a/(a+c), FAR = b/(a+b), CSI = a/(a+b+c), HSS = 2(ad - bc) / ((a+c)(c+d) + (a+b)(b+d)),
GSS = (a - r)/(a + b + c - r) with r = (a+b)(a+c)/n.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swath.core.errors import UserError

Array = NDArray[np.float64]


def _ratio(top: float, bottom: float) -> float:
    return top / bottom if bottom else float("nan")


@dataclass(frozen=True)
class Contingency:
    """Counts of a yes/no forecast; they add up over batches."""

    hits: int = 0
    false_alarms: int = 0
    misses: int = 0
    rejections: int = 0

    @classmethod
    def of(
        cls, forecast: Array, observed: Array, threshold: float, valid: NDArray[np.bool_] | None = None
    ) -> Contingency:
        """Events are values at or above the threshold; invalid places do not count."""
        f, o = forecast >= threshold, observed >= threshold
        keep = np.ones(f.shape, bool) if valid is None else valid
        counts = ((f & o & keep), (f & ~o & keep), (~f & o & keep), (~f & ~o & keep))
        return cls(*(int(c.sum()) for c in counts))

    def __add__(self, other: Contingency) -> Contingency:
        return Contingency(
            self.hits + other.hits,
            self.false_alarms + other.false_alarms,
            self.misses + other.misses,
            self.rejections + other.rejections,
        )

    def scores(self) -> dict[str, float]:
        """POD, FAR, CSI, HSS, GSS; NaN where there is nothing to divide by."""
        a, b, c, d = self.hits, self.false_alarms, self.misses, self.rejections
        chance = _ratio((a + b) * (a + c), a + b + c + d)
        return {
            "pod": _ratio(a, a + c),
            "far": _ratio(b, a + b),
            "csi": _ratio(a, a + b + c),
            "hss": _ratio(2 * (a * d - b * c), (a + c) * (c + d) + (a + b) * (b + d)),
            "gss": _ratio(a - chance, a + b + c - chance),
        }


def anomaly_correlation(forecast: Array, observed: Array, climate: Array | float = 0.0) -> float:
    """Uncentred correlation of the departures from climate."""
    p, t = forecast - climate, observed - climate
    bottom = float(np.sqrt((p**2).sum() * (t**2).sum()))
    return _ratio(float((p * t).sum()), bottom)


def tail_quantile_error(forecast: Array, observed: Array, *, upper: bool = True) -> float:
    """Mean relative error of ten extreme quantiles, 1 - 2·logspace(-2, -1) for the upper tail, mirrored below."""
    shares = 2 * np.logspace(-2, -1, 10)
    q = 1 - shares if upper else shares
    want, got = np.quantile(observed, q), np.quantile(forecast, q)
    if (want == 0).any():
        raise UserError("a relative quantile error needs observed quantiles that are not zero")
    return float(np.abs((got - want) / want).mean())
