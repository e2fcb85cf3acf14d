"""Projection heads of the contrastive objectives, with batch statistics over all ranks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncNorm(nn.Module):
    """Batch normalisation of (B, D) in fp32 over the batches of all ranks, on any device (the loss of two ranks is
    that of one). Running statistics serve evaluation."""

    mean: Tensor
    var: Tensor

    def __init__(self, width: int, affine: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width), requires_grad=affine)
        self.bias = nn.Parameter(torch.zeros(width), requires_grad=affine)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            y = x.float()
            if self.training:
                total = torch.cat([y.sum(0), y.new_tensor([float(len(y))])])
                n, mean = _mean(total)
                gap = torch.cat([(y - mean).square().sum(0), y.new_tensor([float(len(y))])])
                var = _mean(gap)[1]
                with torch.no_grad():  # a batch that is not finite may be skipped; it must leave nothing behind
                    for kept, fresh in ((self.mean, mean), (self.var, var * n / (n - 1).clamp_min(1))):
                        kept.lerp_(torch.where(fresh.isfinite(), fresh, kept), 0.1)
            else:
                mean, var = self.mean, self.var
            y = (y - mean) / (var + 1e-5).sqrt()
            return y * self.weight + self.bias


def _mean(total: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over ranks, with gradient, as (count, mean)."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        from torch.distributed.nn.functional import all_reduce

        total = all_reduce(total)
    return total[-1].detach(), total[:-1] / total[-1].detach()


def mlp(widths: Sequence[int], norm: Literal["none", "batch"] = "batch", last_norm: bool = False) -> nn.Sequential:
    """Linear maps with ReLU between; with batch norms the linear maps have no bias, the last norm no affine part."""
    layers: list[nn.Module] = []
    pairs = list(itertools.pairwise(widths))
    for i, (a, b) in enumerate(pairs):
        final = i == len(pairs) - 1
        batch = norm == "batch" and (not final or last_norm)
        layers.append(nn.Linear(a, b, bias=not batch))
        if batch:
            layers.append(SyncNorm(b, affine=not final))
        if not final:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)
