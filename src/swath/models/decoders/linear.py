"""Linear decoder: the maps, brought to the finest one's size and concatenated; nothing is learned here.

With a 1 x 1 head on top this is the dense linear probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from swath.models.decoders._parts import resize


class LinearDecoder(nn.Module):
    """Concatenation of maps."""

    local = True

    def __init__(self, widths: Sequence[int], strides: Sequence[float], last: bool) -> None:
        super().__init__()
        self.last = last
        self.width = widths[-1] if last else sum(widths)
        self.stride = strides[-1] if last else strides[0]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return maps[-1] if self.last else torch.cat([resize(m, maps[0]) for m in maps], 1)


@dataclass(frozen=True)
class Linear:
    """`last`: the deepest map alone."""

    kind: ClassVar[str] = "linear"
    last: bool = False

    def build(self, widths: Sequence[int], strides: Sequence[float]) -> LinearDecoder:
        return LinearDecoder(widths, strides, self.last)


MEMBER = Linear
