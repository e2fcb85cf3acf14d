"""Tversky loss (Salehi et al. 2017, arXiv:1706.05721): 1 - TP / (TP + alpha FP + beta FN)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from swath.adapt.losses._parts import class_mean, overlaps


@dataclass(frozen=True)
class Tversky:
    """Dice with its own price for misses (`beta`) and false alarms (`alpha`)."""

    kind: ClassVar[str] = "tversky"
    target: ClassVar[str] = "classes"
    outputs: ClassVar[int] = 1
    weight: float = 1.0
    alpha: float = 0.3
    beta: float = 0.7
    smooth: float = 1.0

    def __call__(self, out: Tensor, target: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
        hit, p, y = overlaps(out, target, valid)
        below = hit + self.alpha * (p - hit) + self.beta * (y - hit)
        return class_mean(1.0 - (hit + self.smooth) / (below + self.smooth), weights, y > 0)


MEMBER = Tversky
