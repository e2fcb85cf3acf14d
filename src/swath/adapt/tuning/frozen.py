"""Frozen: the encoder stands still; decoder and head learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from swath.adapt import sites


@dataclass(frozen=True)
class Frozen:
    """Features can be cached: the second epoch costs the head only."""

    kind: ClassVar[str] = "frozen"
    on: ClassVar[tuple[str, ...]] = ("vit", "swin", "resnet")
    exact: ClassVar[bool] = True

    def apply(self, encoder: nn.Module) -> nn.Module:
        return sites.freeze(encoder)

    def merge(self, encoder: nn.Module) -> nn.Module:
        return encoder


MEMBER = Frozen
