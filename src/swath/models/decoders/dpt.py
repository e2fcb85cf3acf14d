"""DPT (Ranftl et al. 2021, arXiv:2103.13413): reassembled transformer maps, fused upwards by residual units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from swath.models.decoders._parts import Pyramid, resize


class ResidualUnit(nn.Module):
    """Pre-activation: x + conv(relu(conv(relu(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class DPTDecoder(nn.Module):
    """Coarse to fine: the running map plus the refined skip, refined again, doubled."""

    local = True

    def __init__(self, widths: Sequence[int], strides: Sequence[float], width: int) -> None:
        super().__init__()
        self.neck = Pyramid(widths, strides)
        self.enter = nn.ModuleList(nn.Conv2d(w, width, 3, padding=1, bias=False) for w in self.neck.widths)
        self.skip = nn.ModuleList(ResidualUnit(width) for _ in self.neck.widths)
        self.join = nn.ModuleList(ResidualUnit(width) for _ in self.neck.widths)
        self.width, self.stride = width, self.neck.strides[0]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        own = [e(m) for e, m in zip(self.enter, self.neck(maps), strict=True)]
        x = self.join[-1](self.skip[-1](own[-1]))
        for i in reversed(range(len(own) - 1)):
            x = self.join[i](resize(x, own[i]) + self.skip[i](own[i]))
        return x


@dataclass(frozen=True)
class DPT:
    """`width` of every level."""

    kind: ClassVar[str] = "dpt"
    width: int = 128

    def build(self, widths: Sequence[int], strides: Sequence[float]) -> DPTDecoder:
        return DPTDecoder(widths, strides, self.width)


MEMBER = DPT
