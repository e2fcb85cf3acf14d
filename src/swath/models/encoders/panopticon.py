"""Panopticon: a DINOv2 transformer behind an embedding that attends over the bands of any sensor.

Panopticon, https://arxiv.org/abs/2503.10845. Each band gives a patch vector plus the code of its wavelength (or of its
polarisation and orbit); one learned query reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from swath.core import EncoderSpec, Features, UserError, Where
from swath.models.encoder import EncoderModule, check_size, per_timestep, plain_features, taps
from swath.models.inputs import View, single
from swath.models.layers import Block, sincos_single
from swath.models.layers.products import Linear
from swath.models.layers.vit import at, run, table_for
from swath.models.loading import Layout

# Radar bands are negative numbers: VV, VH, HH, HV of an unknown orbit, then of ascending, then of descending ones.
POLARISATIONS = ("vv", "vh", "hh", "hv")


@dataclass(frozen=True)
class PanopticonShape:
    """Sizes of one Panopticon; `fusion` is the width in which the bands meet."""

    image: int = 518
    patch: int = 14
    dim: int = 768
    depth: int = 12
    heads: int = 12
    fusion: int = 2304
    fusion_heads: int = 16
    scale: float = 1e-5


class BandConv(nn.Module):
    """The same patch kernel for every band."""

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(1, dim, (1, patch, patch), (1, patch, patch))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) as (B, C, N, D)."""
        return self.conv3d(x[:, None]).flatten(3).permute(0, 2, 3, 1)


class BandCode(nn.Module):
    """What a band is, as a vector."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        third = dim // 3
        self.embed_transmit = nn.Parameter(torch.zeros(2, third))
        self.embed_receive = nn.Parameter(torch.zeros(2, third))
        self.embed_orbit = nn.Parameter(torch.zeros(2, dim - 2 * third))

    def forward(self, bands: Tensor) -> Tensor:
        """(B, C) wavelengths in nm, or negative radar numbers, as (B, C, D)."""
        send, receive, orbit = self.embed_transmit, self.embed_receive, self.embed_orbit
        orbits = torch.stack([orbit.mean(0), orbit[0], orbit[1]]).repeat_interleave(4, 0)
        radar = torch.cat([send[[0, 0, 1, 1]].repeat(3, 1), receive[[0, 1, 1, 0]].repeat(3, 1), orbits], 1)
        light = sincos_single(bands.clamp_min(0), self.dim).to(send.dtype)
        index = (-bands - 1).clamp(0, len(radar) - 1).long()
        return torch.where((bands < 0)[..., None], radar[index], light)


class BandAttention(nn.Module):
    """One query over the bands; no projection of the query, none behind."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inproj_k = Linear(dim, dim, bias=False)
        self.inproj_v = Linear(dim, dim, bias=False)

    def forward(self, query: Tensor, x: Tensor, hidden: Tensor | None) -> Tensor:
        parts = (query.expand(len(x), -1, -1), self.inproj_k(x), self.inproj_v(x))
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)
        bias = None if hidden is None else ~hidden[:, None, None]
        return scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)


class BandFusion(nn.Module):
    """Codes are added, then the query reads every place."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.chnemb = BandCode(dim)
        self.query = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.xattn = BandAttention(dim, heads)

    def forward(self, x: Tensor, bands: Tensor, hidden: Tensor | None) -> Tensor:
        b, c, n, d = x.shape
        x = (x + self.chnemb(bands)[:, :, None]).transpose(1, 2).reshape(b * n, c, d)
        hide = None if hidden is None else hidden.repeat_interleave(n, 0)
        return self.xattn(self.query, x, hide).view(b, n, d)


class PanopticonEmbed(nn.Module):
    """Bands to tokens."""

    def __init__(self, s: PanopticonShape) -> None:
        super().__init__()
        self.conv3d = BandConv(s.fusion, s.patch)
        self.chnfus = BandFusion(s.fusion, s.fusion_heads)
        self.proj = Linear(s.fusion, s.dim)

    def forward(self, x: Tensor, bands: Tensor, hidden: Tensor | None = None) -> Tensor:
        return self.proj(self.chnfus(self.conv3d(x), bands, hidden))


class Panopticon(EncoderModule):
    """The published teacher."""

    def __init__(self, shape: PanopticonShape, name: str) -> None:
        super().__init__()
        s = self.shape = shape
        self.patch_embed = PanopticonEmbed(s)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, s.dim))
        self.mask_token = nn.Parameter(torch.zeros(1, s.dim))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + (s.image // s.patch) ** 2, s.dim) * 0.02)
        self.blocks = nn.ModuleList(Block(s.dim, s.heads, init_scale=s.scale) for _ in range(s.depth))
        self.norm = nn.LayerNorm(s.dim, eps=1e-6)
        n = len(taps(s.depth))
        self.spec = EncoderSpec(
            name=name,
            inputs=(),
            widths=(s.dim,) * n,
            strides=(float(s.patch),) * n,
            pooled=s.dim,
            patch=s.patch,
            depth=s.depth,
            any_bands=True,
            licence="CC-BY-4.0",
        )

    def tokens(self, x: Tensor, bands: Tensor, hidden: Tensor | None = None) -> list[Tensor]:
        """Every block's output before the norm; `hidden` (B, C) bands are not read."""
        grid = (x.shape[2] // self.shape.patch, x.shape[3] // self.shape.patch)
        y = self.patch_embed(x, bands, hidden)
        y = torch.cat([self.cls_token.expand(len(y), -1, -1), y], 1)
        return run(self.blocks, y + table_for(self.pos_embed, grid, offset=0.1))

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        view = single(views, self.spec.name)
        numbers = torch.tensor([_number(b.name, b.nm) for b in view.sensor.bands], device=view.x.device)
        p = self.shape.patch

        def image(x: Tensor, rows: Tensor) -> Features:
            check_size(x.shape[2], x.shape[3], p, self.spec.name)
            every = self.tokens(x, numbers.expand(len(x), -1))
            levels = at(every, taps(self.shape.depth), self.norm(every[-1]))
            return plain_features(levels, (x.shape[2] // p, x.shape[3] // p), float(p))

        return per_timestep(view, image)


def _number(name: str, nm: float | None) -> float:
    if nm is not None:
        return float(round(nm))
    if name not in POLARISATIONS:
        raise UserError(
            f"the band {name} has neither a wavelength nor a polarisation",
            where="encoder panopticon",
            remedy="leave the band out: Panopticon knows optical and radar bands",
        )
    return -1.0 - POLARISATIONS.index(name)


@dataclass(frozen=True)
class PanopticonConfig:
    """Panopticon, one published size."""

    kind: ClassVar[str] = "panopticon"
    sizes: ClassVar[Mapping[str, PanopticonShape]] = {
        "tiny": PanopticonShape(image=56, dim=48, depth=4, heads=4, fusion=96, fusion_heads=4),
        "base": PanopticonShape(),
    }
    size: str = "base"
    shape: PanopticonShape | None = None

    def build(self) -> Panopticon:
        return Panopticon(self.shape or self.sizes[self.size], f"panopticon/{self.size}")

    def layout(self) -> Layout:
        return Layout(inside=("model", "teacher"), strip=("backbone.",))


MEMBER = PanopticonConfig
