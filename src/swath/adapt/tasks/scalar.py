"""Scalar: one value a chip or a series, such as yield."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from swath.adapt.constraints import Constraint
from swath.adapt.heads import ValueOptions, Values
from swath.adapt.losses import LOSSES, Loss
from swath.adapt.losses.huber import Huber
from swath.adapt.task import Context
from swath.core.batch import LabelKind


@dataclass(frozen=True)
class Scalar:
    """`label` names the label when the data have several; `losses` are summed with their weights.

    `detail` channels of the input's own pixels, each through layers of its own and then their mean, stand beside the
    encoder's vector; left out, there are 32 of them, and none where a frozen encoder is read from its cached features.
    """

    kind: ClassVar[str] = "scalar"
    takes: ClassVar[tuple[LabelKind, ...]] = ("scalar",)
    decoder: ClassVar[str] = ""
    fusion: ClassVar[str] = "auto"
    label: str = ""
    losses: tuple[Annotated[Loss, LOSSES], ...] = (Huber(),)
    constraints: tuple[Constraint, ...] = ()
    detail: int | None = None

    def build(self, context: Context) -> Values:
        return Values(context, self.losses, ValueOptions(False, self.constraints, detail=self.detail or 0))


MEMBER = Scalar
