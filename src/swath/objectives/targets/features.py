"""Hand-made features as targets: histograms of oriented gradients and spectral indices (FG-MAE).

HOG: central differences, 9 unsigned orientation bins weighted by magnitude, cells of `cell` pixels, each cell's
histogram divided by its 2-norm. Indices: (a - b) / (a + b). https://arxiv.org/abs/2310.18653
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from swath.core import Layer

# Vegetation, water and built-up land: (nir, red), (green, nir), (swir16, nir).
INDICES = (("nir", "red"), ("green", "nir"), ("swir16", "nir"))


def hog(x: Tensor, cell: int, bins: int = 9, eps: float = 1e-6) -> Tensor:
    """(N, C, H, W) as (N, C * bins, H // cell, W // cell): per band, one unit-length histogram a cell."""
    n, c, h, w = x.shape
    edge = F.pad(x.reshape(n * c, 1, h, w), (1, 1, 1, 1), mode="replicate")
    sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], device=x.device, dtype=x.dtype)
    with torch.autocast(x.device.type, enabled=False):
        gx, gy = (F.conv2d(edge, k[None, None]) for k in (sobel, sobel.T.contiguous()))
    magnitude, angle = (gx.square() + gy.square()).sqrt(), torch.atan2(gx, gy)
    place = (angle / math.pi * bins).floor().long() % bins
    votes = torch.zeros(n * c, bins, h, w, device=x.device, dtype=x.dtype).scatter_(1, place, magnitude)
    cells = F.avg_pool2d(votes, cell) * cell * cell
    cells = cells / (cells.norm(dim=1, keepdim=True) + eps)
    return cells.reshape(n, c * bins, h // cell, w // cell)


def indices(layer: Layer, eps: float = 1e-4) -> Tensor | None:
    """(B, T, K, H, W): the normalised differences whose two bands the layer has, or None when there is none."""
    names = layer.sensor.names
    pairs = [(a, b) for a, b in INDICES if a in names and b in names]
    if layer.sensor.kind != "optical" or not pairs:
        return None
    maps: list[Tensor] = []
    for a, b in pairs:
        p, q = (layer.x[:, :, layer.sensor.index(n)].float().clamp_min(0) for n in (a, b))
        maps.append((p - q) / (p + q + eps))
    out = torch.stack(maps, 2)
    return torch.where(layer.valid, out, out.new_zeros(()))
