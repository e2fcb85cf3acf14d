"""FCN head (Long et al. 2015, arXiv:1411.4038): convolutions on the deepest map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from swath.models.decoders._parts import block


class FCNDecoder(nn.Module):
    """`depth` convolutions at the deepest map's own stride."""

    local = True

    def __init__(self, widths: Sequence[int], strides: Sequence[float], width: int, depth: int) -> None:
        super().__init__()
        self.width, self.stride = width, strides[-1]
        self.body = nn.Sequential(*(block(widths[-1] if i == 0 else width, width) for i in range(depth)))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.body(maps[-1])


@dataclass(frozen=True)
class FCN:
    """Width and number of convolutions."""

    kind: ClassVar[str] = "fcn"
    width: int = 256
    depth: int = 2

    def build(self, widths: Sequence[int], strides: Sequence[float]) -> FCNDecoder:
        return FCNDecoder(widths, strides, self.width, self.depth)


MEMBER = FCN
