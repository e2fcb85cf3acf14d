"""Masks: which tokens an objective hides. A mask gives every token one of four states; see `_plan`."""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor

from swath.core import Family, Tokens
from swath.objectives.masks._plan import IGNORE, MISSING, TARGET, VISIBLE, Plan, draw, quota, uniform


class Mask(Protocol):
    """A frozen dataclass; `states` gives uint8 (N,) for one sample from its own generator.

    `place` is (N, 5): sensor, group, timestep, row, column; `present` says which tokens hold data.
    """

    kind: ClassVar[str]

    def states(self, place: Tensor, present: Tensor, tokens: Tokens, g: torch.Generator) -> Tensor: ...


MASKS: Family[type[Mask]] = Family("mask", "swath.objectives.masks")

__all__ = ["IGNORE", "MASKS", "MISSING", "TARGET", "VISIBLE", "Mask", "Plan", "draw", "quota", "uniform"]
