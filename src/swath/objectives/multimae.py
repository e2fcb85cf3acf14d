"""MultiMAE: a few visible tokens of any mixture of sensors, and a decoder of its own for each sensor.

Visible tokens are shared out by a Dirichlet draw. A sensor's decoder lets its slots (place codes, with its own
visible tokens or mask tokens) ask all visible tokens once by cross-attention (no residual), then a few blocks of
self-attention. Loss: sensors are added, each the mean over a sample's hidden tokens; a sensor of which a sample hides
nothing does not thin its loss (the paper's nanmean, kept per sample so that ranks agree).
https://arxiv.org/abs/2204.01678
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from swath.core import Batch, Step, Tokens
from swath.models.layers import Block
from swath.objectives import Kit
from swath.objectives._objective import ObjectiveModule, encode, masked, token_width, tokenize
from swath.objectives.losses.pixels import PixelLoss, masked_pixels
from swath.objectives.masks import MASKS, Mask, Plan
from swath.objectives.masks.dirichlet import Dirichlet
from swath.objectives.predictors import PixelHeads
from swath.objectives.predictors.decoder import CrossBlock, PlaceCode
from swath.objectives.targets.pixels import Patches, patches, pictures_of


@dataclass(frozen=True)
class MultiMAE:
    """`losses` by sensor: mse where not named; class products always have cross-entropy."""

    kind: ClassVar[str] = "multimae"
    mask: Annotated[Mask, MASKS] = field(default_factory=Dirichlet)
    width: int = 256
    depth: int = 2
    heads: int = 8
    norm_pix: bool = False
    losses: dict[str, PixelLoss] = field(default_factory=dict[str, PixelLoss])

    def build(self, kit: Kit) -> Multi:
        return Multi(self, kit)


class SensorDecoder(nn.Module):
    """Slots of one sensor ask the visible tokens of all."""

    def __init__(self, given: int, config: MultiMAE) -> None:
        super().__init__()
        d = config.width
        self.proj, self.place = nn.Linear(given, d), PlaceCode(d)
        self.mask_token = nn.Parameter(torch.randn(d) * 0.02)
        self.ask = CrossBlock(d, config.heads, residual=False)
        self.blocks = nn.ModuleList(Block(d, config.heads) for _ in range(config.depth))

    def forward(self, kept: Tensor, plan: Plan, index: Tensor, batch: Batch, tokens: Tokens) -> Tensor:
        place, n = self.place(batch, tokens), plan.state.shape[1]
        slots = plan.spread(self.proj(kept), self.mask_token) + place
        seen = plan.keep < n
        at = plan.keep.clamp_max(n - 1)[..., None].expand(-1, -1, slots.shape[2])
        context = slots.gather(1, at)
        x = self.ask(slots[:, index], context, None if bool(seen.all()) else seen)
        used = plan.used[:, index]
        mask = None if bool(used.all()) else used[:, None, None]
        for block in self.blocks:
            x = block(x, mask)
        return x


class Multi(ObjectiveModule):
    """The module of `MultiMAE`."""

    def __init__(self, config: MultiMAE, kit: Kit) -> None:
        super().__init__(kit.encoder)
        self.config = config
        with torch.no_grad():
            example = patches(kit.example, tokenize(kit.encoder, kit.example))
        width = token_width(kit.encoder)
        self.decoders = nn.ModuleDict({n.replace(".", "_"): SensorDecoder(width, config) for n in example})
        self.heads = PixelHeads(config.width, example)

    def predict(self, batch: Batch, tokens: Tokens, plan: Plan) -> dict[str, tuple[Patches, Tensor]]:
        """Every sensor's pixels and what is predicted for them."""
        kept = encode(self.encoder, plan.padded(tokens), plan.keep)
        out: dict[str, tuple[Patches, Tensor]] = {}
        for name, part in patches(batch, tokens).items():
            x = self.decoders[name.replace(".", "_")](kept, plan, part.index, batch, tokens)
            out[name] = (part, self.heads(x, part))
        return out

    def forward(self, batch: Batch, generator: torch.Generator) -> Step:
        tokens, plan = masked(self.encoder, self.config.mask, batch, generator)
        c = self.config
        total, some = torch.zeros(2, len(batch), device=tokens.x.device)
        terms: dict[str, Tensor] = {}
        for name, (part, pred) in self.predict(batch, tokens, plan).items():
            kind = c.losses.get(name, "mse")
            hidden = plan.target[:, part.index]
            rows = [
                masked_pixels(pred[i : i + 1], row(part, i), hidden[i : i + 1], kind=kind, norm_pix=c.norm_pix)
                for i in range(len(batch))
            ]
            each = torch.stack([r.mean for r in rows])
            terms[name] = each.mean()
            total = total + each
            some = some + torch.tensor([float(r.count > 0) for r in rows], device=some.device)
        return Step((total / some.clamp_min(1)).mean() * len(terms), terms, len(batch))

    @torch.no_grad()
    def pictures(self, batch: Batch, generator: torch.Generator) -> Mapping[str, Tensor]:
        tokens, plan = masked(self.encoder, self.config.mask, batch, generator)
        return pictures_of(self.predict(batch, tokens, plan), plan.visible, tokens, self.config.norm_pix)


def row(part: Patches, i: int) -> Patches:
    """One sample's patches."""
    return Patches(part.sensor, part.index, part.value[i : i + 1], part.valid[i : i + 1], part.size, part.classes)


MEMBER = MultiMAE
