"""data2vec: predict what a moving average of the network makes of the whole sample, where the student saw a hole.

target = LN(mean over the last K blocks of LN(h_l)), student with mask tokens in the encoder, SmoothL1 with beta 2 on
hidden tokens, factor .999 -> .9998. https://arxiv.org/abs/2202.03555
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swath.core import Batch, Step
from swath.objectives import Kit
from swath.objectives._objective import (
    ObjectiveModule,
    encode,
    follow,
    frozen_eval,
    masked,
    momentum,
    tapped,
    token_width,
    tokenize,
)
from swath.objectives.losses.pixels import difference
from swath.objectives.masks import MASKS, Mask
from swath.objectives.masks.blocks import Blocks
from swath.objectives.predictors import PlaceCode


@dataclass(frozen=True)
class Data2Vec:
    """`top` blocks are averaged for the target."""

    kind: ClassVar[str] = "data2vec"
    mask: Annotated[Mask, MASKS] = field(default_factory=Blocks)
    top: int = 6
    beta: float = 2.0
    ema: tuple[float, float] = (0.999, 0.9998)

    def build(self, kit: Kit) -> SelfTaught:
        return SelfTaught(self, kit)


class SelfTaught(ObjectiveModule):
    """The module of `Data2Vec`."""

    def __init__(self, config: Data2Vec, kit: Kit) -> None:
        super().__init__(kit.encoder)
        self.config = config
        with torch.no_grad():
            tokens = tokenize(kit.encoder, kit.example)
        width = token_width(kit.encoder)
        self.mask_token = nn.Parameter(torch.randn(tokens.x.shape[2]) * 0.02)
        self.place, self.out = PlaceCode(tokens.x.shape[2]), nn.Linear(width, width)
        self.slow = frozen_eval(copy.deepcopy(kit.encoder))

    def train(self, mode: bool = True) -> SelfTaught:
        super().train(mode)
        self.slow.eval()
        return self

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """(B, N, D) of the whole sample."""
        states = tapped(self.slow, tokenize(self.slow, batch))[1:][-self.config.top :]
        mean = torch.stack([F.layer_norm(h.float(), h.shape[-1:]) for h in states]).mean(0)
        return F.layer_norm(mean, mean.shape[-1:])

    def forward(self, batch: Batch, generator: torch.Generator) -> Step:
        tokens, plan = masked(self.encoder, self.config.mask, batch, generator)
        blank = (self.mask_token + self.place(batch, tokens)).to(tokens.x.dtype)
        holed = replace(tokens, x=torch.where(plan.target[..., None], blank, tokens.x))
        pred = self.out(encode(self.encoder, holed)).float()
        each = difference(pred, self.targets(batch), "huber", self.config.beta).mean(-1)
        hidden = plan.target.float()
        count = hidden.sum()
        return Step((each * hidden).sum() / count.clamp_min(1), {}, float(count))

    def after_step(self, step: int, total: int) -> None:
        follow(self.slow, self.encoder, momentum(*self.config.ema, step, total))


MEMBER = Data2Vec
