"""Hybrid: several tunings at once, applied in order; a parameter that any of them lets move, moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import nn

from swath.adapt.tuning import TUNINGS, TuningConfig
from swath.core.errors import UserError


@dataclass(frozen=True)
class Hybrid:
    """For example LoRA with BitFit: `parts: [lora, bitfit]`."""

    kind: ClassVar[str] = "hybrid"
    on: ClassVar[tuple[str, ...]] = ("vit", "swin", "resnet")
    exact: ClassVar[bool] = True
    parts: tuple[Annotated[TuningConfig, TUNINGS], ...] = ()

    def apply(self, encoder: nn.Module) -> nn.Module:
        if len(self.parts) < 2:
            raise UserError("a hybrid has two parts at least", where="tuning.parts")
        free: set[int] = set()
        for part in self.parts:
            encoder = part.apply(encoder)
            free |= {id(p) for p in encoder.parameters() if p.requires_grad}
        for p in encoder.parameters():
            p.requires_grad_(id(p) in free)
        return encoder

    def merge(self, encoder: nn.Module) -> nn.Module:
        for part in reversed(self.parts):
            encoder = part.merge(encoder)
        return encoder


MEMBER = Hybrid
