"""FPN decoder (Kirillov et al. 2019, arXiv:1901.02446): lateral 1 x 1, top-down sums, summed at the finest level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from swath.models.decoders._parts import Pyramid, block, resize


class FPNDecoder(nn.Module):
    """`levels(maps)` gives the pyramid itself (detection uses it); the call merges it."""

    local = True

    def __init__(self, widths: Sequence[int], strides: Sequence[float], width: int) -> None:
        super().__init__()
        self.neck = Pyramid(widths, strides)
        self.lateral = nn.ModuleList(nn.Conv2d(w, width, 1) for w in self.neck.widths)
        self.smooth = nn.ModuleList(block(width, width) for _ in self.neck.widths)
        self.width, self.stride, self.strides = width, self.neck.strides[0], list(self.neck.strides)

    def levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Fine to coarse, all of one width."""
        own = [lateral(m) for lateral, m in zip(self.lateral, self.neck(maps), strict=True)]
        for i in reversed(range(len(own) - 1)):
            own[i] = own[i] + resize(own[i + 1], own[i])
        return [smooth(m) for smooth, m in zip(self.smooth, own, strict=True)]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        first, *rest = self.levels(maps)
        for m in rest:
            first = first + resize(m, first)
        return first


@dataclass(frozen=True)
class FPN:
    """`width` of every level."""

    kind: ClassVar[str] = "fpn"
    width: int = 128

    def build(self, widths: Sequence[int], strides: Sequence[float]) -> FPNDecoder:
        return FPNDecoder(widths, strides, self.width)


MEMBER = FPN
