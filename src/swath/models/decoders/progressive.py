"""Progressive up-sampler for plain transformers: the maps fused at their own stride, then doubled until stride 1 or 2.

Each doubling is a sub-pixel convolution (Shi et al. 2016, arXiv:1609.05158), so there is no pyramid to invent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from swath.models.decoders._parts import block, resize


class ProgressiveDecoder(nn.Module):
    """Halves the width and the stride at each step."""

    local = True

    def __init__(self, widths: Sequence[int], strides: Sequence[float], width: int, stride: int) -> None:
        super().__init__()
        self.enter = block(sum(widths), width, 1)
        steps = max(0, round(math.log2(strides[0] / stride)))
        layers: list[nn.Module] = []
        for _ in range(steps):
            half = max(width // 2, 16)
            layers += [nn.Conv2d(width, 4 * half, 1), nn.PixelShuffle(2), block(half, half)]
            width = half
        self.body = nn.Sequential(*layers)
        self.width, self.stride = width, strides[0] / 2**steps

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.body(self.enter(torch.cat([resize(m, maps[0]) for m in maps], 1)))


@dataclass(frozen=True)
class Progressive:
    """`width` at the encoder's stride; `stride` to reach (the head resizes the rest)."""

    kind: ClassVar[str] = "progressive"
    width: int = 256
    stride: int = 2

    def build(self, widths: Sequence[int], strides: Sequence[float]) -> ProgressiveDecoder:
        return ProgressiveDecoder(widths, strides, self.width, self.stride)


MEMBER = Progressive
