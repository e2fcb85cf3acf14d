"""Binary cross-entropy for tags; `positive` weighs the positives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from swath.adapt.losses._parts import mean_or_zero


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """Mean over valid tags."""

    kind: ClassVar[str] = "bce"
    target: ClassVar[str] = "tags"
    outputs: ClassVar[int] = 1
    shares: ClassVar[bool] = True
    weight: float = 1.0
    positive: float = 1.0

    def __call__(self, out: Tensor, target: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
        pos = torch.full((out.shape[1],), self.positive, device=out.device) if weights is None else weights.to(out)
        known = target.float().where(valid, 0.0)  # a NaN not looked at would still be one in the gradient
        value = F.binary_cross_entropy_with_logits(out.float(), known, pos_weight=pos, reduction="none")
        return mean_or_zero(value[valid], out)


MEMBER = BinaryCrossEntropy
