"""Boundary F1 loss (Bokhovkin and Burnaev 2019, arXiv:1905.07852): soft precision and recall of thin boundaries.

A class's boundary is where its map differs from its own minimum in a 3 x 3 window; predicted and true boundaries
match when they lie within `reach` pixels of each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from swath.adapt.losses._parts import class_mean


def edges(p: Tensor, size: int = 3) -> Tensor:
    """Soft inner boundary of maps (B, K, H, W): p minus its erosion."""
    return F.max_pool2d(1.0 - p, size, 1, size // 2) - (1.0 - p)


@dataclass(frozen=True)
class Boundary:
    """1 - F1 of boundaries; dense maps only."""

    kind: ClassVar[str] = "boundary"
    target: ClassVar[str] = "classes"
    outputs: ClassVar[int] = 1
    weight: float = 1.0
    reach: int = 2

    def __call__(self, out: Tensor, target: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
        keep = valid[:, None]
        p = out.float().softmax(1) * keep
        y = F.one_hot(target.where(valid, 0), out.shape[1]).movedim(-1, 1).to(p.dtype) * keep
        # a boundary seen only because the valid area ends is none: both sides must be observed
        inside = 1.0 - F.max_pool2d(1.0 - keep.to(p.dtype), 3, 1, 1)
        bp, by = edges(p) * inside, edges(y) * inside
        size = 2 * self.reach + 1
        near_p, near_y = F.max_pool2d(bp, size, 1, self.reach), F.max_pool2d(by, size, 1, self.reach)
        dims = (0, 2, 3)
        precision = ((bp * near_y).sum(dims) + 1.0) / (bp.sum(dims) + 1.0)
        recall = ((by * near_p).sum(dims) + 1.0) / (by.sum(dims) + 1.0)
        return class_mean(1.0 - 2.0 * precision * recall / (precision + recall), weights, by.sum(dims) > 0)


MEMBER = Boundary
