"""DINO: a student's view of a crop must say what a slow teacher says of another, over K prototypes.

L = mean over pairs of -sum P_t log P_s, P_t = softmax((g_t - c) / .04), P_s = softmax(g_s / .1); the centre c follows
the teacher's mean, so that no prototype wins everywhere. https://arxiv.org/abs/2104.14294
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swath.core import Batch, Step, per_sample
from swath.objectives import Kit
from swath.objectives._objective import ObjectiveModule, follow, momentum, pooled_width
from swath.objectives.losses.contrast import exact, gather
from swath.objectives.predictors.mlp import mlp
from swath.objectives.views import Views


@dataclass(frozen=True)
class Dino:
    """Two global views and `local` small ones; the first two dates, then each local view one of them again.
    The last layer stands still for the first `freeze_last` of the run."""

    kind: ClassVar[str] = "dino"
    views: Views = field(default_factory=lambda: Views(crop=(0.4, 1.0)))
    small: Views = field(default_factory=lambda: Views(crop=(0.05, 0.4), shrink=0.5))
    local: int = 8
    prototypes: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    tau_teacher: float = 0.04
    tau: float = 0.1
    centre: float = 0.9
    ema: tuple[float, float] = (0.996, 1.0)
    freeze_last: float = 0.01

    def build(self, kit: Kit) -> Prototypes:
        return Prototypes(self, kit)


class Head(nn.Module):
    """MLP, unit length, then cosine to prototypes."""

    def __init__(self, width: int, config: Dino) -> None:
        super().__init__()
        self.net = mlp((width, config.hidden, config.hidden, config.bottleneck), norm="none")
        self.last = nn.Parameter(torch.randn(config.prototypes, config.bottleneck) * 0.02)

    def forward(self, x: Tensor, still: bool = False) -> Tensor:
        z = self.net(x)
        with exact(z):
            last = self.last.detach() if still else self.last
            return F.normalize(z.float(), dim=1) @ F.normalize(last, dim=1).T


class Prototypes(ObjectiveModule):
    """The module of `Dino`. Its centre joins the samples of a batch, a step late, so parts of a batch are refused."""

    batch_coupled = True
    centre: Tensor
    progress: Tensor

    def __init__(self, config: Dino, kit: Kit) -> None:
        super().__init__(kit.encoder)
        self.config = config
        self.head = Head(pooled_width(kit.encoder), config)
        self.slow = copy.deepcopy(nn.ModuleList([kit.encoder, self.head])).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(config.prototypes))
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))
        self.fresh: Tensor | None = None

    def forward(self, batch: Batch, generator: torch.Generator) -> Step:
        c, run = self.config, self.encoder
        encoder: Any = run
        slow: Any = self.slow[0]
        draws = per_sample(generator, batch.where.key, "view")
        dates = replace(c.views, crop=(1.0, 1.0), turn=False, gain=0, haze=0).make(batch, draws, 2)
        wide = [replace(c.views, season=False).change(d, draws) for d in dates]
        near = [replace(c.small, season=False).change(dates[i % 2], draws) for i in range(c.local)]
        with torch.no_grad():
            taught = [self.slow[1](slow(v).pooled) for v in wide]
            probs = [((t - self.centre) / c.tau_teacher).softmax(1) for t in taught]
            self.fresh = gather(torch.stack(taught).mean(0))[0].mean(0)
        still = float(self.progress) < c.freeze_last
        said = [(self.head(encoder(v).pooled, still) / c.tau).log_softmax(1) for v in (*wide, *near)]
        pairs = [-(p * s).sum(1).mean() for i, p in enumerate(probs) for j, s in enumerate(said) if i != j]
        return Step(torch.stack(pairs).mean(), {}, len(batch))

    @torch.no_grad()
    def after_step(self, step: int, total: int) -> None:
        m = momentum(*self.config.ema, step, total)
        follow(self.slow, nn.ModuleList([self.encoder, self.head]), m)
        if self.fresh is not None:
            self.centre.lerp_(self.fresh, 1 - self.config.centre)
        self.progress.fill_((step + 1) / max(1, total))


MEMBER = Dino
