"""Series: one class a chip from its dates, fused by attention over time (L-TAE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from swath.adapt.heads import Classes
from swath.adapt.losses import LOSSES, Loss
from swath.adapt.losses.ce import CrossEntropy
from swath.adapt.task import Context
from swath.core.batch import LabelKind


@dataclass(frozen=True)
class Series:
    """`label` names the label when the data have several; `losses` are summed with their weights.

    `detail` channels of the input's own pixels, each through layers of its own and then their mean, stand beside the
    encoder's vector; left out, there are 32 of them, and none where a frozen encoder is read from its cached features.
    """

    kind: ClassVar[str] = "series"
    takes: ClassVar[tuple[LabelKind, ...]] = ("class",)
    decoder: ClassVar[str] = ""
    fusion: ClassVar[str] = "ltae"
    label: str = ""
    losses: tuple[Annotated[Loss, LOSSES], ...] = (CrossEntropy(),)
    balanced: bool = False
    dropout: float = 0.0
    detail: int | None = None

    def build(self, context: Context) -> Classes:
        return Classes(context, self.losses, False, self.dropout, self.detail or 0)


MEMBER = Series
