"""Value loss: squared near zero, absolute beyond `delta` (in the label's unit)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from swath.adapt.losses._parts import spread


@dataclass(frozen=True)
class Huber:
    """Over valid values, in the unit in which the head answers."""

    kind: ClassVar[str] = "huber"
    target: ClassVar[str] = "values"
    outputs: ClassVar[int] = 1
    weight: float = 1.0
    delta: float = 1.0

    def __call__(self, out: Tensor, target: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
        p, y = spread(out, target, valid, 1)
        return F.huber_loss(p[:, 0], y, delta=self.delta) if len(y) else out.float().sum() * 0.0


MEMBER = Huber
