"""Self-supervised objectives, one per file. An objective names its parts: views, mask, target, predictor, loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from swath.core import Family

if TYPE_CHECKING:
    from torch import nn

    from swath.core import Batch
    from swath.objectives._objective import ObjectiveModule


@dataclass(frozen=True)
class Kit:
    """What an objective is built around: the encoder, one sample as an example of the data, and a teacher or None."""

    encoder: nn.Module
    example: Batch
    teacher: nn.Module | None = None


class ObjectiveConfig(Protocol):
    """A frozen dataclass; `build` makes the module that meets `core.contracts.Objective`."""

    kind: ClassVar[str]

    def build(self, kit: Kit) -> ObjectiveModule: ...


OBJECTIVES: Family[type[ObjectiveConfig]] = Family("objective", "swath.objectives")

__all__ = ["OBJECTIVES", "Kit", "ObjectiveConfig"]
