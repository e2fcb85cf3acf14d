"""Visual prompts (Jia et al. 2022, arXiv:2203.12119): learned tokens before the patches, in the first or every block.

The prompts are stripped behind every block (shallow ones are handed to the next), so pyramid taps see patches only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from swath.adapt import sites
from swath.adapt.tuning._wrap import Prompted, width_of
from swath.core.config import bounded


class _Hand:
    """Carries the prompts from one block to the next within a forward."""

    def __init__(self) -> None:
        self.held: Tensor | None = None

    def __call__(self, new: Tensor | None) -> Tensor | None:
        if new is None:
            return self.held
        self.held = new
        return None

    def __deepcopy__(self, memo: dict[int, object]) -> _Hand:
        return memo.setdefault(id(self), _Hand())  # type: ignore[return-value]


@dataclass(frozen=True)
class VPT:
    """`length` prompts; `deep` gives every block its own."""

    kind: ClassVar[str] = "vpt"
    on: ClassVar[tuple[str, ...]] = ("vit",)
    exact: ClassVar[bool] = False
    length: int = 8
    deep: bool = True

    def __post_init__(self) -> None:
        bounded(self, f"tuning: {self.kind}", {"length": (1, 1_000_000)})

    def apply(self, encoder: nn.Module) -> nn.Module:
        sites.need(encoder, self.kind, self.on)
        sites.freeze(encoder)
        hand = None if self.deep else _Hand()
        for i, (name, block) in enumerate(sites.blocks(encoder)):
            own = self.deep or i == 0
            fresh = nn.Parameter(torch.randn(1, self.length, width_of(block)) * 0.02) if own else None
            sites.replace(encoder, name, Prompted(block, fresh, hand))
        return encoder

    def merge(self, encoder: nn.Module) -> nn.Module:
        return encoder


MEMBER = VPT
