"""Adapters in series (Houlsby et al. 2019, arXiv:1902.00751): h + up(gelu(down(h))) after attention and after MLP.

The up-projection starts at zero, so a fresh adapter changes nothing. Not linear: it cannot be folded into weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from swath.adapt import sites
from swath.adapt.tuning._wrap import Bottleneck, width_after
from swath.core.config import bounded


@dataclass(frozen=True)
class Houlsby:
    """`width` of the bottleneck."""

    kind: ClassVar[str] = "adapter-houlsby"
    on: ClassVar[tuple[str, ...]] = ("vit", "swin")
    exact: ClassVar[bool] = False
    width: int = 16
    scale: float = 1.0

    def __post_init__(self) -> None:
        bounded(self, f"tuning: {self.kind}", {"width": (1, 1_000_000)})

    def apply(self, encoder: nn.Module) -> nn.Module:
        sites.need(encoder, self.kind, self.on)
        sites.freeze(encoder)
        for name, block in sites.blocks(encoder):
            for part in sites.sublayers(block):
                inner = block.get_submodule(part)
                wide = width_after(inner)
                sites.replace(encoder, f"{name}.{part}", Bottleneck(inner, wide, self.width, self.scale, "output"))
        return encoder

    def merge(self, encoder: nn.Module) -> nn.Module:
        return encoder


MEMBER = Houlsby
