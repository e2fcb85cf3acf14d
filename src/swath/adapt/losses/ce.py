"""Cross-entropy, optionally weighted per class and smoothed: the mean of -w_y log p_y, divided by the mean weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from swath.adapt.losses._parts import valid_items

IGNORED = -100


@dataclass(frozen=True)
class CrossEntropy:
    """Softmax cross-entropy over valid items."""

    kind: ClassVar[str] = "ce"
    target: ClassVar[str] = "classes"
    outputs: ClassVar[int] = 1
    shares: ClassVar[bool] = True
    weight: float = 1.0
    smoothing: float = 0.0

    def __call__(self, out: Tensor, target: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
        if not bool(valid.any()):
            return out.float().sum() * 0.0
        w = None if weights is None else weights.to(device=out.device, dtype=torch.float32)
        if target.is_floating_point():  # shares of classes, of mixed samples
            logits, shares = valid_items(out, target, valid)
            return F.cross_entropy(logits, shares, w, label_smoothing=self.smoothing)
        classes = torch.where(valid, target, IGNORED)  # ignoring costs a third of picking the valid pixels out
        return F.cross_entropy(out.float(), classes, w, ignore_index=IGNORED, label_smoothing=self.smoothing)

    @staticmethod
    def count(target: Tensor, valid: Tensor, weights: Tensor | None) -> float:
        """What the mean divides by: the weights of the valid items, where there are any."""
        if weights is None or target.is_floating_point():
            return float(valid.sum())
        return float(weights.to(target.device)[target[valid]].sum())


MEMBER = CrossEntropy
