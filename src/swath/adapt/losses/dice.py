"""Soft dice (Milletari et al. 2016, arXiv:1606.04797): 1 - 2|P n Y| / (|P| + |Y|), mean over classes that occur."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from swath.adapt.losses._parts import class_mean, overlaps


@dataclass(frozen=True)
class Dice:
    """Region overlap over the valid pixels of the batch."""

    kind: ClassVar[str] = "dice"
    target: ClassVar[str] = "classes"
    outputs: ClassVar[int] = 1
    weight: float = 1.0
    smooth: float = 1.0

    def __call__(self, out: Tensor, target: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
        hit, p, y = overlaps(out, target, valid)
        value = 1.0 - (2.0 * hit + self.smooth) / (p + y + self.smooth)
        return class_mean(value, weights, y > 0)


MEMBER = Dice
