"""Hide a share of all present tokens at random, jointly over sensors, groups, time and space (MAE, Prithvi)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from swath.core import Tokens
from swath.objectives.masks._plan import IGNORE, TARGET, VISIBLE, quota, uniform


@dataclass(frozen=True)
class Random:
    """`ratio` is hidden; of the hidden ones the share `predict` is to be predicted, the others are ignored."""

    kind: ClassVar[str] = "random"
    ratio: float = 0.75
    predict: float = 1.0

    def states(self, place: Tensor, present: Tensor, tokens: Tokens, g: torch.Generator) -> Tensor:
        state = torch.full((len(place),), VISIBLE, dtype=torch.uint8)
        hide = quota(present, self.ratio)
        order = present.nonzero()[:, 0]
        order = order[uniform(len(order), g)][:hide]
        state[order] = IGNORE
        state[order[: max(1, round(hide * self.predict))]] = TARGET
        return state


MEMBER = Random
