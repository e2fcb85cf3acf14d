"""Super-resolution: a finer image of the same bands; the answer is the input, enlarged, plus what the model adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from swath.adapt.heads import ValueOptions, Values
from swath.adapt.losses import LOSSES, Loss
from swath.adapt.losses.huber import Huber
from swath.adapt.task import Context
from swath.core.batch import LabelKind


@dataclass(frozen=True)
class SuperRes:
    """`label` is an image of a finer grid; `residual` starts from the bicubic enlargement of the layer it shows."""

    kind: ClassVar[str] = "superres"
    takes: ClassVar[tuple[LabelKind, ...]] = ("image",)
    decoder: ClassVar[str] = "progressive"
    fusion: ClassVar[str] = "auto"
    label: str = ""
    losses: tuple[Annotated[Loss, LOSSES], ...] = (Huber(),)
    residual: bool = True

    def build(self, context: Context) -> Values:
        return Values(context, self.losses, ValueOptions(residual=self.residual))


MEMBER = SuperRes
