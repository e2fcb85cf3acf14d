"""Hide the same places in every timestep, sensor and group (SatMAE's consistent masks)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from swath.core import Tokens
from swath.objectives.masks._plan import TARGET, VISIBLE, quota, uniform


@dataclass(frozen=True)
class Tube:
    """`ratio` of the cells of the finest token grid; a token belongs to the cell that holds its centre."""

    kind: ClassVar[str] = "tube"
    ratio: float = 0.75

    def states(self, place: Tensor, present: Tensor, tokens: Tokens, g: torch.Generator) -> Tensor:
        rows, cols = max(tokens.grids, key=lambda s: s[0] * s[1])
        sizes = torch.tensor(tokens.grids)[place[:, 0]]
        row = ((place[:, 3] + 0.5) / sizes[:, 0] * rows).long()
        col = ((place[:, 4] + 0.5) / sizes[:, 1] * cols).long()
        cell = row * cols + col
        there = cell[present].unique()
        hidden = there[uniform(len(there), g)][: quota(torch.ones(len(there)), self.ratio)]
        return torch.where(torch.isin(cell, hidden), TARGET, VISIBLE).to(torch.uint8)


MEMBER = Tube
