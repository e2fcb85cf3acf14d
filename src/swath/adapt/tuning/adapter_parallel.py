"""Parallel adapters (He et al. 2022, arXiv:2110.04366): f(x) + scale up(gelu(down(x))) beside attention and MLP.

The up-projection starts at zero, so a fresh adapter changes nothing. Not linear: it cannot be folded into weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from swath.adapt import sites
from swath.adapt.tuning._wrap import Bottleneck, width_of


@dataclass(frozen=True)
class Parallel:
    """`width` of the bottleneck."""

    kind: ClassVar[str] = "adapter-parallel"
    on: ClassVar[tuple[str, ...]] = ("vit", "swin")
    exact: ClassVar[bool] = False
    width: int = 16
    scale: float = 1.0

    def apply(self, encoder: nn.Module) -> nn.Module:
        sites.need(encoder, self.kind, self.on)
        sites.freeze(encoder)
        for name, block in sites.blocks(encoder):
            for part in (sites.child(block, sites.ATTENTION), sites.child(block, sites.MLP)):
                if part is not None:
                    inner = block.get_submodule(part)
                    wide = width_of(inner)
                    sites.replace(encoder, f"{name}.{part}", Bottleneck(inner, wide, self.width, self.scale, "input"))
        return encoder

    def merge(self, encoder: nn.Module) -> nn.Module:
        return encoder


MEMBER = Parallel
