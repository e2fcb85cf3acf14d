"""Masked autoencoder, on any sensors, dates and bands.

Visible tokens are encoded, a light decoder fills in the rest, and hidden tokens' pixels are compared:
L = sum_i M_i mean_j (p_ij - t_ij)^2 / sum M. https://arxiv.org/abs/2111.06377

The encoder brings time and place codes and their dropout (Prithvi-EO-2.0, https://arxiv.org/abs/2412.02732); masks are
joint, tubes, whole timesteps, groups or sensors (SatMAE), or Presto's four; `head: spectral` decodes any bands (DOFA).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from swath.core import Batch, Step, Tokens
from swath.objectives import Kit
from swath.objectives._objective import ObjectiveModule, encode, masked, token_width, tokenize
from swath.objectives.losses.pixels import PixelLoss, Sum, chosen, hidden_pixels, weigh
from swath.objectives.masks import MASKS, Mask, Plan
from swath.objectives.masks.random import Random
from swath.objectives.predictors import Decoder, PixelHeads, SpectralHead
from swath.objectives.targets.pixels import Patches, patches, pictures_of


@dataclass(frozen=True)
class MAE:
    """`norm_pix`: per-patch targets. `sensors`: which to reconstruct (all when empty)."""

    kind: ClassVar[str] = "mae"
    mask: Annotated[Mask, MASKS] = field(default_factory=Random)
    width: int = 512
    depth: int = 8
    heads: int = 16
    norm_pix: bool = True
    loss: PixelLoss = "mse"
    head: Literal["linear", "spectral"] = "linear"
    sensors: tuple[str, ...] = ()

    def build(self, kit: Kit) -> Masked:
        return Masked(self, kit)


class Masked(ObjectiveModule):
    """The module of `MAE`."""

    def __init__(self, config: MAE, kit: Kit) -> None:
        super().__init__(kit.encoder)
        self.config = config
        with torch.no_grad():
            example = patches(kit.example, tokenize(kit.encoder, kit.example))
        self.decoder = Decoder(token_width(kit.encoder), config.width, config.depth, config.heads)
        if config.head == "linear":
            self.heads = PixelHeads(config.width, example)
        else:
            self.heads = SpectralHead(config.width, max(p.value.shape[3] for p in example.values()))

    def decoded(self, batch: Batch, tokens: Tokens, plan: Plan, rows: Tensor | None = None) -> Tensor:
        """Every token's vector (B, N, width), given a plan; or those of `rows` (B, M) alone."""
        return self.decoder(encode(self.encoder, plan.padded(tokens), plan.keep), plan, batch, tokens, rows)

    def predict(self, batch: Batch, tokens: Tokens, plan: Plan) -> dict[str, tuple[Patches, Tensor]]:
        """Every sensor's pixels and what is predicted for them, given a plan."""
        x, parts = self.decoded(batch, tokens, plan), patches(batch, tokens)
        wanted = self.config.sensors or tuple(parts)
        return {name: (parts[name], self.heads(x[:, parts[name].index], parts[name])) for name in wanted}

    def loss(self, batch: Batch, tokens: Tokens, plan: Plan) -> dict[str, Sum]:
        """Per sensor, over its target tokens alone: nothing of another one is predicted or compared."""
        parts, rows = patches(batch, tokens), plan.targets
        x = self.decoded(batch, tokens, plan, rows)
        real = plan.target.gather(1, rows)  # short rows are filled with tokens that are no targets
        c, out = self.config, dict[str, Sum]()
        for name in c.sensors or tuple(parts):
            part = parts[name]
            mine = torch.isin(rows, part.index)
            pred = self.heads(x[real & mine][None], part)[0]
            hidden = plan.target[:, part.index]
            out[name] = hidden_pixels(pred, chosen(part, hidden), kind=c.loss, norm_pix=c.norm_pix)
        return out

    def forward(self, batch: Batch, generator: torch.Generator) -> Step:
        tokens, plan = masked(self.encoder, self.config.mask, batch, generator)
        sums = self.loss(batch, tokens, plan)
        mean, count = weigh(sums)
        return Step(mean, {f"mae/{n}": s.mean for n, s in sums.items()} if len(sums) > 1 else {}, count)

    @torch.no_grad()
    def pictures(self, batch: Batch, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Per sensor (B, 3, T, C, H, W): standardised input, what was visible, and the reconstruction."""
        tokens, plan = masked(self.encoder, self.config.mask, batch, generator)
        return pictures_of(self.predict(batch, tokens, plan), plan.visible, tokens, self.config.norm_pix)


MEMBER = MAE
