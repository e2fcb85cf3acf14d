"""Which tokens an encoder sees: keep by noise, gather, and put mask tokens back in their places."""

from __future__ import annotations

import torch
from torch import Tensor


def keep_by_noise(noise: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the `keep` tokens of least noise (B, N): their indices (B, keep), the mask (1 = removed), the way back."""
    order = noise.argsort(dim=1)
    back = order.argsort(dim=1)
    mask = torch.ones_like(noise)
    mask[:, :keep] = 0
    return order[:, :keep], mask.gather(1, back), back


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """(B, N, D) at (B, K)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def restore_tokens(kept: Tensor, mask_token: Tensor, back: Tensor) -> Tensor:
    """Kept tokens (B, K, D) and copies of the mask token, in the order of the whole sequence."""
    b, k, d = kept.shape
    filler = mask_token.to(kept.dtype).expand(b, back.shape[1] - k, d)
    return gather_tokens(torch.cat([kept, filler], 1), back)
