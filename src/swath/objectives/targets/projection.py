"""A frozen random projection of a token's pixels: a target that needs no teacher and cannot collapse.

y = W x / sqrt(P C), W drawn once from the sensor's name. It carries no position and no date, so telling tokens of one
sample apart needs their content. Latent MIM Lite, https://arxiv.org/abs/2511.13655
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from swath.core import generator
from swath.objectives.targets.pixels import Patches


@lru_cache(maxsize=64)
def _matrix(sensor: str, size: int, width: int) -> Tensor:
    return torch.randn(size, width, generator=generator("frozen-projection", sensor, size, width)) * size**-0.5


def project(part: Patches, width: int) -> Tensor:
    """(B, n, width); invalid pixels count as zero (the band's mean)."""
    value = part.value
    if part.classes:
        value = torch.nn.functional.one_hot(value[:, :, 0].long(), part.classes).float().transpose(2, 3)
    x = (value * part.valid).flatten(2)
    with torch.autocast(x.device.type, enabled=False):
        return x @ _matrix(part.sensor.id, x.shape[2], width).to(x)
