"""Pixels beside tokens: what a patch has averaged away, read from the input itself.

A plain transformer with patches of 8 or 16 pixels knows a place's surroundings, and blurs its edge. A shallow
convolutional branch over the standardised bands, as in ViT-Adapter's spatial prior (https://arxiv.org/abs/2205.08534),
gives the decoder every pixel back. Dates enter as moments, so that any number of them, in any state, has one meaning:

    m_k = sum_t phi_k(t) v_t x_t / sum_t v_t

with v the validity, phi_k a cosine basis over the order of the dates (as many as dates: nothing is lost when all of
them are seen) and the first harmonic of the year.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.adapt.task import Context, Statistics, finest, observed
from swath.core.batch import Batch, Layer
from swath.core.errors import SwathWarning
from swath.core.rng import coins

MOST_MOMENTS = 8
ALONE = 0.5
"""Share of training samples whose pixels must do without the tokens: from few chips an encoder learns chips by heart,
and pixels that never stood alone would follow it."""
_YEAR = 365.2425
NEAR = (3, 7)
"""Sides of the squares whose means stand beside a pixel's own values."""
FLOOR = 1e-3
"""Variance (of standardised values) below which a difference between bands is noise, and is not blown up."""
PIXELS = 1000
"""So many pixels of a sample, at most, tell how bands vary together."""


def moments(layer: Layer, x: Tensor, count: int) -> Tensor:
    """Moments (B, count * (C + 1), H, W) of standardised values (B, T, C, H, W) over the dates that show a pixel, and
    of which dates do."""
    b, t = x.shape[:2]
    order = (torch.arange(t, device=x.device) + 0.5) / t
    rank = count if count <= 2 else count - 2
    basis = torch.stack([torch.cos(math.pi * k * order) for k in range(rank)]).expand(b, rank, t)
    if count > 2:
        turns = torch.zeros(b, t, device=x.device)
        if layer.times is not None:
            turns = (layer.times.double() % _YEAR / _YEAR * 2 * math.pi).float()
        basis = torch.cat([basis, torch.stack([turns.sin(), turns.cos()], 1)], 1)
    seen = layer.valid.to(x.dtype)
    basis = basis.to(x.dtype)
    total = torch.einsum("bkt,btchw->bkchw", basis, x * seen) / seen.sum(1).clamp_min(1.0)[:, None]
    shown = torch.einsum("bkt,btchw->bkchw", basis, seen) / t
    return torch.cat([total, shown], 2).flatten(1, 2)


def moment_count(steps: int) -> int:
    """Moments for so many dates: one, two, or the cosines and the year's two."""
    return steps if steps <= 2 else min(steps, MOST_MOMENTS - 2) + 2


class Planes(nn.Module):
    """A batch's layers as one stack of planes at a size: moments of the standardised bands and of what was seen.

    Bands say nearly the same thing, and what tells one cover from another is a small difference between them: layers
    of pixels would need thousands of steps to find it. `whiten` turns and scales each sensor's moments by the training
    split's covariance, V diag(v)^-1/2 (m - mean), so that every difference counts the same from the first step.

    What is whitened is more than the bands (`wide`): the logarithms of quantities that are positive, as slopes and
    haze scale all bands of a pixel and a ratio of bands stays; and means over small squares around a pixel, as a
    neighbourhood says nearly what its pixel says, too.
    """

    def __init__(self, statistics: Statistics, steps: int, wide: bool = False) -> None:
        super().__init__()
        self.statistics = {k: dict(v) for k, v in statistics.items()}
        self.count, self.wide = moment_count(steps), wide
        self.logs = {k: [i for i, (m, _) in enumerate(v.values()) if wide and m > 0] for k, v in statistics.items()}
        self.width = 0
        for i, (name, bands) in enumerate(self.statistics.items()):
            held = self.count * (len(bands) + len(self.logs[name])) + (len(NEAR) * len(bands) if wide else 0)
            self.width += held + self.count
            self.register_buffer(f"middle{i}", torch.zeros(held))
            self.register_buffer(f"turn{i}", torch.eye(held))

    def forward(self, batch: Batch, size: tuple[int, int]) -> Tensor:
        planes: list[Tensor] = []
        for i, name in enumerate(self.statistics):
            middle, turn = cast("Tensor", getattr(self, f"middle{i}")), cast("Tensor", getattr(self, f"turn{i}"))
            if name not in batch.layers:
                held = len(middle) + self.count
                planes.append(batch.where.lonlat.new_zeros(len(batch), held, *size, dtype=torch.float32))
                continue
            values, shown = self.values(batch, name)
            turned = torch.einsum("oi,bihw->bohw", turn, values - middle.view(-1, 1, 1)).clamp(-8.0, 8.0)
            seen = batch.layers[name].valid.any(1)
            found = torch.cat([torch.where(seen, turned, 0.0), shown], 1)
            same = (found.shape[-2], found.shape[-1]) == size
            planes.append(found if same else F.interpolate(found, size, mode="bilinear", align_corners=False))
        return torch.cat(planes, 1)

    def values(self, batch: Batch, name: str) -> tuple[Tensor, Tensor]:
        """A layer's moments of standardised values (B, K, H, W), and of which dates show a pixel."""
        layer, bands, logs = batch.layers[name], self.statistics[name], self.logs[name]
        mean = layer.x.new_tensor([m for m, _ in bands.values()]).view(-1, 1, 1)
        std = layer.x.new_tensor([s for _, s in bands.values()]).view(-1, 1, 1)
        x = (layer.x - mean) / std
        if logs:
            x = torch.cat([x, _log(layer.x[:, :, logs], mean[logs], std[logs])], 2)
        x = torch.where(layer.valid, x, 0.0).clamp(-8.0, 8.0)
        found = moments(layer, x, self.count).unflatten(1, (self.count, -1))
        told, shown = found[:, :, :-1].flatten(1, 2), found[:, :, -1]
        if not self.wide:
            return told, shown
        return torch.cat([told, *around(found[:, 0, : len(bands)], layer.valid.any(1))], 1), shown

    @torch.no_grad()
    def whiten(self, samples: Sequence[Batch]) -> None:
        """Learn turn and middle from samples of the training split.

        Fewer pixels than twice the moments do not tell all the ways in which they vary together: as many as there are
        count against the standardised values' own unit covariance, so that a few turn a little and none turn nothing.
        """
        for i, name in enumerate(self.statistics):
            rows = [_seen_pixels(self.values(b, name)[0], b.layers[name]) for b in samples if name in b.layers]
            x = torch.cat(rows).double() if rows else torch.zeros(0, 1)
            if not len(x):
                warnings.warn(f"none of the {len(samples)} training samples looked at shows a pixel of {name}: its "
                              "bands are not whitened", SwathWarning, stacklevel=2)  # fmt: skip
                continue
            told = min(1.0, len(x) / (2 * x.shape[1]))
            middle = told * x.mean(0)
            own = (x - x.mean(0)).T @ (x - x.mean(0)) / len(x)
            spread, axes = torch.linalg.eigh(told * own + (1.0 - told) * torch.eye(len(own)).to(own))
            turn = (axes / (spread.clamp_min(0.0) + FLOOR).sqrt()).T
            cast("Tensor", getattr(self, f"middle{i}")).copy_(middle)
            cast("Tensor", getattr(self, f"turn{i}")).copy_(turn)


def _log(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Logarithms of positive values, as standardised values are where both are near the mean."""
    least = torch.maximum(mean, std) / 5.0
    return ((x.clamp_min(0.0) + least) / (mean + least)).log() * (mean + least) / std


def around(x: Tensor, seen: Tensor) -> list[Tensor]:
    """Means (B, C, H, W) over the seen pixels of squares around each pixel."""
    weight = seen.to(x.dtype)
    both = torch.cat([x * weight, weight], 1)
    found: list[Tensor] = []
    for side in NEAR:
        mean = F.avg_pool2d(both, side, 1, side // 2)
        found.append(mean[:, :-1] / mean[:, -1:].clamp_min(1e-6))
    return found


def _seen_pixels(values: Tensor, layer: Layer) -> Tensor:
    """Moments (N, K) of pixels that some date shows, thinned."""
    found = values.movedim(1, -1)[layer.valid.any(1)[:, 0]]
    return found[:: max(1, len(found) // PIXELS)]


def alone(told: Tensor, training: bool, keys: Tensor) -> Tensor:
    """What the tokens say; in training pixels must do without it in a share of the samples."""
    if not training:
        return told
    return told * (coins(keys, "alone") >= ALONE).view(-1, *(1,) * (told.ndim - 1))


class Detail(nn.Module):
    """A decoder's map, refined with the input's own pixels: each pixel's spectrum and season through layers of its own
    (what a forest on pixels sees), its edges, and a little U-Net that joins the decoder's map at the second scale."""

    def __init__(self, context: Context, given: int, width: int) -> None:
        super().__init__()
        self.planes = Planes(context.statistics, context.dates, context.wide)
        wide = 2 * width
        self.pixel = nn.Sequential(_conv(self.planes.width, wide, 1), _conv(wide, wide, 1), _conv(wide, wide, 1))
        self.enter, self.edge = _conv(wide, width, 1), _conv(width, width)
        self.second, self.third = _conv(width, wide), _conv(wide, wide)
        self.deep = nn.Conv2d(given, wide, 1)
        self.up = nn.Sequential(_conv(3 * wide, width, 1), _conv(width, width))
        self.join = _conv(wide + 2 * width, width, 1)
        self.width = width

    def forward(self, deep: Tensor, batch: Batch, size: tuple[int, int]) -> Tensor:
        own = self.pixel(self.planes(batch, size))
        near = self.enter(own)
        half = self.second(F.avg_pool2d(near, 2, ceil_mode=True))
        quarter = self.third(F.avg_pool2d(half, 2, ceil_mode=True))
        at = (half.shape[-2], half.shape[-1])
        told = alone(self.deep(deep), self.training, batch.where.key)
        up = self.up(torch.cat([half, _to(quarter, at), _to(told, at)], 1))
        return self.join(torch.cat([own, self.edge(near), _to(up, size)], 1))


class Summary(nn.Module):
    """What a chip's pixels say together: each pixel's spectrum and season through layers of its own, then their mean
    over the pixels that are seen (Deep Sets, arXiv:1703.06114). A share of the chip is such a mean."""

    def __init__(self, context: Context, width: int) -> None:
        super().__init__()
        self.planes, self.width = Planes(context.statistics, context.dates, context.wide), 2 * width
        wide = self.width
        self.pixel = nn.Sequential(_conv(self.planes.width, wide, 1), _conv(wide, wide, 1), _conv(wide, wide, 1))

    def forward(self, batch: Batch) -> Tensor:
        size = finest(batch)
        own = self.pixel(self.planes(batch, size))
        seen = observed(batch, size)
        weight = torch.ones_like(own[:, :1]) if seen is None else seen[:, None].to(own.dtype)
        return (own * weight).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1.0)


class PixelPyramid(nn.Module):
    """Features of the input's own pixels, added to every level of a pyramid of these strides (powers of two)."""

    def __init__(self, context: Context, strides: Sequence[float], widths: tuple[int, int]) -> None:
        super().__init__()
        own, out = widths
        self.planes = Planes(context.statistics, context.dates, context.wide)
        first, wide = max(1, round(strides[0])), 2 * own
        entry: list[nn.Module] = [_conv(self.planes.width, wide, 1), _conv(wide, wide, 1), _conv(wide, own)]
        while first > 1:
            entry.append(nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), _conv(own, own)))
            first //= 2
        self.entry = nn.Sequential(*entry)
        sizes = [own * min(2**i, 4) for i in range(len(strides))]
        self.down = nn.ModuleList(
            nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), _conv(a, b)) for a, b in pairwise(sizes)
        )
        self.out = nn.ModuleList(nn.Conv2d(n, out, 1) for n in sizes)

    def forward(self, maps: Sequence[Tensor], batch: Batch) -> list[Tensor]:
        x = self.entry(self.planes(batch, finest(batch)))
        found: list[Tensor] = []
        for i, (level, out) in enumerate(zip(maps, self.out, strict=True)):
            x = x if i == 0 else self.down[i - 1](x)
            found.append(level + _to(out(x), (level.shape[-2], level.shape[-1])))
        return found


def _conv(given: int, width: int, side: int = 3) -> nn.Module:
    """No norm: a pixel's level is what it says. The start keeps the variance instead."""
    conv = nn.Conv2d(given, width, side, padding=side // 2)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, nn.GELU())


def _to(x: Tensor, size: tuple[int, int]) -> Tensor:
    same = (x.shape[-2], x.shape[-1]) == size
    return x if same else F.interpolate(x, size, mode="bilinear", align_corners=False)
