"""MP-MAE: one sensor is seen through a mask, and many things are predicted from it (MMEarth).

Pixel targets of every other layer and label, on hidden tokens; image-level targets from the mean of the visible ones:
classes, numbers, the place and the season as points on circles. Each loss is a sample's mean over what is valid;
L = sum_k L_k, or with learned uncertainties sum_k exp(-s_k) L_k + s_k over what a sample has.
https://arxiv.org/abs/2405.02771

The public decoder's block is shared by all modalities and only the last maps differ; so it is here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swath.core import Batch, Label, Layer, Sensor, Step, Tokens, UserError
from swath.objectives import Kit
from swath.objectives._objective import ObjectiveModule, encode, masked, token_width, tokenize
from swath.objectives.losses.pixels import token_losses
from swath.objectives.masks import MASKS, Mask, Plan
from swath.objectives.masks.random import Random
from swath.objectives.predictors import Decoder
from swath.objectives.targets.pixels import Patches, cut, painted, standard
from swath.objectives.views.views import only

YEAR = 365.2425


@dataclass(frozen=True)
class MPMAE:
    """`sees`: the sensor that is encoded (the first when empty). `labels`: name -> its number of classes, 0 for a
    number. `norm_pix` is for the seen sensor's own pixels."""

    kind: ClassVar[str] = "mpmae"
    sees: str = ""
    mask: Annotated[Mask, MASKS] = field(default_factory=lambda: Random(0.6))
    width: int = 512
    depth: int = 1
    heads: int = 16
    norm_pix: bool = True
    labels: dict[str, int] = field(default_factory=dict[str, int])
    place: bool = True
    season: bool = True
    weighting: Literal["sum", "uncertainty"] = "sum"

    def build(self, kit: Kit) -> OneToMany:
        return OneToMany(self, kit)


class Whole(NamedTuple):
    """An image-level target: `value` (B, F) or class numbers (B,), where known (B,) or (B, F), its classes or 0."""

    value: Tensor
    known: Tensor
    classes: int


class OneToMany(ObjectiveModule):
    """The module of `MPMAE`."""

    def __init__(self, config: MPMAE, kit: Kit) -> None:
        super().__init__(kit.encoder)
        self.config = config
        self.sees = config.sees or next(iter(kit.example.layers))
        width = token_width(kit.encoder)
        self.decoder = Decoder(width, config.width, config.depth, config.heads)
        with torch.no_grad():
            tokens = tokenize(kit.encoder, only(kit.example, [self.sees]))
        pixels, images = self.pixels(kit.example, tokens), self.images(kit.example)
        self.names = (*pixels, *images)
        self.pred = nn.ModuleDict(
            {_key(n): nn.Linear(config.width, p.channels * p.value.shape[3]) for n, p in pixels.items()}
            | {_key(n): nn.Linear(width, t.classes or t.value.shape[1]) for n, t in images.items()}
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.uncertainty = nn.Parameter(torch.zeros(len(self.names)), requires_grad=config.weighting == "uncertainty")

    def pixels(self, batch: Batch, tokens: Tokens) -> dict[str, Patches]:
        """Every layer, and every label that is a map, cut as the seen sensor's tokens lie."""
        out = {name: _on_tokens(_values(layer), layer.sensor, tokens, name) for name, layer in batch.layers.items()}
        for name, classes in self.config.labels.items():
            label = batch.labels.get(name)
            if label is None or label.kind not in ("mask", "map"):
                continue
            value = label.value[:, None] if label.kind == "mask" else label.value
            valid = label.valid[:, None] if label.kind == "mask" else label.valid
            worth = torch.where(valid, value, torch.zeros_like(value)).float()[:, None]
            kind = classes if label.kind == "mask" else 0
            out[name] = _on_tokens((worth, valid[:, None], kind), batch.layers[self.sees].sensor, tokens, name)
        return out

    def images(self, batch: Batch) -> dict[str, Whole]:
        """What is known of a sample as a whole."""
        out: dict[str, Whole] = {}
        for name, classes in self.config.labels.items():
            label: Label | None = batch.labels.get(name)
            if label is not None and label.kind in ("class", "scalar"):
                value = label.value if classes else label.value.float()[:, None]
                out[name] = Whole(value, label.valid, classes)
        if self.config.place:
            lonlat = batch.where.lonlat
            known = torch.isfinite(lonlat).all(1)
            out["place"] = Whole(_circle(torch.nan_to_num(lonlat) / 360), known, 0)
        times = batch.layers[self.sees].times
        if self.config.season and times is not None:
            seen = batch.layers[self.sees].valid.flatten(2).any(2)
            first = times.gather(1, seen.to(torch.uint8).argmax(1, keepdim=True))
            out["season"] = Whole(_circle(first.double() / YEAR), seen.any(1), 0)
        return out

    def losses(
        self, kept: Tensor, x: Tensor, plan: Plan, batch: Batch, tokens: Tokens
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """By name: each sample's loss (B,) and 1 where it has one, from encoded (B, K, D) and decoded (B, N, d)."""
        out: dict[str, tuple[Tensor, Tensor]] = {}
        for name, part in self.pixels(batch, tokens).items():
            pred = self.paint(name, x, part)
            out[name] = pixel_loss(pred, part, plan.target, self.config.norm_pix and name == self.sees)
        seen = (plan.keep < plan.state.shape[1]).to(kept.dtype)[..., None]
        pooled = self.norm((kept * seen).sum(1) / seen.sum(1).clamp_min(1))
        for name, target in self.images(batch).items():
            out[name] = image_loss(self.pred[_key(name)](pooled), target)
        return out

    def paint(self, name: str, x: Tensor, part: Patches) -> Tensor:
        """A target's pixels from the decoded tokens."""
        return self.pred[_key(name)](x).unflatten(-1, (part.channels, part.value.shape[3]))

    @torch.no_grad()
    def pictures(self, batch: Batch, generator: torch.Generator) -> Mapping[str, Tensor]:
        """The seen sensor's hidden tokens, and all of what was not given at all."""
        mine = only(batch, [self.sees])
        tokens, plan = masked(self.encoder, self.config.mask, mine, generator)
        x = self.decoder(encode(self.encoder, plan.padded(tokens), plan.keep), plan, mine, tokens)
        out: dict[str, Tensor] = {}
        for name, part in self.pixels(batch, tokens).items():
            own = name == self.sees
            shown = plan.visible if own else torch.zeros_like(plan.visible)
            out[name] = painted(part, self.paint(name, x, part), shown, tokens, own and self.config.norm_pix)
        return out

    def forward(self, batch: Batch, generator: torch.Generator) -> Step:
        mine = only(batch, [self.sees])
        tokens, plan = masked(self.encoder, self.config.mask, mine, generator)
        kept = encode(self.encoder, plan.padded(tokens), plan.keep)
        x = self.decoder(kept, plan, mine, tokens)
        each = self.losses(kept, x, plan, batch, tokens)
        loss = aggregate(each, self.names, self.uncertainty if self.config.weighting == "uncertainty" else None)
        terms = {n: (v * has).sum() / has.sum().clamp_min(1) for n, (v, has) in each.items()}
        return Step(loss, terms, len(batch))


def pixel_loss(pred: Tensor, part: Patches, hidden: Tensor, norm_pix: bool) -> tuple[Tensor, Tensor]:
    """A sample's mean over its hidden tokens (of classes: over their valid pixels), and 1 where it has any."""
    token, mask = token_losses(pred, part, hidden, norm_pix=norm_pix)
    weight = mask * part.valid.sum((2, 3)) if part.classes else mask
    return (token * weight).sum(1) / weight.sum(1).clamp_min(1), (weight.sum(1) > 0).float()


def image_loss(pred: Tensor, target: Whole) -> tuple[Tensor, Tensor]:
    """Cross-entropy of a class, else the squared difference."""
    if target.classes:
        value = torch.where(target.known, target.value, torch.zeros_like(target.value))
        each, known = F.cross_entropy(pred.float(), value, reduction="none")[:, None], target.known[:, None]
    else:
        known = target.known if target.known.ndim == 2 else target.known[:, None].expand_as(target.value)
        each = (pred.float() - torch.where(known, target.value, torch.zeros_like(target.value))).square()
    weight = known.float()
    return (each * weight).sum(1) / weight.sum(1).clamp_min(1), known.any(1).float()


def aggregate(each: Mapping[str, tuple[Tensor, Tensor]], names: tuple[str, ...], uncertainty: Tensor | None) -> Tensor:
    """Mean over samples of the sum over what each has."""
    total: list[Tensor] = []
    for name, (value, has) in each.items():
        if uncertainty is None:
            total.append((value * has).mean())
        else:
            s = uncertainty[names.index(name)]
            total.append(((torch.exp(-s) * value + s) * has).mean())
    return torch.stack(total).sum()


def _values(layer: Layer) -> tuple[Tensor, Tensor, int]:
    classes = len(layer.sensor.classes) if layer.sensor.kind == "classes" else 0
    return standard(layer), layer.valid, classes


def _on_tokens(found: tuple[Tensor, Tensor, int], sensor: Sensor, tokens: Tokens, name: str) -> Patches:
    """A (B, T, C, H, W) target in the patches of the tokens; one date is the target at every timestep."""
    value, valid, classes = found
    rows, cols = tokens.grids[0]
    place = tokens.place
    steps, t = int(place[:, 2].max()) + 1, value.shape[1]
    if t == 1:
        value, valid = (v.expand(-1, steps, -1, -1, -1) for v in (value, valid))
    elif t % steps:
        raise UserError(
            f"{name} has {t} dates and the seen sensor {steps} timesteps of tokens",
            where="objective mpmae",
            remedy="give every layer the same dates, or one",
        )
    t, h, w = value.shape[1], *value.shape[3:]
    size = (t // steps, -(-h // rows), -(-w // cols))
    at = (place[:, 2] * rows + place[:, 3]) * cols + place[:, 4]
    grid = (steps, rows, cols)
    parts = cut(value, size, grid)[:, at], cut(valid.float(), size, grid)[:, at] > 0.5
    return Patches(sensor, torch.arange(len(place), device=place.device), *parts, size, classes)


def _circle(turns: Tensor) -> Tensor:
    """Sines and cosines of whole turns (B, n) as (B, 2n), in fp32."""
    phase = turns.double() * 2 * math.pi
    return torch.cat([phase.sin(), phase.cos()], -1).float()


def _key(name: str) -> str:
    return name.replace(".", "_")


MEMBER = MPMAE
