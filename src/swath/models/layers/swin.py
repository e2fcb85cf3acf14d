"""Swin Transformer (the first): attention in windows that shift every second block.

https://arxiv.org/abs/2103.14030. Parameter and buffer names are the published ones. A map that windows do not tile is
padded with zeros, the padding masked out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swath.models.layers.products import Linear
from swath.models.layers.transformer import Mlp


@dataclass(frozen=True)
class SwinPlan:
    """Sizes; `image` only fixes which windows stand in the stored tables."""

    width: int = 128
    depths: tuple[int, ...] = (2, 2, 18, 2)
    heads: tuple[int, ...] = (4, 8, 16, 32)
    window: int = 7
    image: int = 224
    patch: int = 4
    bands: int = 3
    ratio: float = 4.0
    mask_token: bool = False


def relative_index(window: int) -> Tensor:
    """(w², w²): which row of the bias table a pair of cells uses."""
    places = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
    gap = places[:, :, None] - places[:, None, :] + window - 1
    return gap[0] * (2 * window - 1) + gap[1]


def cut(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) as (B * windows, w², C)."""
    b, h, w, c = x.shape
    y = x.view(b, h // window, window, w // window, window, c).transpose(2, 3)
    return y.reshape(-1, window * window, c)


def join(windows: Tensor, window: int, h: int, w: int) -> Tensor:
    """The inverse of `cut`."""
    y = windows.view(-1, h // window, w // window, window, window, windows.shape[-1]).transpose(2, 3)
    return y.reshape(-1, h, w, windows.shape[-1])


@lru_cache(maxsize=64)
def shift_mask(h: int, w: int, window: int, shift: int, real: tuple[int, int]) -> Tensor:
    """(windows, w², w²): -100 between cells that a shift brought together, or that are padding; else 0."""
    region = torch.zeros(1, h, w, 1, device="cpu")
    number = 0
    edges = (slice(0, -window), slice(-window, -shift), slice(-shift, None)) if shift else (slice(None),)
    for rows in edges:
        for cols in edges:
            region[:, rows, cols] = number
            number += 1
    padding = torch.zeros(1, h, w, 1, device="cpu")
    padding[:, real[0] :], padding[:, :, real[1] :] = number, number
    region = region + torch.roll(padding, (-shift, -shift), (1, 2))
    flat = cut(region, window).squeeze(-1)
    return torch.where(flat[:, None, :] == flat[:, :, None], 0.0, -100.0)


class WindowAttention(nn.Module):
    """Attention within a window, with a learned bias per relative place."""

    relative_position_index: Tensor

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_index(window))
        self.qkv, self.proj = Linear(dim, 3 * dim), Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        n, cells, dim = x.shape
        q, k, v = self.qkv(x).view(n, cells, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None]
        if mask is not None:
            windows = len(mask)
            bias = (bias + mask.to(bias)[:, None]).repeat(n // windows, 1, 1, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.proj(y.transpose(1, 2).reshape(n, cells, dim))


class SwinBlock(nn.Module):
    """Pre-norm window attention and MLP."""

    def __init__(self, dim: int, heads: int, window: int, shift: int, side: int, ratio: float) -> None:  # noqa: PLR0917
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = WindowAttention(dim, heads, window), Mlp(dim, int(dim * ratio))
        if shift:
            self.register_buffer("attn_mask", shift_mask(side, side, window, shift, (side, side)).clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C)."""
        h, w = x.shape[1:3]
        y = F.pad(self.norm1(x), (0, 0, 0, -w % self.window, 0, -h % self.window))
        high, wide = y.shape[1:3]
        # one window holds the whole map: nothing to shift
        shift = self.shift if min(high, wide) > self.window else 0
        mask = None
        if shift or (high, wide) != (h, w):
            mask = shift_mask(high, wide, self.window, shift, (h, w)).to(x.device)
        y = torch.roll(y, (-shift, -shift), (1, 2)) if shift else y
        y = join(self.attn(cut(y, self.window), mask), self.window, high, wide)
        y = torch.roll(y, (shift, shift), (1, 2)) if shift else y
        x = x + y[:, :h, :w]
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Four neighbours become one cell of twice the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * dim), Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, -1)))


class SwinStage(nn.Module):
    """Blocks at one resolution, then (but for the last) the merging."""

    def __init__(self, plan: SwinPlan, index: int) -> None:
        super().__init__()
        dim, side = plan.width * 2**index, plan.image // plan.patch // 2**index
        window = min(plan.window, side)
        shift = window // 2 if side > plan.window else 0
        heads = plan.heads[index]
        self.blocks = nn.ModuleList(
            SwinBlock(dim, heads, window, shift if i % 2 else 0, side, plan.ratio) for i in range(plan.depths[index])
        )
        self.downsample = PatchMerging(dim) if index < len(plan.depths) - 1 else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The map of this stage, and what goes on."""
        for block in self.blocks:
            x = block(x)
        return x, x if self.downsample is None else self.downsample(x)


class SwinPatches(nn.Module):
    """Patches and a norm, channels last."""

    def __init__(self, plan: SwinPlan) -> None:
        super().__init__()
        self.proj, self.norm = nn.Conv2d(plan.bands, plan.width, plan.patch, plan.patch), nn.LayerNorm(plan.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class Swin(nn.Module):
    """The trunk; `mask_token` replaces masked patches in pretraining."""

    def __init__(self, plan: SwinPlan) -> None:
        super().__init__()
        self.plan = plan
        self.patch_embed = SwinPatches(plan)
        self.layers = nn.ModuleList(SwinStage(plan, i) for i in range(len(plan.depths)))
        self.norm = nn.LayerNorm(plan.width * 2 ** (len(plan.depths) - 1))
        if plan.mask_token:
            self.mask_token = nn.Parameter(torch.randn(1, 1, plan.width) * 0.02)

    def stages(self, x: Tensor, mask: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Per stage the map before and after merging, (B, H, W, C); `mask` (B, h, w), 1 = hidden, over patches."""
        y = self.patch_embed(x)
        if mask is not None:
            hidden = mask.to(y.dtype)[..., None]
            y = y * (1.0 - hidden) + self.mask_token[:, None] * hidden
        before: list[Tensor] = []
        after: list[Tensor] = []
        for layer in self.layers:
            own, y = layer(y)
            before.append(own)
            after.append(y)
        return before, after

    def forward(self, x: Tensor) -> Tensor:
        """The normed last map, (B, H, W, C)."""
        return self.norm(self.stages(x)[0][-1])


def widths(plan: SwinPlan) -> Sequence[int]:
    """Features per stage."""
    return tuple(plan.width * 2**i for i in range(len(plan.depths)))
