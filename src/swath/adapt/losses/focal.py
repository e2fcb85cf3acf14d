"""Focal loss (Lin et al. 2017, arXiv:1708.02002): -(1 - p_y)^gamma log p_y."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from swath.adapt.losses._parts import mean_or_zero, power, valid_items


@dataclass(frozen=True)
class Focal:
    """Cross-entropy that looks away from easy items."""

    kind: ClassVar[str] = "focal"
    target: ClassVar[str] = "classes"
    outputs: ClassVar[int] = 1
    shares: ClassVar[bool] = True
    weight: float = 1.0
    gamma: float = 2.0

    def __call__(self, out: Tensor, target: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
        logits, classes = valid_items(out, target, valid)
        if classes.is_floating_point():
            return _of_shares(logits, classes, self.gamma, weights)
        nll = F.cross_entropy(logits, classes, reduction="none")
        value = power(1.0 - (-nll).exp(), self.gamma) * nll
        if weights is not None:
            value = value * weights.to(value)[classes]
        return mean_or_zero(value, out)


def _of_shares(logits: Tensor, shares: Tensor, gamma: float, weights: Tensor | None) -> Tensor:
    log = logits.log_softmax(-1)
    value = -shares * power(1.0 - log.exp(), gamma) * log
    return (value if weights is None else value * weights.to(value)).sum(-1).mean()


MEMBER = Focal
