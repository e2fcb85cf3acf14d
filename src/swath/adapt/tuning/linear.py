"""Linear probe: the encoder stands still and the decoder is the parameter-free one; a linear head learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from swath.adapt import sites


@dataclass(frozen=True)
class Linear:
    """For dense tasks a 1 x 1 convolution over the concatenated maps."""

    kind: ClassVar[str] = "linear"
    on: ClassVar[tuple[str, ...]] = ("vit", "swin", "resnet")
    exact: ClassVar[bool] = True

    def apply(self, encoder: nn.Module) -> nn.Module:
        return sites.freeze(encoder)

    def merge(self, encoder: nn.Module) -> nn.Module:
        return encoder


MEMBER = Linear
