"""SimMIM: mask tokens replace hidden tokens inside the encoder, one linear head paints them. Nothing is dropped.

L = sum_i M_i mean_j |p_ij - t_ij| / sum M. https://arxiv.org/abs/2111.09886
Together with `distill` in a `sum` it is GFM's continual pretraining, https://arxiv.org/abs/2302.04476
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from swath.core import Batch, Step, Tokens
from swath.objectives import Kit
from swath.objectives._objective import ObjectiveModule, encode, masked, token_width, tokenize
from swath.objectives.losses.pixels import PixelLoss, masked_pixels, weigh
from swath.objectives.masks import MASKS, Mask, Plan
from swath.objectives.masks.blocks import Blocks
from swath.objectives.predictors import PixelHeads, PlaceCode
from swath.objectives.targets.pixels import Patches, patches, pictures_of


@dataclass(frozen=True)
class SimMIM:
    """The default mask hides aligned squares of 2 x 2 tokens, six tenths of them."""

    kind: ClassVar[str] = "simmim"
    mask: Annotated[Mask, MASKS] = field(default_factory=lambda: Blocks(0.6, side=2))
    loss: PixelLoss = "l1"
    norm_pix: bool = False

    def build(self, kit: Kit) -> Dense:
        return Dense(self, kit)


class Dense(ObjectiveModule):
    """The module of `SimMIM`."""

    def __init__(self, config: SimMIM, kit: Kit) -> None:
        super().__init__(kit.encoder)
        self.config = config
        with torch.no_grad():
            tokens = tokenize(kit.encoder, kit.example)
            example = patches(kit.example, tokens)
        self.mask_token = nn.Parameter(torch.randn(tokens.x.shape[2]) * 0.02)
        self.place = PlaceCode(tokens.x.shape[2])
        self.heads = PixelHeads(token_width(kit.encoder), example)

    def hide(self, batch: Batch, tokens: Tokens, plan: Plan) -> Tokens:
        """The tokens with mask tokens (and their places) where the plan has targets."""
        blank = (self.mask_token + self.place(batch, tokens)).to(tokens.x.dtype)
        return replace(tokens, x=torch.where(plan.target[..., None], blank, tokens.x))

    def predict(self, batch: Batch, tokens: Tokens, plan: Plan) -> dict[str, tuple[Patches, Tensor]]:
        """Every sensor's pixels and what is predicted for them."""
        x: Tensor = encode(self.encoder, self.hide(batch, tokens, plan))
        return {name: (p, self.heads(x[:, p.index], p)) for name, p in patches(batch, tokens).items()}

    def forward(self, batch: Batch, generator: torch.Generator) -> Step:
        tokens, plan = masked(self.encoder, self.config.mask, batch, generator)
        c = self.config
        sums = {
            name: masked_pixels(pred, p, plan.target[:, p.index], kind=c.loss, norm_pix=c.norm_pix)
            for name, (p, pred) in self.predict(batch, tokens, plan).items()
        }
        mean, count = weigh(sums)
        return Step(mean, {}, count)

    @torch.no_grad()
    def pictures(self, batch: Batch, generator: torch.Generator) -> Mapping[str, Tensor]:
        tokens, plan = masked(self.encoder, self.config.mask, batch, generator)
        return pictures_of(self.predict(batch, tokens, plan), plan.visible, tokens, self.config.norm_pix)


MEMBER = SimMIM
