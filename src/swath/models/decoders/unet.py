"""U-Net decoder (Ronneberger et al. 2015, arXiv:1505.04597) over encoder maps: up, concatenate, two convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from swath.models.decoders._parts import Pyramid, block, resize


class UNetDecoder(nn.Module):
    """From the coarsest map to the finest; `width` is the finest map's, doubled per level up to eight times."""

    local = True

    def __init__(self, widths: Sequence[int], strides: Sequence[float], width: int) -> None:
        super().__init__()
        self.neck = Pyramid(widths, strides)
        given = self.neck.widths
        sizes = [width * min(2**i, 8) for i in range(len(given))]
        self.enter = block(given[-1], sizes[-1], 1)
        self.up = nn.ModuleList(
            nn.Sequential(block(sizes[i + 1] + given[i], sizes[i]), block(sizes[i], sizes[i]))
            for i in reversed(range(len(given) - 1))
        )
        self.width, self.stride = sizes[0], self.neck.strides[0]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        levels = self.neck(maps)
        x = self.enter(levels[-1])
        for skip, up in zip(reversed(levels[:-1]), self.up, strict=True):
            x = up(torch.cat([resize(x, skip), skip], 1))
        return x


@dataclass(frozen=True)
class UNet:
    """`width` of the finest level."""

    kind: ClassVar[str] = "unet"
    width: int = 64

    def build(self, widths: Sequence[int], strides: Sequence[float]) -> UNetDecoder:
        return UNetDecoder(widths, strides, self.width)


MEMBER = UNet
