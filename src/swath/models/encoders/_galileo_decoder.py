"""Galileo's decoder: what pretraining asked of the encoder. No fixture has its outputs; its keys are the official ones.

Galileo, https://arxiv.org/abs/2502.09356: mask tokens with codes are queries over the seen tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from swath.models.encoders.galileo import Coded, GalileoAttention, GalileoShape, Grid
from swath.models.layers import Mlp
from swath.models.layers.products import Linear


class ReadBlock(nn.Module):
    """A pre-norm block whose queries read a context."""

    def __init__(self, dim: int, heads: int, ratio: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = GalileoAttention(dim, heads)
        self.mlp = Mlp(dim, int(dim * ratio))

    def forward(self, x: Tensor, context: Tensor, bias: Tensor | None) -> Tensor:
        x = x + self.attn(self.norm1(x), bias, context)
        return x + self.mlp(self.norm2(x))


class GalileoDecoder(Coded):
    """The pretraining's decoder: hidden tokens (mask 2) become queries that read the seen ones (mask 0)."""

    def __init__(self, s: GalileoShape, depth: int = 2, out: int | None = None) -> None:
        super().__init__()
        self.shape = s
        self.input_norm = nn.LayerNorm(s.dim)
        self.encoder_to_decoder_embed = Linear(s.dim, s.dim)
        self.mask_token = nn.Parameter(torch.zeros(s.dim))
        self.add_tables(s)
        self.blocks = nn.ModuleList(ReadBlock(s.dim, s.heads, s.ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(s.dim)
        self.to_output_embed = Linear(s.dim, out or s.dim)

    def forward(self, tokens: Sequence[Tensor], mask: Sequence[Tensor], months: Tensor, ratio: float) -> list[Tensor]:
        """The four families predicted where mask is 2; elsewhere what was seen, normalised and projected."""
        own = [self.encoder_to_decoder_embed(self.input_norm(a)) for a in tokens]
        own = [torch.where((m == 2)[..., None], self.mask_token, a) for a, m in zip(own, mask, strict=True)]
        codes = self.codes(Grid(*own[0].shape[:4]), months, ratio)
        x = torch.cat([(a + c.to(a.dtype)).flatten(1, -2) for a, c in zip(own, codes, strict=True)], 1)
        kind = torch.cat([m.flatten(1) for m in mask], 1)
        ask, seen = (kind == 2)[..., None], (kind == 0)[:, None, None]
        context, y = x, x
        for block in self.blocks:
            y = torch.where(ask, block(y, context, seen), y)
        parts = self.to_output_embed(self.norm(y)).split([a[..., 0].flatten(1).shape[1] for a in own], 1)
        return [p.reshape(*a.shape[:-1], -1) for p, a in zip(parts, own, strict=True)]
