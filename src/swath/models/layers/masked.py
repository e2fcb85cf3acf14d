"""What masked autoencoders share: pixel targets and the loss on removed tokens.

loss = sum(mask * mean((pred - target)^2)) / sum(mask). https://arxiv.org/abs/2111.06377
"""

from __future__ import annotations

from torch import Tensor


def standardise_patches(target: Tensor, eps: float = 1e-6) -> Tensor:
    """Each token's pixels with their own mean and (unbiased) variance removed."""
    return (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + eps).sqrt()


def masked_mse(pred: Tensor, target: Tensor, mask: Tensor, *, standardise: bool = False) -> Tensor:
    """Mean squared error over tokens with mask 1."""
    if standardise:
        target = standardise_patches(target)
    loss = (pred - target).square().mean(-1)
    return (loss * mask).sum() / mask.sum()
