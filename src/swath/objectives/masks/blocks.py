"""Hide rectangles of neighbouring cells until a share is reached (BEiT, data2vec) or aligned squares (SimMIM, GFM)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from swath.core import Tokens
from swath.objectives.masks._plan import TARGET, VISIBLE, uniform


@dataclass(frozen=True)
class Blocks:
    """`side` > 0: aligned squares of that many cells, ceil(ratio x count) of them. `side` 0: random rectangles of at
    least `smallest` cells with aspect 0.3 to 3.3 until exactly round(ratio x cells) are hidden."""

    kind: ClassVar[str] = "blocks"
    ratio: float = 0.6
    side: int = 0
    smallest: int = 16

    def states(self, place: Tensor, present: Tensor, tokens: Tokens, g: torch.Generator) -> Tensor:
        state = torch.full((len(place),), VISIBLE, dtype=torch.uint8)
        for s, (rows, cols) in enumerate(tokens.grids):
            here = place[:, 0] == s
            grid = self._squares(rows, cols, g) if self.side else self._rectangles(rows, cols, g)
            state[here] = torch.where(grid[place[here, 3], place[here, 4]], TARGET, VISIBLE).to(torch.uint8)
        if not bool((state[present] == VISIBLE).any()) and bool(present.any()):
            state[present.nonzero()[0, 0]] = VISIBLE
        return state

    def _squares(self, rows: int, cols: int, g: torch.Generator) -> Tensor:
        h, w = -(-rows // self.side), -(-cols // self.side)
        chosen = torch.zeros(h * w, dtype=torch.bool)
        chosen[uniform(h * w, g)[: math.ceil(h * w * self.ratio)]] = True
        return chosen.view(h, w).repeat_interleave(self.side, 0).repeat_interleave(self.side, 1)[:rows, :cols]

    def _rectangles(self, rows: int, cols: int, g: torch.Generator) -> Tensor:
        grid, want = torch.zeros(rows, cols, dtype=torch.bool), round(rows * cols * self.ratio)
        low = min(self.smallest, want)
        for _ in range(100):
            left = want - int(grid.sum())
            if left <= 0:
                break
            u = torch.rand(4, generator=g)
            area = low + float(u[0]) * max(0, left - low)
            aspect = math.exp(math.log(0.3) + float(u[1]) * (math.log(1 / 0.3) - math.log(0.3)))
            h = min(rows, max(1, round(math.sqrt(area * aspect))))
            w = min(cols, max(1, round(math.sqrt(area / aspect))))
            y, x = int(float(u[2]) * (rows - h + 1)), int(float(u[3]) * (cols - w + 1))
            grid[y : y + h, x : x + w] = True
        flat = grid.flatten()
        extra = int(flat.sum()) - want
        pool = flat.nonzero()[:, 0] if extra > 0 else (~flat).nonzero()[:, 0]
        flat[pool[uniform(len(pool), g)][: abs(extra)]] = extra < 0
        return flat.view(rows, cols)


MEMBER = Blocks
