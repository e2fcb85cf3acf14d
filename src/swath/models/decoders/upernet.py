"""UPerNet (Xiao et al. 2018, arXiv:1807.10221): pyramid pooling on the coarsest map, top-down fusion, one fused map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.models.decoders._parts import Pyramid, block, resize


class UPerNetDecoder(nn.Module):
    """Pooling scales 1, 2, 3 and 6; levels of one width, concatenated at the finest."""

    local = False

    def __init__(self, widths: Sequence[int], strides: Sequence[float], width: int) -> None:
        super().__init__()
        self.neck = Pyramid(widths, strides)
        given = self.neck.widths
        self.scales = (1, 2, 3, 6)
        self.pool = nn.ModuleList(block(given[-1], width, 1) for _ in self.scales)
        self.top = block(given[-1] + len(self.scales) * width, width)
        self.lateral = nn.ModuleList(block(w, width, 1) for w in given[:-1])
        self.smooth = nn.ModuleList(block(width, width) for _ in given[:-1])
        self.fuse = block(len(given) * width, width)
        self.width, self.stride = width, self.neck.strides[0]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        *fine, last = self.neck(maps)
        pooled = [resize(p(F.adaptive_avg_pool2d(last, s)), last) for s, p in zip(self.scales, self.pool, strict=True)]
        own = [lateral(m) for lateral, m in zip(self.lateral, fine, strict=True)]
        own.append(self.top(torch.cat([last, *pooled], 1)))
        for i in reversed(range(len(own) - 1)):
            own[i] = own[i] + resize(own[i + 1], own[i])
        own = [*(s(m) for s, m in zip(self.smooth, own[:-1], strict=True)), own[-1]]
        return self.fuse(torch.cat([resize(m, own[0]) for m in own], 1))


@dataclass(frozen=True)
class UPerNet:
    """`width` of every level (PANGAEA: 512)."""

    kind: ClassVar[str] = "upernet"
    width: int = 256

    def build(self, widths: Sequence[int], strides: Sequence[float]) -> UPerNetDecoder:
        return UPerNetDecoder(widths, strides, self.width)


MEMBER = UPerNet
