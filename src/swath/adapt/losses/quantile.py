"""Quantile (pinball) loss: mean of max(q e, (q - 1) e), e = y - p; the head answers the quantiles .05, .5 and .95."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from swath.adapt.losses._parts import spread

QUANTILES = (0.5, 0.05, 0.95)


@dataclass(frozen=True)
class Quantile:
    """Three outputs a value: median, lower and upper quantile."""

    kind: ClassVar[str] = "quantile"
    target: ClassVar[str] = "values"
    outputs: ClassVar[int] = 3
    weight: float = 1.0

    def __call__(self, out: Tensor, target: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
        p, y = spread(out, target, valid, 3)
        if not len(y):
            return out.float().sum() * 0.0
        q = torch.tensor(QUANTILES, device=p.device, dtype=p.dtype)
        error = y[:, None] - p
        return torch.maximum(q * error, (q - 1.0) * error).mean()


MEMBER = Quantile
