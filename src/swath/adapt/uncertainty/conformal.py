"""Split conformal prediction (Vovk 2005; Sadinle et al. 2019): sets of classes and intervals that miss at most alpha.

Score of a class: 1 - p_y; the set is {k : p_k >= 1 - q}. Score of a value: how far it lies outside [low, high] (or from
the centre), in units of the model's own deviation where it has one. q is the ceil((n + 1)(1 - alpha)) / n quantile of
the scores of held-out items; the promise holds for items exchangeable with them, so the coverage reached is measured.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def threshold(scores: Tensor, alpha: float) -> float:
    """q; infinite when there are too few items to promise 1 - alpha."""
    n = len(scores)
    rank = math.ceil((n + 1) * (1 - alpha))
    if n == 0 or rank > n:
        return float("inf")
    return float(scores.double().kthvalue(rank).values)


def class_threshold(p: Tensor, target: Tensor, alpha: float) -> float:
    """q for sets of classes: p (N, K), target (N,)."""
    return min(1.0, threshold(1.0 - p.gather(1, target[:, None]).squeeze(1), alpha))


def class_sets(p: Tensor, q: float) -> Tensor:
    """Which classes may be true, bool like p (classes on axis 1); the most probable one always may."""
    best = torch.zeros_like(p, dtype=torch.bool).scatter_(1, p.argmax(1, keepdim=True), True)
    return (p >= 1.0 - q) | best


def class_coverage(p: Tensor, target: Tensor, q: float) -> tuple[float, float]:
    """Share of items whose class is in its set, and the mean size of the sets."""
    sets = class_sets(p, q)
    hit = sets.gather(1, target[:, None])
    return float(hit.double().mean()), float(sets.sum(1).double().mean())


def value_scores(target: Tensor, value: Tensor, unit: Tensor | None, low: Tensor | None, high: Tensor | None) -> Tensor:
    """Nonconformity of values: outside-ness of quantiles, or distance in the model's own deviations, or distance."""
    if low is not None and high is not None:
        return torch.maximum(low - target, target - high)
    distance = (target - value).abs()
    return distance if unit is None else distance / unit.clamp_min(1e-12)


def interval(
    value: Tensor, q: float, unit: Tensor | None, low: Tensor | None, high: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The interval that the threshold q promises."""
    if low is not None and high is not None:
        return torch.minimum(low - q, value), torch.maximum(high + q, value)
    reach = q if unit is None else q * unit
    return value - reach, value + reach
