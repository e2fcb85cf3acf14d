"""Log-cosh dice (Jadon 2020, arXiv:2006.14822; PRUE's field loss): log(cosh(sum_c w_c dice_c / sum w))."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from swath.adapt.losses._parts import class_mean, overlaps


@dataclass(frozen=True)
class LogCoshDice:
    """The dice loss, smoothed near its optimum."""

    kind: ClassVar[str] = "logcosh-dice"
    target: ClassVar[str] = "classes"
    outputs: ClassVar[int] = 1
    weight: float = 1.0
    smooth: float = 1.0

    def __call__(self, out: Tensor, target: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
        hit, p, y = overlaps(out, target, valid)
        dice = class_mean(1.0 - (2.0 * hit + self.smooth) / (p + y + self.smooth), weights, y > 0)
        return torch.log(torch.cosh(dice))


MEMBER = LogCoshDice
