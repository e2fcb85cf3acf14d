"""Partial: the last `blocks` blocks and what follows them, and all norms when `norms`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from swath.adapt import sites
from swath.core.errors import UserError


@dataclass(frozen=True)
class Partial:
    """The end of the trunk learns."""

    kind: ClassVar[str] = "partial"
    on: ClassVar[tuple[str, ...]] = ("vit", "swin", "resnet")
    exact: ClassVar[bool] = True
    blocks: int = 2
    norms: bool = True

    def apply(self, encoder: nn.Module) -> nn.Module:
        found = sites.blocks(encoder)
        if self.blocks > len(found) or (self.blocks < 1 and not self.norms):
            raise UserError(f"{self.blocks} blocks of {len(found)} cannot be tuned", where="tuning.blocks")
        sites.freeze(encoder)
        for _, block in found[len(found) - self.blocks :]:
            block.requires_grad_(True)
        for m in encoder.modules():
            if self.norms and isinstance(m, sites.NORMS):
                m.requires_grad_(True)
        return encoder

    def merge(self, encoder: nn.Module) -> nn.Module:
        return encoder


MEMBER = Partial
