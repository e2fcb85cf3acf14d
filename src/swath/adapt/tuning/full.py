"""Full: every weight moves; `loop.layer_decay` slows the early blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn


@dataclass(frozen=True)
class Full:
    """The whole encoder learns."""

    kind: ClassVar[str] = "full"
    on: ClassVar[tuple[str, ...]] = ("vit", "swin", "resnet")
    exact: ClassVar[bool] = True

    def apply(self, encoder: nn.Module) -> nn.Module:
        return encoder.requires_grad_(True)

    def merge(self, encoder: nn.Module) -> nn.Module:
        return encoder


MEMBER = Full
