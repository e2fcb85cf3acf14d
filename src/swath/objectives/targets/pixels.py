"""Pixels as targets: each token's own pixels, standardised by band, with what is invalid left out.

Per-patch normalisation: t = (x - mean) / sqrt(var + 1e-6) over all valid values of a token, var unbiased.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from swath.core import Batch, Layer, Sensor, Tokens, UnknownName

# Centre and spread by unit, for bands whose sensor file states none.
TYPICAL: dict[str, tuple[float, float]] = {
    "reflectance": (0.2, 0.15), "radiance": (60.0, 60.0), "db": (-14.0, 6.0), "kelvin": (285.0, 15.0),
    "celsius": (12.0, 15.0), "m": (500.0, 700.0), "mm": (60.0, 80.0), "degree": (180.0, 104.0),
    "fraction": (0.5, 0.3), "percent": (50.0, 30.0), "display": (127.5, 64.0), "index": (0.0, 0.5),
    "linear": (0.1, 0.2), "amplitude": (0.3, 0.3),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Patches:
    """One sensor's tokens as pixels: `value` (B, n, C, P), `valid` bool (B, n, 1, P); `index` (n,) their places.

    P = tubelet x patch rows x patch columns. A class product has `classes` > 0 and class numbers 0..K-1 as values.
    """

    sensor: Sensor
    index: Tensor
    value: Tensor
    valid: Tensor
    size: tuple[int, int, int]
    classes: int = 0

    @property
    def channels(self) -> int:
        """Outputs a pixel needs."""
        return self.classes or self.value.shape[2]


def standard(layer: Layer) -> Tensor:
    """(x - mean) / std by band, zero where invalid; class products become class numbers."""
    sensor, x = layer.sensor, layer.x.float()
    if sensor.kind == "classes":
        known = torch.tensor([float(k) for k, _ in sensor.classes], device=x.device)
        return (x[:, :, 0, ..., None] == known).float().argmax(-1)[:, :, None].float()
    rows: list[tuple[float, float]] = []
    for band in sensor.bands:
        if band.unit not in TYPICAL:
            raise UnknownName("unit", band.unit, TYPICAL, where=f"band {band.name} of {sensor.id}")
        mean, std = TYPICAL[band.unit]
        rows.append((mean if band.mean is None else band.mean, std if band.std is None else band.std))
    table = torch.tensor(rows, device=x.device).view(-1, 2, 1, 1)
    return torch.where(layer.valid, (x - table[:, 0]) / table[:, 1], x.new_zeros(()))


def patches(batch: Batch, tokens: Tokens) -> dict[str, Patches]:
    """Every sensor's pixels cut as its tokens lie. Tokens of one place in several groups have the same target."""
    out: dict[str, Patches] = {}
    for s, name in enumerate(tokens.sensors):
        layer, (rows, cols) = batch.layers[name], tokens.grids[s]
        index = (tokens.place[:, 0] == s).nonzero()[:, 0]
        _, t, _, h, w = layer.shape
        place = tokens.place[index]
        steps = int(place[:, 2].max()) + 1
        size = (t // steps, -(-h // rows), -(-w // cols))
        at = (place[:, 2] * rows + place[:, 3]) * cols + place[:, 4]
        value = cut(standard(layer), size, (steps, rows, cols))[:, at]
        valid = cut(layer.valid.float(), size, (steps, rows, cols))[:, at] > 0.5
        classes = len(layer.sensor.classes) if layer.sensor.kind == "classes" else 0
        out[name] = Patches(layer.sensor, index, value, valid, size, classes)
    return out


def cut(x: Tensor, size: tuple[int, int, int], grid: tuple[int, int, int]) -> Tensor:
    """(B, T, C, H, W) as (B, steps * rows * cols, C, tubelet * ph * pw); short edges are padded with zeros."""
    b, _, c, h, w = x.shape
    (tub, ph, pw), (steps, rows, cols) = size, grid
    x = F.pad(x, (0, cols * pw - w, 0, rows * ph - h))[:, : steps * tub]
    x = x.reshape(b, steps, tub, c, rows, ph, cols, pw).permute(0, 1, 4, 6, 3, 2, 5, 7)
    return x.reshape(b, steps * rows * cols, c, tub * ph * pw)


def paste(value: Tensor, part: Patches, grid: tuple[int, int], steps: int = 1) -> Tensor:
    """The inverse of the cut for one sensor: (B, n, C, P) as (B, T, C, H, W)."""
    b, _, c, _ = value.shape
    (tub, ph, pw), (rows, cols) = part.size, grid
    x = value.reshape(b, steps, rows, cols, c, tub, ph, pw).permute(0, 1, 5, 4, 2, 6, 3, 7)
    return x.reshape(b, steps * tub, c, rows * ph, cols * pw)


def standardise(part: Patches, eps: float = 1e-6) -> Tensor:
    """The values with each token's own mean and unbiased variance over its valid values removed."""
    weight = part.valid.expand_as(part.value).float()
    count = weight.sum((2, 3), keepdim=True)
    mean = (part.value * weight).sum((2, 3), keepdim=True) / count.clamp_min(1)
    var = ((part.value - mean).square() * weight).sum((2, 3), keepdim=True) / (count - 1).clamp_min(1)
    return (part.value - mean) / (var + eps).sqrt() * weight
