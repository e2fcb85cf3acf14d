"""Share a budget of visible tokens among sensors by a Dirichlet draw (MultiMAE).

lambda ~ Dirichlet(alpha); sensor m keeps round(lambda_m V) random tokens; a global order settles the rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from swath.core import Tokens
from swath.objectives.masks._plan import TARGET, VISIBLE, quota


@dataclass(frozen=True)
class Dirichlet:
    """`visible` tokens in all when given, else a share 1 - `ratio` of those present."""

    kind: ClassVar[str] = "dirichlet"
    visible: int | None = None
    ratio: float = 5 / 6
    alpha: float = 1.0

    def states(self, place: Tensor, present: Tensor, tokens: Tokens, g: torch.Generator) -> Tensor:
        n = int(present.sum())
        budget = min(self.visible, n - 1) if self.visible else n - quota(present, self.ratio)
        sensors = place[present, 0].unique()
        # torch.distributions takes no generator: a Dirichlet draw is gamma draws over their sum.
        shares = torch.tensor([_gamma(self.alpha, g) for _ in sensors])
        shares = shares / shares.sum()
        noise = torch.rand(len(place), generator=g)
        wanted = torch.zeros(len(place), dtype=torch.bool)
        for s, share in zip(sensors, shares, strict=True):
            mine = (present & (place[:, 0] == s)).nonzero()[:, 0]
            wanted[mine[noise[mine].argsort()][: round(float(share) * budget)]] = True
        rank = torch.where(present, noise + (~wanted).float(), torch.full_like(noise, 9.0)).argsort()
        state = torch.full((len(place),), TARGET, dtype=torch.uint8)
        state[rank[:budget]] = VISIBLE
        return state


def _gamma(alpha: float, g: torch.Generator) -> float:
    """Marsaglia and Tsang's gamma draw (scale 1), from this generator."""
    boost = 1.0
    if alpha < 1:
        boost = float(torch.rand((), generator=g).clamp_min(1e-12)) ** (1 / alpha)
        alpha += 1
    d = alpha - 1 / 3
    c = (9 * d) ** -0.5
    while True:
        z = float(torch.randn((), generator=g))
        v = (1 + c * z) ** 3
        u = float(torch.rand((), generator=g).clamp_min(1e-12))
        if v > 0 and torch.tensor(u).log() < 0.5 * z * z + d - d * v + d * torch.tensor(v).log():
            return boost * d * v


MEMBER = Dirichlet
