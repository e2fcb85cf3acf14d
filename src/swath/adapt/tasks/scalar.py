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
    """`label` names the label when the data have several; `losses` are summed with their weights."""

    kind: ClassVar[str] = "scalar"
    takes: ClassVar[tuple[LabelKind, ...]] = ("scalar",)
    decoder: ClassVar[str] = ""
    fusion: ClassVar[str] = "auto"
    label: str = ""
    losses: tuple[Annotated[Loss, LOSSES], ...] = (Huber(),)
    constraints: tuple[Constraint, ...] = ()

    def build(self, context: Context) -> Values:
        return Values(context, self.losses, ValueOptions(dense=False, constraints=self.constraints))


MEMBER = Scalar
