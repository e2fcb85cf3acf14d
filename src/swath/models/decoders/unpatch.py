"""Unpatch decoder: each cell of a map tells its own pixels, by one linear map and a shuffle into place.

The inverse of a patch embedding: y[c, i s + u, j s + v] = w[c, u, v] . x[:, i, j] + b[c]. Cheaper than any convolution
at full resolution, and finer than a linear head whose answer is stretched from one value a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from swath.core import UserError
from swath.models.layers.products import Up


class UnpatchDecoder(nn.Module):
    """A transposed convolution whose stride is its kernel, from the deepest map."""

    local = True

    def __init__(self, given: int, stride: int, width: int) -> None:
        super().__init__()
        self.up = Up(given, width, stride)
        # torch's own start divides by the pixels of a cell as well, which do not add up: answers start faint
        nn.init.normal_(self.up.weight, std=given**-0.5)
        self.width, self.stride = width, 1.0

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.up(maps[-1])


@dataclass(frozen=True)
class Unpatch:
    """`width`: channels at each pixel, which a 1 x 1 head reads."""

    kind: ClassVar[str] = "unpatch"
    width: int = 8

    def build(self, widths: Sequence[int], strides: Sequence[float]) -> UnpatchDecoder:
        if strides[-1] != int(strides[-1]) or self.width < 1:
            raise UserError(
                f"decoder unpatch needs a whole stride and a width from one, not {strides[-1]:g} and {self.width}",
                where="decoder",
                remedy="choose another decoder: fcn, unet, upernet",
            )
        return UnpatchDecoder(widths[-1], int(strides[-1]), self.width)


MEMBER = Unpatch
