"""Change: what differs between two dates, pixel by pixel; the dates meet as difference, concatenation or attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from swath.adapt.heads import Classes
from swath.adapt.losses import LOSSES, Loss
from swath.adapt.losses.ce import CrossEntropy
from swath.adapt.task import Context
from swath.core.batch import LabelKind


@dataclass(frozen=True)
class Change:
    """`label` names the label when the data have several; `losses` are summed with their weights.

    `detail` channels of the input's own pixels refine the decoder's map: edges and spectra finer than a patch. Left
    out, there are 32 of them, and none where a frozen encoder is read from its cached features.

    A pixel that one of the dates hides is neither learnt from nor judged: nobody can say whether it changed.
    """

    kind: ClassVar[str] = "change"
    takes: ClassVar[tuple[LabelKind, ...]] = ("mask",)
    decoder: ClassVar[str] = "unet"
    fusion: ClassVar[str] = "concat"
    every_date: ClassVar[bool] = True
    label: str = ""
    losses: tuple[Annotated[Loss, LOSSES], ...] = (CrossEntropy(),)
    balanced: bool = True
    dropout: float = 0.0
    detail: int | None = None

    def build(self, context: Context) -> Classes:
        made = Classes(context, self.losses, True, self.dropout, self.detail or 0)
        made.every_date = self.every_date
        return made


MEMBER = Change
