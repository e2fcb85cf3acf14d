"""Finite scalar quantisation: each latent coordinate rounds to one of L levels; no codebook is learned.

n_i = round(sigmoid(z_i) (L_i - 1)), code_i = n_i / (L_i - 1), id = sum_i n_i prod_{j<i} L_j.
https://arxiv.org/abs/2309.15505 (there with tanh; TerraMind's tokenizers use the sigmoid).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FiniteScalar(nn.Module):
    """Quantise (B, d, h, w) with one number of levels a coordinate; gradients pass straight through the rounding."""

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.size = math.prod(self.levels)

    def _rows(self, like: Tensor) -> tuple[Tensor, Tensor]:
        levels = torch.tensor(self.levels, device=like.device).view(1, -1, 1, 1)
        basis = torch.cat([torch.ones_like(levels[:, :1]), levels.cumprod(1)[:, :-1]], 1)
        return levels, basis

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Codes in [0, 1] and int32 ids (B, h, w)."""
        levels, basis = self._rows(z)
        soft = z.sigmoid() * (levels - 1)
        hard = soft.round()
        ids = (hard.long() * basis).sum(1).int()
        return (soft + (hard - soft).detach()) / (levels - 1), ids

    def codes(self, ids: Tensor) -> Tensor:
        """Codes (B, d, h, w) of ids."""
        levels, basis = self._rows(ids)
        return (ids.long()[:, None] // basis % levels).float() / (levels - 1)
