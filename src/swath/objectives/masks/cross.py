"""Hide tokens, then give whole sensors and groups only to one side (OlmoEarth's random mask across modalities).

Of all tokens a share is encoded and a share is to be predicted. Then every (sensor, group) is drawn to be encoded,
predicted, or both; `predict_only` sensors (maps) are never encoded. A token on the wrong side is ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from swath.core import Tokens
from swath.objectives.masks._plan import IGNORE, TARGET, VISIBLE, uniform


@dataclass(frozen=True)
class Cross:
    """`encode` and `predict` are shares of the present tokens; they do not overlap."""

    kind: ClassVar[str] = "cross"
    encode: float = 0.5
    predict: float = 0.5
    predict_only: tuple[str, ...] = ()

    def states(self, place: Tensor, present: Tensor, tokens: Tokens, g: torch.Generator) -> Tensor:
        state = torch.full((len(place),), IGNORE, dtype=torch.uint8)
        order = present.nonzero()[:, 0]
        order = order[uniform(len(order), g)]
        a = max(1, round(len(order) * self.encode))
        state[order[:a]] = VISIBLE
        state[order[a : a + max(1, round(len(order) * self.predict))]] = TARGET
        part = place[:, 0] * 4096 + place[:, 1]
        maps = torch.tensor([name in self.predict_only for name in tokens.sensors])
        there = part[present].unique()
        free = [int(p) for p in there if not bool(maps[int(p) // 4096])]
        sides = self._sides(len(free), g)
        for p in there:
            mine = part == p
            encoded, predicted = sides[free.index(int(p))] if int(p) in free else (False, True)
            if not encoded:
                state[mine & (state == VISIBLE)] = TARGET if bool(maps[int(p) // 4096]) else IGNORE
            if not predicted:
                state[mine & (state == TARGET)] = IGNORE
        if not bool((state[present] == VISIBLE).any()):
            state[order[:a]] = VISIBLE
        if not bool((state[present] == TARGET).any()) and len(order) > 1:
            hidden = order[a:] if len(order) > a else order[-1:]
            state[hidden] = TARGET
        return state

    def _sides(self, n: int, g: torch.Generator) -> list[tuple[bool, bool]]:
        """For each group whether it is encoded and whether it is predicted; at least one is, on each side."""
        if n <= 1:
            return [(True, True)] * n
        encoded, predicted = torch.rand(2, n, generator=g) < 0.5
        at = torch.randint(n, (2,), generator=g)
        encoded[at[0]] = True
        predicted[at[1]] = True
        both = ~(encoded | predicted)
        return [(bool(e or b), bool(p or b)) for e, p, b in zip(encoded, predicted, both, strict=True)]


MEMBER = Cross
