"""Pieces of a plain vision transformer that many families share: block lists, fixed tables, running with levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from swath.models.layers.positions import resize_positions, sincos_2d
from swath.models.layers.transformer import Block


def blocks(depth: int, dim: int, heads: int, ratio: float = 4.0, *, eps: float = 1e-6) -> nn.ModuleList:
    """`depth` pre-norm blocks."""
    return nn.ModuleList(Block(dim, heads, ratio, eps=eps) for _ in range(depth))


def fixed_table(side: int, dim: int) -> nn.Parameter:
    """(1, 1 + side^2, dim): sine-cosine positions behind a zero for the class token; stored, not trained."""
    table = torch.cat([torch.zeros(1, dim), sincos_2d(side, side, dim)])[None]
    return nn.Parameter(table, requires_grad=False)


def run(layers: nn.ModuleList, x: Tensor, bias: Tensor | None = None) -> list[Tensor]:
    """The output of every block."""
    out: list[Tensor] = []
    for layer in layers:
        x = layer(x, bias)
        out.append(x)
    return out


def run_to(layers: nn.ModuleList, x: Tensor, levels: Sequence[int]) -> list[Tensor]:
    """The outputs of these blocks; the others are let go as soon as they are used."""
    out: list[Tensor] = []
    for i, layer in enumerate(layers):
        x = layer(x)
        if i in levels:
            out.append(x)
    return out


def run_all(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """The output of the last block."""
    for layer in layers:
        x = layer(x)
    return x


def table_for(table: Tensor, grid: tuple[int, int], *, offset: float = 0.0, antialias: bool = False) -> Tensor:
    """A stored (1, 1 + side^2, D) table for a grid: the class row as it is, the rest resized when needed."""
    side = round((table.shape[1] - 1) ** 0.5)
    rest = resize_positions(table[:, 1:], (side, side), grid, offset=offset, antialias=antialias)
    return torch.cat([table[:, :1], rest], 1)


def with_class(token: Tensor, x: Tensor) -> Tensor:
    """The class token before the others."""
    return torch.cat([token.to(x.dtype).expand(len(x), -1, -1), x], 1)


def at(outputs: Sequence[Tensor], levels: Sequence[int], last: Tensor) -> list[Tensor]:
    """Outputs of these blocks; `last` (usually normalised) in the place of the final one."""
    return [last if i == len(outputs) - 1 else outputs[i] for i in levels]
