"""Asymmetric loss for many tags (Ridnik et al. 2021, arXiv:2009.14119).

Positives: -(1-p)^g+ log p; negatives: -(p_m)^g- log(1 - p_m) with p_m = max(p - margin, 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from swath.adapt.losses._parts import mean_or_zero, power


@dataclass(frozen=True)
class Asymmetric:
    """Rare positives keep their voice among many easy negatives."""

    kind: ClassVar[str] = "asymmetric"
    target: ClassVar[str] = "tags"
    outputs: ClassVar[int] = 1
    shares: ClassVar[bool] = True
    weight: float = 1.0
    gamma_positive: float = 0.0
    gamma_negative: float = 4.0
    margin: float = 0.05

    def __call__(self, out: Tensor, target: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
        p, target = out.float()[valid].sigmoid(), target[valid]
        shifted = p - self.margin
        positive = target * power(1.0 - p, self.gamma_positive) * p.clamp_min(1e-8).log()
        negative = power(shifted, self.gamma_negative) * (1.0 - shifted.clamp_min(0.0)).clamp_min(1e-8).log()
        return mean_or_zero(-(positive + (1.0 - target) * negative), out)


MEMBER = Asymmetric
