"""Lovász-softmax (Berman et al. 2018, arXiv:1705.08790): the convex surrogate of 1 - IoU, over classes that occur.

For errors m sorted downwards, the weights are the discrete derivative of the Jaccard loss along that order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from swath.adapt.losses._parts import class_mean, valid_items


def jaccard_slope(truth: Tensor) -> Tensor:
    """Differences of the Jaccard loss as items are added in the order given; `truth` is 0/1 of shape (N,)."""
    total = truth.sum()
    inter = total - truth.cumsum(0)
    union = total + (1.0 - truth).cumsum(0)
    loss = 1.0 - inter / union
    return torch.cat([loss[:1], loss[1:] - loss[:-1]])


@dataclass(frozen=True)
class Lovasz:
    """A direct surrogate of the IoU."""

    kind: ClassVar[str] = "lovasz"
    target: ClassVar[str] = "classes"
    outputs: ClassVar[int] = 1
    weight: float = 1.0

    def __call__(self, out: Tensor, target: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
        logits, classes = valid_items(out, target, valid)
        if not len(classes):
            return out.float().sum() * 0.0
        p = logits.softmax(-1)
        per: list[Tensor] = []
        here: list[Tensor] = []
        for k in range(out.shape[1]):
            truth = (classes == k).to(p.dtype)
            errors, order = (truth - p[:, k]).abs().sort(descending=True)
            per.append(errors @ jaccard_slope(truth[order]))
            here.append(truth.sum() > 0)
        return class_mean(torch.stack(per), weights, torch.stack(here))


MEMBER = Lovasz
