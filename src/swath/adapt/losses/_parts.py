"""What losses share: flattening to valid items, and overlap counts per class."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def valid_items(out: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and classes (N,) of the valid items, in fp32."""
    flat = out.float().movedim(1, -1)[valid]
    return flat, target[valid]


def mean_or_zero(values: Tensor, out: Tensor) -> Tensor:
    """The mean, or a zero that still has a gradient path when nothing is valid."""
    return values.mean() if values.numel() else out.float().sum() * 0.0


def power(base: Tensor, gamma: float) -> Tensor:
    """`base` ** gamma of what should not be negative; with a gamma below one the slope at zero would be infinite."""
    return base.clamp_min(torch.finfo(base.dtype).eps if 0.0 < gamma < 1.0 else 0.0) ** gamma


def overlaps(out: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Soft true positives, predicted and true mass per class over the valid items of the whole batch."""
    logits, classes = valid_items(out, target, valid)
    p = logits.softmax(-1)
    y = F.one_hot(classes, out.shape[1]).to(p.dtype)
    return (p * y).sum(0), p.sum(0), y.sum(0)


def class_mean(values: Tensor, weights: Tensor | None, present: Tensor) -> Tensor:
    """Mean over the classes that occur (in truth), weighted when weights are given; `values` is (K,)."""
    w = present.to(values.dtype) * (1.0 if weights is None else weights.to(values))
    return (values * w).sum() / w.sum().clamp_min(torch.finfo(values.dtype).tiny)


def spread(out: Tensor, target: Tensor, valid: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
    """Value losses: out as (N, outputs), target as (N,), over valid entries; out channels are `outputs` blocks."""
    k = target.shape[1]
    blocks = out.float().unflatten(1, (outputs, k)).movedim(1, -1)
    keep = valid.expand_as(target)
    return blocks[keep], target.float()[keep]
