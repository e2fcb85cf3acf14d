"""Prefix tuning (Li and Liang 2021, arXiv:2101.00190): learned keys and values before those of every attention.

Works through scaled_dot_product_attention, whatever the encoder calls its projections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from swath.adapt import sites
from swath.adapt.tuning._wrap import Prefixed, width_of
from swath.core.config import bounded


@dataclass(frozen=True)
class Prefix:
    """`length` of the prefix in every block."""

    kind: ClassVar[str] = "prefix"
    on: ClassVar[tuple[str, ...]] = ("vit",)
    exact: ClassVar[bool] = False
    length: int = 8

    def __post_init__(self) -> None:
        bounded(self, f"tuning: {self.kind}", {"length": (1, 1_000_000)})

    def apply(self, encoder: nn.Module) -> nn.Module:
        sites.need(encoder, self.kind, self.on)
        sites.freeze(encoder)
        for name, block in sites.blocks(encoder):
            part = name if sites.flat(block) else f"{name}.{sites.child(block, sites.ATTENTION)}"
            inner = encoder.get_submodule(part)
            sites.replace(encoder, part, Prefixed(inner, width_of(inner), self.length))
        return encoder

    def merge(self, encoder: nn.Module) -> nn.Module:
        return encoder


MEMBER = Prefix
