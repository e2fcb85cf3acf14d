"""Segment: one class a pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from swath.adapt.heads import Classes
from swath.adapt.losses import LOSSES, Loss
from swath.adapt.losses.ce import CrossEntropy
from swath.adapt.task import Context
from swath.core.batch import LabelKind


@dataclass(frozen=True)
class Segment:
    """`label` names the label when the data have several; `losses` are summed with their weights."""

    kind: ClassVar[str] = "segment"
    takes: ClassVar[tuple[LabelKind, ...]] = ("mask",)
    decoder: ClassVar[str] = "unet"
    fusion: ClassVar[str] = "auto"
    label: str = ""
    losses: tuple[Annotated[Loss, LOSSES], ...] = (CrossEntropy(),)
    balanced: bool = False
    dropout: float = 0.0

    def build(self, context: Context) -> Classes:
        return Classes(context, self.losses, True, self.dropout)


MEMBER = Segment
