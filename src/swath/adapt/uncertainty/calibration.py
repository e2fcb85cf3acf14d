"""Calibration: temperature scaling (Guo et al. 2017, arXiv:1706.04599), expected calibration error, reliability.

ECE = sum over bins of |bin| / n * |accuracy - confidence|, fifteen bins of equal width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Array = NDArray[Any]


@dataclass(frozen=True)
class Reliability:
    """Per bin: how many, how sure, how right; and the error they add up to."""

    count: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    ece: float


def fit_temperature(logits: Tensor, target: Tensor, tags: bool = False) -> float:
    """The temperature (0.05..20) that minimises held-out negative log-likelihood; 1 when there is none."""
    if not len(target):
        return 1.0
    from scipy.optimize import minimize_scalar

    z, y = logits.double(), target

    def nll(log_t: float) -> float:
        scaled = z / float(np.exp(log_t))
        value = F.binary_cross_entropy_with_logits(scaled, y.double()) if tags else F.cross_entropy(scaled, y)
        return float(value)

    found: Any = minimize_scalar(nll, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    best = float(np.exp(found.x))
    return best if nll(float(np.log(best))) < nll(0.0) else 1.0


def probabilities(logits: Tensor, temperature: float, tags: bool = False) -> Tensor:
    """Calibrated probabilities."""
    scaled = logits.float() / temperature
    return scaled.sigmoid() if tags else scaled.softmax(1)


def reliability(p: Tensor, target: Tensor, bins: int = 15) -> Reliability:
    """Of the most probable class (N, K), or of every tag when `target` is (N, K)."""
    if target.ndim == 2:
        sure, right = p.flatten(), (target > 0.5).flatten()
    else:
        sure, told = p.max(1)
        right = told == target
    c, r = sure.double().numpy(), right.double().numpy()
    where = np.clip((c * bins).astype(int), 0, bins - 1)
    count = np.bincount(where, minlength=bins)
    below = np.maximum(count, 1)
    conf, acc = np.bincount(where, c, bins) / below, np.bincount(where, r, bins) / below
    ece = float((count / max(1, len(c)) * np.abs(conf - acc)).sum())
    return Reliability(tuple(int(n) for n in count), tuple(conf.tolist()), tuple(acc.tolist()), ece)


def entropy(p: Tensor) -> Tensor:
    """Entropy of class probabilities along axis 1, in units of its maximum (0 sure, 1 knows nothing)."""
    return -(p.clamp_min(1e-12).log() * p).sum(1) / float(np.log(p.shape[1]))


def brier(p: Tensor, target: Tensor) -> float:
    """Mean squared distance between probabilities and truth."""
    truth = F.one_hot(target, p.shape[1]).to(p.dtype) if target.ndim == 1 else target.to(p.dtype)
    return float(((p - truth) ** 2).sum(1).mean()) if len(p) else float("nan")


def thinned(values: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Indices of at most `most` of the items, drawn without replacement."""
    n = len(values)
    return torch.arange(n) if n <= most else torch.randperm(n, generator=generator)[:most]
