"""Parallel adapters (He et al. 2022, arXiv:2110.04366): f(x) + scale up(gelu(down(x))) beside attention and MLP.

The up-projection starts at zero, so a fresh adapter changes nothing. Not linear: it cannot be folded into weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from swath.adapt import sites
from swath.adapt.tuning._wrap import Bottleneck, width_of
from swath.core.config import bounded


@dataclass(frozen=True)
class Parallel:
    """`width` of the bottleneck."""

    kind: ClassVar[str] = "adapter-parallel"
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
            # a flat block has no parts to stand beside: the adapter then stands beside the whole block
            for part in [f"{name}.{p}" for p in sites.sublayers(block)] if not sites.flat(block) else [name]:
                inner = encoder.get_submodule(part)
                sites.replace(encoder, part, Bottleneck(inner, width_of(inner), self.width, self.scale, "input"))
        return encoder

    def merge(self, encoder: nn.Module) -> nn.Module:
        return encoder


MEMBER = Parallel
