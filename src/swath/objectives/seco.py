"""SeCo: three embedding spaces that are blind to season and artefacts, to artefacts only, and to season only.

q = x(t0), k0 = aug(x(t1)), k1 = x(t2), k2 = aug(x(t0)); three different dates, drawn without replacement.
Space 0: positive k0, negatives its queue. Space 1 (season kept out): positive k1, negatives its queue, k0 and k2.
Space 2: positive k2, negatives its queue, k0 and k1. L = the sum of three InfoNCE. https://arxiv.org/abs/2103.16607
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swath.core import Batch, Step, SwathWarning, generator, per_sample
from swath.objectives import Kit
from swath.objectives._objective import ObjectiveModule, follow, pooled_width
from swath.objectives.losses.contrast import gather, info_nce_queue
from swath.objectives.predictors.mlp import mlp
from swath.objectives.views import Views, pick_dates
from swath.objectives.views.views import placeless


@dataclass(frozen=True)
class SeCo:
    """`views` is the artificial augmentation; its dates are not used."""

    kind: ClassVar[str] = "seco"
    views: Views = field(default_factory=lambda: Views(season=False))
    dim: int = 128
    queue: int = 16384
    tau: float = 0.07
    momentum: float = 0.999

    def build(self, kit: Kit) -> Spaces:
        return Spaces(self, kit)


class Spaces(ObjectiveModule):
    """The module of `SeCo`; negatives come from queues, so a batch may be cut into parts only when told so."""

    batch_coupled = True
    queues: Tensor
    at: Tensor

    def __init__(self, config: SeCo, kit: Kit) -> None:
        super().__init__(kit.encoder)
        self.config = config
        dates = max(layer.shape[1] for layer in kit.example.layers.values())
        if dates < 3:
            warnings.warn(f"SeCo compares three dates of a place and the first sample has {dates}: the views of one "
                          "date differ in their artefacts alone", SwathWarning, stacklevel=4)  # fmt: skip
        width = pooled_width(kit.encoder)
        self.heads = nn.ModuleList(mlp((width, width, config.dim), norm="none") for _ in range(3))
        self.slow = copy.deepcopy(nn.ModuleList([kit.encoder, *self.heads])).requires_grad_(False)
        start = torch.randn(3, config.queue, config.dim, generator=generator("seco-queues", config.queue))
        self.register_buffer("queues", F.normalize(start, dim=2))
        self.register_buffer("at", torch.zeros((), dtype=torch.int64))
        self.fresh: Tensor | None = None

    def forward(self, batch: Batch, generator: torch.Generator) -> Step:
        draws = per_sample(generator, batch.where.key, "view")
        t0, t1, t2 = pick_dates(replace(batch, where=placeless(batch.where)), draws, 3)
        looks = (self.config.views.change(t1, draws), t2, self.config.views.change(t0, draws))
        encoder: Any = self.encoder
        slow: Any = self.slow[0]
        z = encoder(t0).pooled
        with torch.no_grad():
            deep = [slow(v).pooled for v in looks]
            keys = [[F.normalize(self.slow[1 + s](d).float(), dim=1) for d in deep] for s in range(3)]
            self.fresh = torch.stack([gather(keys[s][s])[0] for s in range(3)])
        losses: list[Tensor] = []
        for s in range(3):
            queue = self.queues[s].expand(len(batch), -1, -1)
            others = [] if s == 0 else [keys[s][i] for i in range(3) if i != s]
            negatives = torch.cat([queue, *(o[:, None] for o in others)], 1)
            losses.append(info_nce_queue(self.heads[s](z), keys[s][s], negatives, self.config.tau))
        terms: dict[str, Tensor] = {"both": losses[0], "season": losses[1], "artefact": losses[2]}
        return Step(torch.stack(losses).sum(), terms, len(batch))

    @torch.no_grad()
    def after_step(self, step: int, total: int) -> None:
        follow(self.slow, nn.ModuleList([self.encoder, *self.heads]), self.config.momentum)
        if self.fresh is not None:
            n = self.fresh.shape[1]
            spots = (self.at + torch.arange(n, device=self.fresh.device)) % self.config.queue
            self.queues[:, spots] = self.fresh
            self.at.add_(n).remainder_(self.config.queue)
            self.fresh = None


MEMBER = SeCo
