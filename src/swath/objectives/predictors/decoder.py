"""The token decoder: visible tokens in their places, mask tokens elsewhere, codes of place and date, a few blocks."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from swath.core import Batch, Tokens, generator
from swath.models.layers import Block, Mlp, sincos
from swath.models.layers.alibi import token_bias
from swath.models.layers.attention import attend
from swath.objectives.masks import Plan

_AXIS, _STEP, _NAME = 32, 16, 16
CODE = 2 * _AXIS + _STEP + _NAME + 8 + 8


def place_codes(batch: Batch, tokens: Tokens) -> Tensor:
    """(B, N, CODE): where on the ground, which timestep, which season and year, which sensor and group.

    Coordinates and dates stay float64 and int64 until their sines are taken.
    """
    place, device = tokens.place, tokens.x.device
    rows, cols = max(tokens.grids, key=lambda s: s[0] * s[1])
    sizes = torch.tensor(tokens.grids, device=device)[place[:, 0]].double()
    y, x = (place[:, 3] + 0.5) / sizes[:, 0] * rows, (place[:, 4] + 0.5) / sizes[:, 1] * cols
    names = torch.stack([torch.randn(_NAME, generator=generator("sensor-code", n)) for n in tokens.sensors]).to(device)
    fixed = [sincos(y, _AXIS), sincos(x, _AXIS), sincos(place[:, 2], _STEP), names[place[:, 0]], sincos(place[:, 1], 8)]
    code = torch.cat([f.float() for f in fixed], -1)
    dates = torch.zeros(len(tokens.x), len(place), 8, device=device)
    for s, name in enumerate(tokens.sensors):
        times = batch.layers[name].times
        if times is None:
            continue
        here = (place[:, 0] == s).nonzero()[:, 0]
        tubelet = times.shape[1] // (int(place[here, 2].max()) + 1)
        years = times[:, place[here, 2] * tubelet].double() / 365.2425
        season = 2 * math.pi * years[..., None] * torch.arange(1, 4, device=device)
        rest = torch.stack([(years - 50) / 10, torch.ones_like(years)], -1)
        dates[:, here] = torch.cat([season.sin(), season.cos(), rest], -1).float()
    return torch.cat([code.expand(len(tokens.x), -1, -1), dates], -1)


class PlaceCode(nn.Module):
    """Codes of place as vectors of the predictor's width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(CODE, width)
        nn.init.normal_(self.proj.weight, std=CODE**-0.5)
        nn.init.zeros_(self.proj.bias)

    def forward(self, batch: Batch, tokens: Tokens) -> Tensor:
        return self.proj(place_codes(batch, tokens))


class CrossBlock(nn.Module):
    """Queries look at a context, then an MLP; with `residual` the query itself is carried on."""

    def __init__(self, width: int, heads: int, residual: bool = True) -> None:
        super().__init__()
        self.heads, self.residual = heads, residual
        self.norm_q, self.norm_c, self.norm_m = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor, context: Tensor, seen: Tensor | None) -> Tensor:
        b, n, d = x.shape
        q = self.q(self.norm_q(x)).view(b, n, self.heads, -1)
        kv = self.kv(self.norm_c(context)).view(b, -1, 2, self.heads, d // self.heads)
        y = self.proj(attend(kv, q, None if seen is None else seen[:, None, None]))
        x = x + y if self.residual else y
        return x + self.mlp(self.norm_m(x))


Style = Literal["joint", "alibi", "cross"]


class Decoder(nn.Module):
    """Width `d` for every token from the encoded visible ones.

    `joint`: blocks of self-attention over visible and mask tokens (MAE); `alibi`: these with 2-D ALiBi (CROMA).
    `cross`: every place asks the visible tokens only (OlmoEarth), so predictions do not see each other.
    """

    def __init__(self, given: int, d: int, depth: int, heads: int, style: Style = "joint") -> None:
        super().__init__()
        self.style, self.width, self.heads = style, d, heads
        self.proj, self.place = nn.Linear(given, d), PlaceCode(d)
        self.mask_token = nn.Parameter(torch.randn(d) * 0.02)
        make = (lambda: CrossBlock(d, heads)) if style == "cross" else (lambda: Block(d, heads))
        self.blocks = nn.ModuleList(make() for _ in range(depth))
        self.norm = nn.LayerNorm(d, eps=1e-6)

    def forward(self, kept: Tensor, plan: Plan, batch: Batch, tokens: Tokens, rows: Tensor | None = None) -> Tensor:
        """(B, N, d) from the encoded `kept` (B, K, given); with `rows` (B, M) only what is wanted there, (B, M, d)."""
        place = self.place(batch, tokens)
        kept = self.proj(kept)
        if self.style != "cross":
            x = plan.spread(kept, self.mask_token) + place
            seen = None if bool(plan.used.all()) else plan.used[:, None, None]
            if self.style == "alibi":
                near = token_bias(tokens, self.heads).to(x)
                seen = near if seen is None else near.masked_fill(~seen, -torch.inf)
            *first, last = self.blocks
            for block in first:
                x = block(x, seen)
            return self.norm(last(x, seen, rows))
        n = plan.state.shape[1]
        at = plan.keep.clamp_max(n - 1)[..., None].expand(-1, -1, self.width)
        context = kept + place.gather(1, at).to(kept.dtype)
        seen = None if bool((plan.keep < n).all()) else plan.keep < n
        x = self.mask_token + place
        if rows is not None:
            x = x.gather(1, rows[..., None].expand(-1, -1, self.width))
        for block in self.blocks:
            x = block(x, context, seen)
        return self.norm(x)
