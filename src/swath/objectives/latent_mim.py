"""Latent masked image modelling: hidden tokens are told apart in a feature space instead of painted.

L = mean over samples and their sensors of 2 tau CE(p t^T / tau) among one sample's and sensor's hidden tokens
    + w InfoNCE of two masked views' pooled vectors.

A sample counts once however many of its sensors have targets (OlmoEarth's code sums over sensors instead): the loss
is then the same for any number of ranks.

Targets: a frozen random projection of the pixels (OlmoEarth's Latent MIM Lite, https://arxiv.org/abs/2511.13655), or
a moving average of the encoder read at a depth of its own for each sensor (Galileo, https://arxiv.org/abs/2502.09356).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from swath.core import Batch, Step, Tokens, UserError, per_sample
from swath.objectives import Kit
from swath.objectives._objective import ObjectiveModule, encode, follow, momentum, tapped, token_width, tokenize
from swath.objectives.losses.contrast import gather, info_nce, patch_discrimination
from swath.objectives.masks import MASKS, Mask, Plan, draw
from swath.objectives.masks.cross import Cross
from swath.objectives.predictors import Decoder, mlp
from swath.objectives.targets.pixels import patches
from swath.objectives.targets.projection import project
from swath.objectives.views.views import placeless


@dataclass(frozen=True)
class LatentMIM:
    """`depths`: sensor -> exit depth as a share of the encoder's blocks, for `target: average` (1 where not named).
    `masks` are drawn one a view: two of a kind for OlmoEarth, one structured and one random for Galileo, which then
    takes `local` targets (the projection) for the second view and a predictor for each (`predictors: 2`).
    `hide_place`: the contrast compares views of one place, so coordinates are unknown to the encoder beside it."""

    kind: ClassVar[str] = "latent-mim"
    masks: tuple[Annotated[Mask, MASKS], ...] = field(default_factory=lambda: (Cross(), Cross()))
    target: Literal["projection", "average"] = "projection"
    local: bool = False
    predictors: Literal[1, 2] = 1
    depths: dict[str, float] = field(default_factory=dict[str, float])
    width: int = 192
    depth: int = 4
    heads: int = 3
    dim: int = 192
    tau: float = 0.1
    contrast: float = 0.1
    hide_place: bool = True
    ema: tuple[float, float] = (0.996, 1.0)

    def __post_init__(self) -> None:
        if not self.masks or (self.predictors == 2 and len(self.masks) < 2):
            raise UserError("latent-mim needs a mask for each view, and two views for two predictors", where="masks")

    def build(self, kit: Kit) -> Latent:
        return Latent(self, kit)


class Latent(ObjectiveModule):
    """The module of `LatentMIM`; samples meet in it only through the contrast of whole samples."""

    def __init__(self, config: LatentMIM, kit: Kit) -> None:
        super().__init__(kit.encoder)
        self.config = config
        self.batch_coupled = config.contrast > 0
        width = token_width(kit.encoder)
        style = "cross"
        self.decoders = nn.ModuleList(
            Decoder(width, config.width, config.depth, config.heads, style) for _ in range(config.predictors)
        )
        average = config.target == "average"
        self.dims = [width if average and not (config.local and i) else config.dim for i in range(len(config.masks))]
        self.outs = nn.ModuleList(nn.Linear(config.width, d) for d in self.dims)
        self.projector = mlp((width, width, config.dim), norm="none")
        self.slow = copy.deepcopy(kit.encoder).requires_grad_(False) if average else None

    def targets(self, batch: Batch, tokens: Tokens, view: int) -> Tensor:
        """(B, N, dim) for every token, without gradient."""
        if self.slow is not None and not (self.config.local and view):
            return self._averaged(batch)
        parts = patches(batch, tokens)
        out = tokens.x.new_zeros(len(batch), len(tokens.place), self.dims[view], dtype=torch.float32)
        for part in parts.values():
            out[:, part.index] = project(part, self.dims[view])
        return out

    @torch.no_grad()
    def _averaged(self, batch: Batch) -> Tensor:
        slow: Any = self.slow
        was = slow.training
        slow.eval()
        tokens = tokenize(slow, batch)
        wanted = {s: self.config.depths.get(s, 1.0) for s in tokens.sensors}
        out = encode(slow, tokens) if 1.0 in wanted.values() else tokens.x
        if set(wanted.values()) - {1.0}:
            layers = tapped(slow, tokens)
            for s, name in enumerate(tokens.sensors):
                here = tokens.place[:, 0] == s
                at = round(wanted[name] * (len(layers) - 1))
                if wanted[name] < 1.0:
                    out = torch.where(here[:, None], layers[at], out)
        slow.train(was)
        return out.float()

    def view(self, batch: Batch, tokens: Tokens, plan: Plan, view: int) -> tuple[Tensor, Tensor]:
        """The patch loss of each sample (B,) and the pooled embedding (B, dim) of its visible tokens."""
        seen = plan.padded(tokens)
        kept = encode(self.encoder, seen, plan.keep)
        decoder = self.decoders[min(view, len(self.decoders) - 1)]
        pred = self.outs[view](decoder(kept, plan, batch, tokens))
        target = self.targets(batch, tokens, view)
        total, sensors = torch.zeros(len(batch), device=pred.device), torch.zeros(len(batch), device=pred.device)
        for i in range(len(tokens.sensors)):
            here = (tokens.place[:, 0] == i).nonzero()[:, 0]
            hidden = plan.target[:, here]
            each, count = patch_discrimination(pred[:, here], target[:, here], hidden, self.config.tau)
            total, sensors = total + each, sensors + (count > 0)
        weight = (plan.keep < plan.state.shape[1]).float()[..., None]
        pooled = self.projector((kept * weight).sum(1) / weight.sum(1).clamp_min(1))
        return total / sensors.clamp_min(1), pooled

    def forward(self, batch: Batch, generator: torch.Generator) -> Step:
        if self.config.contrast and self.config.hide_place:
            batch = replace(batch, where=placeless(batch.where))
        tokens = tokenize(self.encoder, batch)
        losses, pooled = list[Tensor](), list[Tensor]()
        for i, mask in enumerate(self.config.masks):
            plan = draw(mask, tokens, per_sample(generator, batch.where.key, "mask", i))
            each, z = self.view(batch, tokens, plan, i)
            losses.append(each)
            pooled.append(z)
        patch = torch.stack(losses).mean()
        terms = {"patch": patch}
        loss = patch
        if self.config.contrast and len(pooled) > 1:
            both, start = gather(pooled[1])
            terms["instance"] = info_nce(pooled[0], both, self.config.tau, start)
            loss = loss + self.config.contrast * terms["instance"]
        return Step(loss, terms, float(len(batch)))

    def after_step(self, step: int, total: int) -> None:
        if self.slow is not None:
            follow(self.slow, self.encoder, momentum(*self.config.ema, step, total))


MEMBER = LatentMIM
