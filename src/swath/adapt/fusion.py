"""Temporal fusion: an encoder that sees one date at a time, applied to every date, and its features fused.

mean and max skip dates on which nothing was observed; `ltae` attends over time by date (Garnot and Landrieu 2020,
arXiv:2007.00586); `difference` and `concat` are the siamese fusions of two dates, `attention` lets the later date
query both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from swath.core.batch import Batch, Layer, Where
from swath.core.contracts import Encoder, EncoderSpec, Features
from swath.core.errors import UserError
from swath.models.encoder import EncoderModule

How = Literal["auto", "native", "mean", "max", "ltae", "difference", "concat", "attention", "none"]


def dates(batch: Batch) -> int:
    """Number of timesteps the layers share; layers of one timestep are static and go with every date."""
    steps = {n: layer.shape[1] for n, layer in batch.layers.items()}
    several = {t for t in steps.values() if t > 1}
    if len(several) > 1:
        text = ", ".join(f"{n} {t}" for n, t in steps.items())
        raise UserError(f"the layers have different numbers of dates: {text}", where="fusion",
                        remedy="choose an encoder with native time, or sample the same number of dates")  # fmt: skip
    return max(several, default=1)


def fold(batch: Batch, steps: int) -> Batch:
    """Every date a sample of its own (B*T, 1, ...); static layers are repeated."""
    layers: dict[str, Layer] = {}
    for name, layer in batch.layers.items():
        b, t, c, h, w = layer.shape
        x, valid, times = layer.x, layer.valid, layer.times
        if t != steps:
            x, valid = x.expand(b, steps, c, h, w), valid.expand(b, steps, 1, h, w)
            times = None if times is None else times.expand(b, steps)
        flat = None if times is None else times.reshape(b * steps, 1)
        layers[name] = Layer(layer.sensor, x.reshape(b * steps, 1, c, h, w), valid.reshape(b * steps, 1, 1, h, w), flat)
    where = Where(batch.where.key.repeat_interleave(steps), batch.where.lonlat.repeat_interleave(steps, 0))
    return Batch(layers, where)


def seen(batch: Batch, steps: int) -> Tensor:
    """Which dates show anything, bool (B, T); a sample that shows nothing at all counts every date."""
    moving = [v for v in batch.layers.values() if v.shape[1] == steps]
    any_valid = torch.stack([v.valid.flatten(2).any(-1) for v in moving]).any(0)
    return any_valid | ~any_valid.any(1, keepdim=True)


def days(batch: Batch, steps: int) -> Tensor:
    """Day of the year in turns (0..1), float (B, T); the order of the dates where there are no times."""
    for layer in batch.layers.values():
        if layer.times is not None and layer.shape[1] == steps:
            return (layer.times.double() % 365.2425 / 365.2425).float()
    any_layer = next(iter(batch.layers.values()))
    return (torch.arange(steps, device=any_layer.x.device) / steps).expand(len(batch), steps)


class LightAttention(nn.Module):
    """L-TAE on cells: a learned query a head, keys from features and date, values are the heads' own channels."""

    def __init__(self, width: int, heads: int = 4, key: int = 8) -> None:
        super().__init__()
        self.heads, self.key = math.gcd(heads, width), key
        self.norm = nn.LayerNorm(width)
        self.date = nn.Linear(8, width)
        self.keys = nn.Linear(width, self.heads * key)
        self.query = nn.Parameter(torch.randn(self.heads, key) * math.sqrt(2.0 / key))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, day: Tensor, keep: Tensor) -> Tensor:
        """x (B, T, D, *S) -> (B, D, *S)."""
        cells = self.norm(x.movedim(2, -1))
        waves = torch.stack([f(2 * math.pi * k * day) for k in (1, 2, 3, 4) for f in (torch.sin, torch.cos)], -1)
        shape = (*day.shape, *[1] * (x.ndim - 3), cells.shape[-1])
        values = cells + self.date(waves).view(shape)
        keys = self.keys(values).unflatten(-1, (self.heads, self.key))
        score = (keys * self.query).sum(-1) / math.sqrt(self.key)
        score = score.masked_fill(~keep.view(*keep.shape, *[1] * (score.ndim - 2)), -torch.inf)
        mix = score.softmax(1)[..., None] * values.unflatten(-1, (self.heads, -1))
        return self.out(mix.sum(1).flatten(-2)).movedim(-1, 1)


class Fused(nn.Module):
    """An encoder over time; keeps the Encoder contract."""

    def __init__(self, encoder: nn.Module, spec: EncoderSpec, how: How) -> None:
        super().__init__()
        self.encoder, self.how = encoder, how
        times = {"concat": 2}.get(how, 1)
        self.spec = replace(spec, widths=tuple(w * times for w in spec.widths), pooled=spec.pooled * times)
        if how in ("ltae", "attention"):
            self.over_maps = nn.ModuleList(LightAttention(w) for w in spec.widths)
            self.over_pooled = LightAttention(spec.pooled)

    def forward(self, batch: Batch, levels: Sequence[int] | None = None) -> Features:
        steps = dates(batch)
        if self.how in ("difference", "concat") and steps != 2:
            raise UserError(
                f"the fusion '{self.how}' compares two dates; the samples have {steps}",
                where="fusion",
                remedy="a change needs images of two dates (folders A and B, or KEY_DATE.tif); the fusion 'attention' "
                "takes more of them",
            )
        if steps == 1:
            return self.encoder(batch, levels)
        if self.how == "none":
            raise UserError(f"the encoder takes one date, the batch has {steps}", where="fusion",
                            remedy="set fusion to mean, max or ltae, or select one date")  # fmt: skip
        found = self.encoder(fold(batch, steps), levels)
        keep, day = seen(batch, steps), days(batch, steps)
        picked = range(len(found.maps)) if levels is None else levels
        maps = [self._join(m.unflatten(0, (-1, steps)), day, keep, i) for i, m in zip(picked, found.maps, strict=True)]
        pooled = self._join(found.pooled.unflatten(0, (-1, steps)), day, keep, -1)
        return Features(tuple(maps), pooled, found.strides)

    def _join(self, x: Tensor, day: Tensor, keep: Tensor, level: int) -> Tensor:
        mask = keep.view(*keep.shape, *[1] * (x.ndim - 2))
        match self.how:
            case "max":
                return x.masked_fill(~mask, -torch.inf).amax(1)
            case "difference":
                return x[:, 1] - x[:, 0]
            case "concat":
                return x.flatten(1, 2)
            case "ltae" | "attention":
                return (self.over_pooled if level < 0 else self.over_maps[level])(x, day, keep)
            case _:
                return (x * mask).sum(1) / mask.sum(1).clamp_min(1)


def fused(encoder: nn.Module, how: How, steps: int) -> nn.Module:
    """The encoder, wrapped when it needs to be. `auto` leaves time to encoders that take it (`EncoderModule`s do,
    natively or as the mean over valid dates) and gives others the mean."""
    spec = as_encoder(encoder).spec
    if how == "native" and not spec.native_time:
        raise UserError(f"{spec.name} has no native time", where="fusion", remedy="choose mean, max or ltae")
    if how == "native" or (how == "auto" and (spec.native_time or steps == 1 or isinstance(encoder, EncoderModule))):
        return encoder
    return Fused(encoder, spec, "mean" if how == "auto" else how)


def as_encoder(module: nn.Module) -> Encoder:
    """An nn.Module that keeps the Encoder contract, as such."""
    if not hasattr(module, "spec"):
        raise UserError(f"{type(module).__name__} is not an encoder: it has no spec")
    return module  # type: ignore[return-value]
