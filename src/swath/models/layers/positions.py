"""Sine-cosine positions in one, two and three dimensions, and resizing of learned position tables."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def sincos(positions: Tensor, dim: int, base: float = 10000.0) -> Tensor:
    """(...,) positions as (..., dim): sines of p * base^(-2i/dim) first, then the cosines; computed in float64."""
    rates = base ** (-torch.arange(dim // 2, dtype=torch.float64, device=positions.device) / (dim / 2))
    angle = positions.double()[..., None] * rates
    return torch.cat([angle.sin(), angle.cos()], -1)


def sincos_single(positions: Tensor, dim: int, base: float = 10000.0) -> Tensor:
    """`sincos` with angles in float32, as models that code years and degrees on the fly compute it."""
    rates = 1.0 / base ** (torch.arange(dim // 2, dtype=torch.float32, device=positions.device) / (dim / 2.0))
    angle = positions.float()[..., None] * rates
    return torch.cat([angle.sin(), angle.cos()], -1)


def sincos_1d(n: int, dim: int) -> Tensor:
    """(n, dim) for positions 0..n-1."""
    return sincos(torch.arange(n), dim).float()


def sincos_2d(h: int, w: int, dim: int, *, first: Literal["w", "h"] = "w", scale: float = 1.0) -> Tensor:
    """(h*w, dim), row-major; half of the features code one axis, half the other. `first` names the leading half.

    Most masked autoencoders put the column (`w`) first.
    """
    rows, cols = torch.meshgrid(torch.arange(h) * scale, torch.arange(w) * scale, indexing="ij")
    y, x = sincos(rows.reshape(-1), dim // 2), sincos(cols.reshape(-1), dim // 2)
    return torch.cat([x, y] if first == "w" else [y, x], -1).float()


def sincos_3d(t: int, h: int, w: int, dim: int) -> Tensor:
    """(t*h*w, dim), time-major: 4/16 of the features code time, 6/16 rows, 6/16 columns, in the order w, h, t."""
    wide, tall = dim // 16 * 6, dim // 16 * 6
    at, ay, ax = torch.meshgrid(torch.arange(t), torch.arange(h), torch.arange(w), indexing="ij")
    parts = [(ax, wide), (ay, tall), (at, dim - wide - tall)]
    return torch.cat([sincos(p.reshape(-1), d) for p, d in parts], -1).float()


def resize_positions(
    table: Tensor,
    old: tuple[int, int],
    new: tuple[int, int],
    *,
    mode: str = "bicubic",
    align_corners: bool = False,
    antialias: bool = False,
    offset: float = 0.0,
) -> Tensor:
    """A (1, h*w, D) table for another grid. With `offset` the scale is (new + offset) / old, as DINO does."""
    if old == new:
        return table
    grid = table.reshape(1, *old, -1).permute(0, 3, 1, 2).float()
    if offset:
        scale = tuple((n + offset) / o for n, o in zip(new, old, strict=True))
        grid = interpolate(grid, scale_factor=scale, mode=mode, antialias=antialias)
    else:
        grid = interpolate(grid, size=new, mode=mode, align_corners=align_corners, antialias=antialias)
    return grid.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1).to(table.dtype)
