"""CROMA: contrast between two sensors' pooled tokens, and joint masked reconstruction of both.

Each sensor is masked on its own. L = symmetric InfoNCE(MLP(LN(mean tokens_1)), MLP(LN(mean tokens_2)), learned scale)
+ masked reconstruction of both from their joint encoding. https://arxiv.org/abs/2311.00566
(The public code's gathered negatives carry no gradient; here they do. 2D ALiBi: `alibi`, here and of `swath-vit`.)
Two sensors of a sample have its coordinates in common: an encoder that reads them would tell samples apart without
looking, so these are unknown to it while it learns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from swath.core import Batch, Step, Tokens, UserError, per_sample
from swath.objectives import Kit
from swath.objectives._objective import ObjectiveModule, encode, token_width, tokenize
from swath.objectives.losses.contrast import gather, info_nce
from swath.objectives.losses.pixels import masked_pixels, weigh
from swath.objectives.masks import MASKS, TARGET, Mask, Plan, draw
from swath.objectives.masks.random import Random
from swath.objectives.predictors import Decoder, PixelHeads, mlp
from swath.objectives.targets.pixels import Patches, patches, pictures_of
from swath.objectives.views.views import only, placeless


@dataclass(frozen=True)
class Croma:
    """`sensors` names two where the data have more. `alibi`: 2-D ALiBi in the decoder; the encoder has its own.

    `hide_place`: coordinates are unknown to the encoder."""

    kind: ClassVar[str] = "croma"
    sensors: tuple[str, ...] = ()
    mask: Annotated[Mask, MASKS] = field(default_factory=Random)
    width: int = 512
    depth: int = 1
    heads: int = 8
    dim: int = 256
    norm_pix: bool = True
    alibi: bool = False
    hide_place: bool = True

    def build(self, kit: Kit) -> CrossSensor:
        return CrossSensor(self, kit)


class CrossSensor(ObjectiveModule):
    """The module of `Croma`."""

    batch_coupled = True

    def __init__(self, config: Croma, kit: Kit) -> None:
        super().__init__(kit.encoder)
        self.config = config
        self.sensors = config.sensors or tuple(kit.example.layers)
        if len(self.sensors) != 2:
            raise UserError(f"CROMA takes two sensors, not {list(self.sensors)}", where="objective.sensors")
        width = token_width(kit.encoder)
        with torch.no_grad():
            example = patches(kit.example, tokenize(kit.encoder, kit.example))
        self.projectors = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), mlp((width, width, config.dim), norm="none")) for _ in range(2)
        )
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        style = "alibi" if config.alibi else "joint"
        self.decoder = Decoder(width, config.width, config.depth, config.heads, style)
        self.heads = PixelHeads(config.width, example)

    def alone(self, tokens: Tokens, plan: Plan, i: int) -> Tensor:
        """One sensor's visible tokens encoded without the other: its embedding (B, dim)."""
        other = tokens.place[:, 0] != tokens.sensors.index(self.sensors[i])
        mine = Plan.of(torch.where(other, torch.full_like(plan.state, TARGET), plan.state))
        kept = encode(self.encoder, mine.padded(tokens), mine.keep)
        seen = (mine.keep < mine.state.shape[1]).to(kept.dtype)[..., None]
        return self.projectors[i]((kept * seen).sum(1) / seen.sum(1).clamp_min(1))

    def seen(self, batch: Batch) -> Batch:
        """The two sensors, without their coordinates."""
        batch = only(batch, self.sensors)
        return replace(batch, where=placeless(batch.where)) if self.config.hide_place else batch

    def forward(self, batch: Batch, generator: torch.Generator) -> Step:
        batch = self.seen(batch)
        tokens = tokenize(self.encoder, batch)
        plan = self.plan(tokens, batch, generator)
        a, b = (self.alone(tokens, plan, i) for i in range(2))
        # A sample that lacks one of the two sensors has no pair: it is nobody's partner and is not asked.
        there = torch.stack([(plan.visible & (tokens.place[:, 0] == i)).any(1) for i in range(2)]).all(0)
        (every_a, start), (every_b, _), (paired, _) = gather(a), gather(b), gather(there.to(a))
        tau = torch.exp(-self.scale.clamp(max=math.log(100.0)))
        contrast = (info_nce(a, every_b, tau, start, paired > 0) + info_nce(b, every_a, tau, start, paired > 0)) / 2
        pixels = [
            weigh({n: masked_pixels(pred, p, plan.target[:, p.index], norm_pix=self.config.norm_pix)})[0]
            for n, (p, pred) in self.predict(batch, tokens, plan).items()
        ]
        paint = torch.stack(pixels).sum()
        return Step(contrast + paint, {"contrast": contrast, "pixels": paint}, len(batch))

    def predict(self, batch: Batch, tokens: Tokens, plan: Plan) -> dict[str, tuple[Patches, Tensor]]:
        """Both sensors' pixels, and what their joint encoding says of them."""
        x = self.decoder(encode(self.encoder, plan.padded(tokens), plan.keep), plan, batch, tokens)
        return {n: (p, self.heads(x[:, p.index], p)) for n, p in patches(batch, tokens).items()}

    @torch.no_grad()
    def pictures(self, batch: Batch, generator: torch.Generator) -> Mapping[str, Tensor]:
        batch = self.seen(batch)
        tokens = tokenize(self.encoder, batch)
        plan = self.plan(tokens, batch, generator)
        return pictures_of(self.predict(batch, tokens, plan), plan.visible, tokens, self.config.norm_pix)

    def plan(self, tokens: Tokens, batch: Batch, generator: torch.Generator) -> Plan:
        """Independent masks of the two sensors in one plan."""
        state = torch.empty(tokens.valid.shape, dtype=torch.uint8, device=tokens.x.device)
        for s, name in enumerate(tokens.sensors):
            here = (tokens.place[:, 0] == s).nonzero()[:, 0]
            part = replace(tokens, x=tokens.x[:, here], valid=tokens.valid[:, here], place=tokens.place[here])
            draws = per_sample(generator, batch.where.key, "mask", name)
            state[:, here] = draw(self.config.mask, part, draws).state
        return Plan.of(state)


MEMBER = Croma
