"""SegFormer head (Xie et al. 2021, arXiv:2105.15203): one linear map a level, resized, concatenated, fused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from swath.models.decoders._parts import Pyramid, block, resize


class SegFormerDecoder(nn.Module):
    """All-MLP: 1 x 1 convolutions only."""

    local = True

    def __init__(self, widths: Sequence[int], strides: Sequence[float], width: int) -> None:
        super().__init__()
        self.neck = Pyramid(widths, strides)
        self.lateral = nn.ModuleList(nn.Conv2d(w, width, 1) for w in self.neck.widths)
        self.fuse = block(len(self.neck.widths) * width, width, 1)
        self.width, self.stride = width, self.neck.strides[0]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        own = [lateral(m) for lateral, m in zip(self.lateral, self.neck(maps), strict=True)]
        return self.fuse(torch.cat([resize(m, own[0]) for m in own], 1))


@dataclass(frozen=True)
class SegFormer:
    """`width` of every level."""

    kind: ClassVar[str] = "segformer"
    width: int = 128

    def build(self, widths: Sequence[int], strides: Sequence[float]) -> SegFormerDecoder:
        return SegFormerDecoder(widths, strides, self.width)


MEMBER = SegFormer
