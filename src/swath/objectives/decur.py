"""DeCUR: two sensors share some dimensions of an embedding and keep others to themselves.

C = BN(z)^T BN(z') / N over all ranks. Within a sensor (two augmentations): sum (C_ii - 1)^2 + lam sum C_ij^2. Between
sensors the first `common` dimensions should agree (diagonal 1), the others not (diagonal 0):
L = L_1 + L_2 + (L_common + L_unique) / 2. https://arxiv.org/abs/2309.05300

Each sensor has its own projector; the public code builds both from the same layers (`tie` gives that).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from swath.core import Batch, Step, UserError, per_sample
from swath.objectives import Kit
from swath.objectives._objective import ObjectiveModule, pooled_width
from swath.objectives.losses.contrast import exact, gather
from swath.objectives.predictors.mlp import mlp
from swath.objectives.views import Views
from swath.objectives.views.views import only


@dataclass(frozen=True)
class DeCUR:
    """`common` of `dim` dimensions are shared. `sensors` names two where the data have more."""

    kind: ClassVar[str] = "decur"
    sensors: tuple[str, ...] = ()
    views: Views = field(default_factory=lambda: Views(season=False))
    dim: int = 8192
    common: int = 7168
    lam: float = 0.0051
    tie: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.common < self.dim:
            raise UserError(f"common is {self.common} of {self.dim}: both parts must exist", where="objective decur")

    def build(self, kit: Kit) -> Decoupled:
        return Decoupled(self, kit)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """(D, D) cross-correlation over all rows, each column standardised, in fp32."""
    with exact(a):
        a, b = (v.float() for v in (a, b))
        a, b = ((v - v.mean(0)) / (v.var(0, unbiased=False) + 1e-5).sqrt() for v in (a, b))
        return a.T @ b / len(a)


def redundancy(c: Tensor, diagonal: float, lam: float) -> Tensor:
    """sum (C_ii - diagonal)^2 + lam sum_{i != j} C_ij^2."""
    on = (c.diagonal() - diagonal).square().sum()
    return on + lam * (c.square().sum() - c.diagonal().square().sum())


class Decoupled(ObjectiveModule):
    """The module of `DeCUR`."""

    batch_coupled = True

    def __init__(self, config: DeCUR, kit: Kit) -> None:
        super().__init__(kit.encoder)
        self.config = config
        self.sensors = config.sensors or tuple(kit.example.layers)
        if len(self.sensors) != 2:
            raise UserError(f"DeCUR takes two sensors, not {list(self.sensors)}", where="objective.sensors")
        widths = (pooled_width(kit.encoder), config.dim, config.dim, config.dim)
        first = mlp(widths)
        self.projectors = nn.ModuleList([first, first if config.tie else mlp(widths)])

    def embed(self, batch: Batch, i: int) -> Tensor:
        """One sensor's embedding of all ranks' samples."""
        encoder: Any = self.encoder
        return gather(self.projectors[i](encoder(only(batch, [self.sensors[i]])).pooled))[0]

    def forward(self, batch: Batch, generator: torch.Generator) -> Step:
        c = self.config
        views = c.views.make(batch, per_sample(generator, batch.where.key, "view"), 2)
        z = [[self.embed(v, i) for v in views] for i in range(2)]
        own = [redundancy(correlation(a, b), 1.0, c.lam) for a, b in z]
        cross = correlation(z[0][0], z[1][0])
        k = c.common
        common, unique = redundancy(cross[:k, :k], 1.0, c.lam), redundancy(cross[k:, k:], 0.0, c.lam)
        terms = {"first": own[0], "second": own[1], "common": common, "unique": unique}
        return Step(own[0] + own[1] + (common + unique) / 2, terms, len(batch))


MEMBER = DeCUR
