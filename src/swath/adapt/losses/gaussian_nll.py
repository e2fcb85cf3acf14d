"""Gaussian negative log-likelihood: (log s2 + (y - mu)^2 / s2) / 2; the head answers mu and log s2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from swath.adapt.losses._parts import spread


@dataclass(frozen=True)
class GaussianNLL:
    """Two outputs a value: mean and log variance (kept within [-12, 12] so that it cannot run away)."""

    kind: ClassVar[str] = "gaussian-nll"
    target: ClassVar[str] = "values"
    outputs: ClassVar[int] = 2
    weight: float = 1.0

    def __call__(self, out: Tensor, target: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
        p, y = spread(out, target, valid, 2)
        if not len(y):
            return out.float().sum() * 0.0
        log_var = p[:, 1].clamp(-12.0, 12.0)
        return 0.5 * (log_var + (y - p[:, 0]) ** 2 * (-log_var).exp()).mean()


MEMBER = GaussianNLL
