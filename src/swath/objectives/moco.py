"""Momentum contrast with seasonal views, version 2 (a queue) or 3 (the batch).

v3: L = 2 tau [CE(q1 K2^T / tau) + CE(q2 K1^T / tau)], keys from a moving average of the network, whose factor rises
from `momentum` to 1 by a cosine; the patch embedding may be frozen. https://arxiv.org/abs/2104.02057
v2: L = CE([q k+, q queue] / tau), a factor kept as it is. https://arxiv.org/abs/2003.04297
Views are two dates of a place, crops and turns (SSL4EO-S12, https://arxiv.org/abs/2211.07044).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swath.core import Batch, Step, UserError, generator, per_sample
from swath.objectives import Kit
from swath.objectives._objective import ObjectiveModule, follow, momentum, pooled_width
from swath.objectives.losses.contrast import gather, info_nce, info_nce_queue
from swath.objectives.predictors.mlp import mlp
from swath.objectives.views import Views


@dataclass(frozen=True)
class MoCo:
    """`dim` of the embedding, `hidden` of the heads. `queue` and a constant momentum of .999 belong to version 2."""

    kind: ClassVar[str] = "moco"
    version: Literal[2, 3] = 3
    views: Views = field(default_factory=Views)
    dim: int = 256
    hidden: int = 4096
    tau: float = 0.2
    momentum: float = 0.99
    queue: int = 65536
    freeze_embed: str = ""

    def build(self, kit: Kit) -> Momentum:
        return Momentum(self, kit)


class Momentum(ObjectiveModule):
    """The module of `MoCo`."""

    batch_coupled = True
    queue: Tensor
    at: Tensor

    def __init__(self, config: MoCo, kit: Kit) -> None:
        super().__init__(kit.encoder)
        self.config = config
        width = pooled_width(kit.encoder)
        if config.version == 3:
            self.projector: nn.Module = mlp((width, config.hidden, config.hidden, config.dim), last_norm=True)
            self.predictor: nn.Module = mlp((config.dim, config.hidden, config.dim), last_norm=True)
        else:
            self.projector = mlp((width, config.hidden, config.dim), norm="none")
            self.predictor = nn.Identity()
            start = torch.randn(config.queue, config.dim, generator=generator("moco-queue", config.queue))
            self.register_buffer("queue", F.normalize(start, dim=1))
            self.register_buffer("at", torch.zeros((), dtype=torch.int64))
        if config.freeze_embed:
            if not hasattr(kit.encoder, config.freeze_embed):
                raise UserError(f"the encoder has no part '{config.freeze_embed}'", where="objective.freeze_embed")
            getattr(kit.encoder, config.freeze_embed).requires_grad_(False)
        self.slow = copy.deepcopy(nn.ModuleList([kit.encoder, self.projector])).requires_grad_(False)
        self.fresh: list[Tensor] = []

    def keys(self, batch: Batch) -> Tensor:
        """Embeddings by the moving average."""
        encoder: Any = self.slow[0]
        with torch.no_grad():
            return F.normalize(self.slow[1](encoder(batch).pooled).float(), dim=1)

    def queries(self, batch: Batch) -> Tensor:
        encoder: Any = self.encoder
        return self.predictor(self.projector(encoder(batch).pooled))

    def forward(self, batch: Batch, generator: torch.Generator) -> Step:
        a, b = self.config.views.make(batch, per_sample(generator, batch.where.key, "view"))
        tau = self.config.tau
        if self.config.version == 2:
            q, k = self.queries(a), self.keys(b)
            self.fresh = [gather(k)[0].detach()]
            return Step(info_nce_queue(q, k, self.queue, tau), {}, len(batch))
        q1, q2 = self.queries(a), self.queries(b)
        k1, start = gather(self.keys(a))
        k2, _ = gather(self.keys(b))
        loss = 2 * tau * (info_nce(q1, k2, tau, start) + info_nce(q2, k1, tau, start))
        with torch.no_grad():
            hit = (F.normalize(q1.float(), dim=1) @ k2.T).argmax(1) == torch.arange(len(q1), device=q1.device) + start
        return Step(loss, {"top1": hit.float().mean()}, len(batch))

    @torch.no_grad()
    def after_step(self, step: int, total: int) -> None:
        c = self.config
        m = momentum(c.momentum, 1.0, step, total) if c.version == 3 else c.momentum
        follow(self.slow, nn.ModuleList([self.encoder, self.projector]), m)
        for rows in self.fresh:
            spots = (self.at + torch.arange(len(rows), device=rows.device)) % c.queue
            self.queue[spots] = rows[: c.queue]
            self.at.add_(len(rows)).remainder_(c.queue)
        self.fresh = []


MEMBER = MoCo
