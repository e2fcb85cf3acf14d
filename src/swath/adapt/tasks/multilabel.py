"""Multilabel: any number of tags a chip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from swath.adapt.heads import Tags
from swath.adapt.losses import LOSSES, Loss
from swath.adapt.losses.bce import BinaryCrossEntropy
from swath.adapt.task import Context
from swath.core.batch import LabelKind


@dataclass(frozen=True)
class Multilabel:
    """`label` names the label when the data have several; `losses` are summed with their weights.

    `detail` channels of the input's own pixels, each through layers of its own and then their mean, stand beside the
    encoder's vector; left out, there are 32 of them, and none where a frozen encoder is read from its cached features.
    """

    kind: ClassVar[str] = "multilabel"
    takes: ClassVar[tuple[LabelKind, ...]] = ("tags",)
    decoder: ClassVar[str] = ""
    fusion: ClassVar[str] = "auto"
    label: str = ""
    losses: tuple[Annotated[Loss, LOSSES], ...] = (BinaryCrossEntropy(),)
    balanced: bool = False
    dropout: float = 0.0
    detail: int | None = None

    def build(self, context: Context) -> Tags:
        return Tags(context, self.losses, self.dropout, self.detail or 0)


MEMBER = Multilabel
