"""Heads that turn a token's vector into its pixels."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from swath.core import Band, Sensor, UnknownName, generator
from swath.objectives.targets.pixels import Patches


def _key(sensor: str) -> str:
    return sensor.replace(".", "_")


class PixelHeads(nn.Module):
    """One linear map a sensor, to its own bands: (B, n, D) as (B, n, channels, pixels of a patch)."""

    def __init__(self, width: int, example: dict[str, Patches]) -> None:
        super().__init__()
        self.shape = {name: (p.channels, p.value.shape[3]) for name, p in example.items()}
        self.heads = nn.ModuleDict({_key(n): nn.Linear(width, c * p) for n, (c, p) in self.shape.items()})

    def forward(self, x: Tensor, part: Patches) -> Tensor:
        name = part.sensor.id
        if _key(name) not in self.heads:
            raise UnknownName("sensor", name, self.shape, where="pixel head (made from the example's sensors)")
        return self.heads[_key(name)](x).unflatten(-1, self.shape[name])


class SpectralHead(nn.Module):
    """A head for any bands: R maps a token, mixed for each band by weights generated from what the band measures.

    In the spirit of DOFA's generated decoder, https://arxiv.org/abs/2403.15356
    """

    def __init__(self, width: int, pixels: int, rank: int = 32) -> None:
        super().__init__()
        self.rank, self.pixels = rank, pixels
        self.maps = nn.Linear(width, rank * pixels)
        self.mix = nn.Sequential(nn.Linear(_CODE, 64), nn.GELU(), nn.Linear(64, rank))

    def forward(self, x: Tensor, part: Patches) -> Tensor:
        mix = self.mix(band_codes(part.sensor).to(x.device)) * self.rank**-0.5
        maps = self.maps(x).unflatten(-1, (self.rank, self.pixels))
        return torch.einsum("bnrp,cr->bncp", maps, mix.to(maps.dtype))


_CODE = 32


@lru_cache(maxsize=256)
def band_codes(sensor: Sensor) -> Tensor:
    """(C, 32): sines of the log wavelength and the log width, or the hashed kind and name."""
    return torch.stack([_code(b, sensor.kind) for b in sensor.bands])


def _code(band: Band, kind: str) -> Tensor:
    if band.nm is None:
        return torch.randn(_CODE, generator=generator("band-code", kind, band.name))
    phase = math.log(band.nm / 300) * math.pi * 2.0 ** (torch.arange(15) * 0.5 - 1)
    extra = torch.tensor([math.log10(max(band.fwhm or 0.05 * band.nm, 1.0)) - 1.5, 1.0])
    return torch.cat([phase.sin(), phase.cos(), extra])
