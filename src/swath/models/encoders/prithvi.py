"""Prithvi-EO 1.0 and 2.0: a masked autoencoder over space and time, with places and dates in the TL variants.

Foundation Models for Generalist Geospatial AI, https://arxiv.org/abs/2310.18660; Prithvi-EO-2.0,
https://arxiv.org/abs/2412.02732. Tokens get x = patch(x) + p(t, h, w) + s_t e(year, day) + s_l e(lat, lon).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from swath.core import EncoderSpec, Features, Input, UserError, Where
from swath.models.encoder import EncoderModule, check_size, plain_features, taps
from swath.models.inputs import View, single
from swath.models.layers import Block, gather_tokens, keep_by_noise, restore_tokens, sincos_3d, sincos_single
from swath.models.layers.masked import masked_mse
from swath.models.layers.products import Linear
from swath.models.loading import Layout

Triple = tuple[int, int, int]
BANDS = ("blue", "green", "red", "nir08", "swir16", "swir22")
STATISTICS = {
    1: ((775.0, 1081.0, 1229.0, 2497.0, 2204.0, 1611.0), (1282.0, 1270.0, 1399.0, 1368.0, 1292.0, 1155.0)),
    2: ((1087.0, 1342.0, 1433.0, 2734.0, 1958.0, 1363.0), (2248.0, 2179.0, 2178.0, 1850.0, 1242.0, 1049.0)),
}


# The file of version 1 may have neither of the two prefixes.
FLAT = (("*decoder*", "decoder."), ("*_dec*", "decoder."), ("mask_token", "decoder."), ("*", "encoder."))


@dataclass(frozen=True)
class PrithviShape:
    """Sizes of one Prithvi. `frames` and `image` only fix the stored position table; any size runs."""

    version: int = 2
    image: int = 224
    frames: int = 4
    patch: Triple = (1, 16, 16)
    bands: int = 6
    dim: int = 768
    depth: int = 12
    heads: int = 12
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mlp_ratio: float = 4.0
    coords: tuple[str, ...] = ()
    learn_scale: bool = True


def _tl(shape: PrithviShape) -> PrithviShape:
    from dataclasses import replace

    return replace(shape, coords=("time", "location"))


_V2_100 = PrithviShape()
_V2_300 = PrithviShape(dim=1024, depth=24, heads=16)
_V2_600 = PrithviShape(dim=1280, depth=32, heads=16, patch=(1, 14, 14))


class Coordinates(nn.Module):
    """Two numbers (year and day, or latitude and longitude) as sines, times a scale."""

    scale: Tensor

    def __init__(self, dim: int, learn: bool) -> None:
        super().__init__()
        self.dim = dim
        if learn:
            self.scale = nn.Parameter(torch.full((1,), 0.1))
        else:
            self.register_buffer("scale", torch.ones(1))

    def forward(self, pair: Tensor) -> Tensor:
        half = self.dim // 2
        parts = [sincos_single(pair[..., 0], half), sincos_single(pair[..., 1], self.dim - half)]
        return self.scale * torch.cat(parts, -1).to(self.scale.dtype)


class TubeEmbed(nn.Module):
    """A patch of space and time as one token."""

    def __init__(self, bands: int, dim: int, patch: Triple) -> None:
        super().__init__()
        self.proj = nn.Conv3d(bands, dim, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


def resized_table(table: Tensor, grid: Triple, new: Triple) -> Tensor:
    """The position table (with its class row) for another grid; time is recomputed, space is resized."""
    if grid == new:
        return table
    dim = table.shape[-1]
    rest = table[:, 1:]
    if new[0] != grid[0]:
        rest = sincos_3d(new[0], *grid[1:], dim).to(table)[None]
    planes = rest.reshape(new[0], grid[1], grid[2], dim).permute(0, 3, 1, 2).float()
    planes = interpolate(planes, size=new[1:], mode="bicubic", align_corners=True)
    return torch.cat([table[:, :1], planes.permute(0, 2, 3, 1).reshape(1, -1, dim).to(table)], 1)


class PrithviEncoder(nn.Module):
    """The encoder half, under the official names."""

    pos_embed: Tensor

    def __init__(self, s: PrithviShape) -> None:
        super().__init__()
        self.patch, self.grid = s.patch, (s.frames // s.patch[0], s.image // s.patch[1], s.image // s.patch[2])
        self.patch_embed = TubeEmbed(s.bands, s.dim, s.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, s.dim))
        self.register_buffer("pos_embed", _table(self.grid, s.dim))
        if "time" in s.coords:
            self.temporal_embed_enc = Coordinates(s.dim, s.learn_scale)
        if "location" in s.coords:
            self.location_embed_enc = Coordinates(s.dim, s.learn_scale)
        self.blocks = nn.ModuleList(Block(s.dim, s.heads, s.mlp_ratio, eps=1e-5) for _ in range(s.depth))
        self.norm = nn.LayerNorm(s.dim)

    def embed(self, x: Tensor, dates: Tensor | None, places: Tensor | None) -> tuple[Tensor, Triple]:
        """Patch tokens with positions, without the class token, and their grid."""
        t, h, w = (n // p for n, p in zip(x.shape[2:], self.patch, strict=True))
        y = self.patch_embed(x) + resized_table(self.pos_embed, self.grid, (t, h, w))[:, 1:].to(x.dtype)
        if dates is not None and hasattr(self, "temporal_embed_enc"):
            y = y + self.temporal_embed_enc(dates).repeat_interleave(y.shape[1] // dates.shape[1], 1)
        if places is not None and hasattr(self, "location_embed_enc"):
            y = y + self.location_embed_enc(places[:, None])
        return y, (t, h, w)

    def run(self, tokens: Tensor, seen: Tensor | None = None) -> list[Tensor]:
        """Outputs of every block, class token first; the last one is normalised. `seen` (B, N) hides the rest."""
        head = (self.cls_token + self.pos_embed[:, :1].to(tokens.dtype)).expand(len(tokens), -1, -1)
        x, outputs = torch.cat([head, tokens], 1), list[Tensor]()
        hide = None if seen is None else nn.functional.pad(seen, (1, 0), value=True)[:, None, None]
        for block in self.blocks:
            x = block(x, hide)
            outputs.append(x)
        outputs[-1] = self.norm(x)
        return outputs


class PrithviDecoder(nn.Module):
    """The reconstruction half of the masked autoencoder."""

    decoder_pos_embed: Tensor

    def __init__(self, s: PrithviShape) -> None:
        super().__init__()
        self.grid = (s.frames // s.patch[0], s.image // s.patch[1], s.image // s.patch[2])
        d = s.decoder_dim
        self.decoder_embed = Linear(s.dim, d)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, d))
        self.register_buffer("decoder_pos_embed", _table(self.grid, d))
        if "time" in s.coords:
            self.temporal_embed_dec = Coordinates(d, s.learn_scale)
        if "location" in s.coords:
            self.location_embed_dec = Coordinates(d, s.learn_scale)
        blocks = (Block(d, s.decoder_heads, s.mlp_ratio, eps=1e-5) for _ in range(s.decoder_depth))
        self.decoder_blocks = nn.ModuleList(blocks)
        self.decoder_norm = nn.LayerNorm(d)
        self.decoder_pred = Linear(d, s.bands * s.patch[0] * s.patch[1] * s.patch[2])

    def forward(
        self, latent: Tensor, back: Tensor, grid: Triple, dates: Tensor | None, places: Tensor | None
    ) -> Tensor:
        x = self.decoder_embed(latent)
        y = restore_tokens(x[:, 1:], self.mask_token, back)
        table = resized_table(self.decoder_pos_embed, self.grid, grid).to(x.dtype)
        y = y + table[:, 1:]
        if dates is not None and hasattr(self, "temporal_embed_dec"):
            y = y + self.temporal_embed_dec(dates).repeat_interleave(y.shape[1] // dates.shape[1], 1)
        if places is not None and hasattr(self, "location_embed_dec"):
            y = y + self.location_embed_dec(places[:, None])
        x = torch.cat([x[:, :1] + table[:, :1], y], 1)
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]


def _table(grid: Triple, dim: int) -> Tensor:
    return torch.cat([torch.zeros(1, dim), sincos_3d(*grid, dim)])[None]


class Prithvi(EncoderModule):
    """Prithvi as an encoder; with `decoder` also the published masked autoencoder."""

    def __init__(self, shape: PrithviShape, decoder: bool, name: str = "prithvi") -> None:
        super().__init__()
        self.shape = shape
        self.encoder = PrithviEncoder(shape)
        if decoder:
            self.decoder = PrithviDecoder(shape)
        mean, std = STATISTICS[shape.version]
        levels = taps(shape.depth)
        self.spec = EncoderSpec(
            name=name,
            inputs=tuple(Input(s, BANDS, "reflectance", mean, std, gain=10000.0) for s in ("hls-s30", "hls-l30")),
            widths=(shape.dim,) * len(levels),
            strides=(float(shape.patch[1]),) * len(levels),
            pooled=shape.dim,
            patch=shape.patch[1],
            depth=shape.depth,
            native_time=True,
            licence="Apache-2.0",
        )

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        view = single(views, self.spec.name)
        b, t, _, h, w = view.x.shape
        check_size(h, w, self.spec.patch, self.spec.name)
        if t % self.shape.patch[0]:
            raise UserError(f"{self.spec.name} needs a multiple of {self.shape.patch[0]} timesteps, not {t}")
        tokens, grid = self.encoder.embed(view.x.transpose(1, 2), _dates(view), _places(where))
        seen = torch.where(view.seen.any(1, keepdim=True), view.seen, torch.ones_like(view.seen))
        steps = seen.view(b, grid[0], -1).any(2)
        hide = None if t == 1 or bool(seen.all()) else steps.repeat_interleave(grid[1] * grid[2], 1)
        outputs = self.encoder.run(tokens, hide)
        # One map a level: the mean over valid timesteps, so that its width does not depend on T.
        weight = steps.to(view.x.dtype)
        weight = weight / weight.sum(1, keepdim=True)
        means: list[Tensor] = []
        for i in taps(self.shape.depth):
            patches = outputs[i][:, 1:].unflatten(1, (grid[0], grid[1] * grid[2]))
            means.append(torch.einsum("bt,btnd->bnd", weight, patches))
        return plain_features(means, grid[1:], self.spec.strides[0], pooled=outputs[-1][:, 0], prefix=0)

    def reconstruct(
        self, x: Tensor, noise: Tensor, ratio: float, dates: Tensor | None = None, places: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The masked autoencoder on normalised x (B, C, T, H, W): latent, mask, and the prediction per token."""
        tokens, grid = self.encoder.embed(x, dates, places)
        kept, mask, back = keep_by_noise(noise, int(tokens.shape[1] * (1 - ratio)))
        latent = self.encoder.run(gather_tokens(tokens, kept))[-1]
        pred = self.decoder(latent, back, grid, dates, places)
        return {"latent": latent, "mask": mask, "ids_restore": back, "pred": pred}

    def loss(self, x: Tensor, pred: Tensor, mask: Tensor, standardise: bool = False) -> Tensor:
        """Squared error on the removed tokens."""
        return masked_mse(pred, tubes(x, self.shape.patch), mask, standardise=standardise)


def tubes(x: Tensor, patch: Triple) -> Tensor:
    """(B, C, T, H, W) as (B, t*h*w, s*p*q*C)."""
    b, c, *size = x.shape
    (t, h, w), (s, p, q) = (n // k for n, k in zip(size, patch, strict=True)), patch
    return x.view(b, c, t, s, h, p, w, q).permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(b, t * h * w, s * p * q * c)


def untubes(tokens: Tensor, patch: Triple, grid: Triple) -> Tensor:
    """The inverse of `tubes`."""
    (t, h, w), (s, p, q) = grid, patch
    y = tokens.view(len(tokens), t, h, w, s, p, q, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return y.reshape(len(tokens), -1, t * s, h * p, w * q)


def _dates(view: View) -> Tensor | None:
    """(B, T, 2) of year and day of the year (from 1)."""
    if view.times is None:
        return None
    days = [[date(1970, 1, 1) + timedelta(days=int(d)) for d in row] for row in view.times.tolist()]
    pairs = [[(d.year, d.timetuple().tm_yday) for d in row] for row in days]
    return torch.tensor(pairs, dtype=torch.float32, device=view.x.device)


def _places(where: Where) -> Tensor | None:
    """(B, 2) of latitude and longitude, or None when any is unknown."""
    known = torch.isfinite(where.lonlat).all()
    return where.lonlat.flip(1).float() if bool(known) else None


@dataclass(frozen=True)
class PrithviConfig:
    """Which Prithvi. Without coordinates in the batch, the TL variants run as their authors allow: without them."""

    kind: ClassVar[str] = "prithvi"
    sizes: ClassVar[Mapping[str, PrithviShape]] = {
        "tiny": PrithviShape(image=32, frames=1, dim=64, depth=4, heads=4, decoder_dim=32, decoder_depth=1),
        "v1-tiny": PrithviShape(frames=1, dim=256, depth=4, heads=4, decoder_dim=128, decoder_depth=4, decoder_heads=4),
        "v1-100": PrithviShape(version=1, frames=3),
        "v2-tiny-tl": _tl(PrithviShape(frames=1, dim=192, heads=3)),
        "v2-100": _V2_100,
        "v2-100-tl": _tl(_V2_100),
        "v2-300": _V2_300,
        "v2-300-tl": _tl(_V2_300),
        "v2-600": _V2_600,
        "v2-600-tl": _tl(_V2_600),
    }
    size: str = "v2-300"
    shape: PrithviShape | None = None
    decoder: bool = False

    def build(self) -> Prithvi:
        shape = self.shape or self.sizes[self.size]
        return Prithvi(shape, self.decoder, "prithvi" if self.shape else f"prithvi/{self.size}")

    def layout(self) -> Layout:
        """Version 1 may be flat."""
        drop = () if self.decoder else ("decoder.*",)
        return Layout(inside=("state_dict", "model"), recomputed=("*pos_embed",), drop=drop, sort=FLAT)


MEMBER = PrithviConfig
