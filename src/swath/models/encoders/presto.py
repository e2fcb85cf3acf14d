"""Presto: a small transformer over a pixel's months; each month has one token per group of bands.

Lightweight, Pre-trained Transformers for Remote Sensing Timeseries, https://arxiv.org/abs/2304.14065.
token = embed(bands of a group) + [month | group | position]; pooled = norm(mean of all tokens and the place).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import ClassVar

import torch
from torch import Tensor, nn

from swath.core import EncoderSpec, Features, Input, UserError, Where
from swath.models.encoder import EncoderModule
from swath.models.inputs import View
from swath.models.layers import Block, gather_tokens
from swath.models.layers.products import Linear
from swath.models.layers.vit import run_all
from swath.models.loading import Layout

GROUPS = {
    "S1": (0, 1), "S2_RGB": (2, 3, 4), "S2_Red_Edge": (5, 6, 7), "S2_NIR_10m": (8,), "S2_NIR_20m": (9,),
    "S2_SWIR": (10, 11), "ERA5": (12, 13), "SRTM": (14, 15), "NDVI": (16,),
}  # fmt: skip
DYNAMIC_WORLD = len(GROUPS)
CLASSES = 9
STILL = list(GROUPS).index("SRTM")
S2 = Input(
    "sentinel2-l2a",
    ("blue", "green", "red", "rededge071", "rededge075", "rededge078", "nir", "nir08", "swir16", "swir22"),
    "reflectance",
)
S1 = Input("sentinel1-grd", ("vv", "vh"), "db", mean=(-25.0, -25.0), std=(25.0, 25.0))
ERA5 = Input("era5", ("temperature_2m", "precipitation"), "", mean=(272.15, 0.0), std=(35.0, 0.03))
SLICES = {S1.sensor: slice(0, 2), S2.sensor: slice(2, 12)}


@dataclass(frozen=True)
class PrestoShape:
    """Sizes of one Presto."""

    dim: int = 128
    depth: int = 2
    heads: int = 8
    ratio: float = 4.0
    channel_share: float = 0.25
    month_share: float = 0.25
    steps: int = 24
    decoder_dim: int = 128
    decoder_depth: int = 2
    decoder_heads: int = 8


def month_table(dim: int) -> Tensor:
    """(12, dim): the angle of each month, as sines then cosines."""
    angle = torch.arange(12)[:, None] * (2 * math.pi / 12)
    half = angle.expand(12, dim // 2)
    return torch.cat([half.sin(), half.cos()], 1)


def step_table(steps: int, dim: int, base: float = 1000.0) -> Tensor:
    """(1, steps, dim): interleaved sines and cosines."""
    at = torch.arange(steps)[:, None].double()
    rates = base ** (-(torch.arange(dim) // 2 * 2).double() / dim)
    angle = at * rates
    table = torch.where(torch.arange(dim) % 2 == 0, angle.sin(), angle.cos())
    return table.float()[None]


def months_of(first: int | Tensor, b: int, t: int) -> Tensor:
    """(B, T) months 0..11 that follow the first."""
    start = (
        torch.as_tensor(first).reshape(-1, 1).expand(b, 1) if isinstance(first, Tensor) else torch.full((b, 1), first)
    )
    return (start + torch.arange(t)) % 12


class PrestoEncoder(nn.Module):
    """The encoder half, under the official names."""

    def __init__(self, s: PrestoShape) -> None:
        super().__init__()
        channel, month = int(s.dim * s.channel_share), int(s.dim * s.month_share)
        self.eo_patch_embed = nn.ModuleDict({k: Linear(len(v), s.dim) for k, v in GROUPS.items()})
        self.dw_embed = nn.Embedding(CLASSES + 1, s.dim)
        self.latlon_embed = Linear(3, s.dim)
        self.channel_embed = nn.Embedding(len(GROUPS) + 1, channel)
        self.month_embed = nn.Embedding.from_pretrained(month_table(month), freeze=True)
        self.pos_embed = nn.Parameter(step_table(s.steps, s.dim - channel - month), requires_grad=False)
        self.blocks = nn.ModuleList(Block(s.dim, s.heads, s.ratio, eps=1e-5) for _ in range(s.depth))
        self.norm = nn.LayerNorm(s.dim)

    def code(self, group: int, months: Tensor) -> Tensor:
        """(B, T, D) of month, group and position; a group without time has one token with its group only."""
        b, t = months.shape
        month, place = self.month_embed(months), self.pos_embed[:, :t].expand(b, -1, -1)
        channel = self.channel_embed.weight[group].expand(b, t, -1)
        if group == STILL:
            return torch.cat([torch.zeros_like(month), channel, torch.zeros_like(place)], -1)[:, :1]
        return torch.cat([month, channel, place], -1)

    def tokens(self, x: Tensor, classes: Tensor, mask: Tensor, months: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, D) of x (B, T, 17) and which are hidden (B, N): a group with any masked band is."""
        parts: list[Tensor] = []
        hidden: list[Tensor] = []
        for i, (name, bands) in enumerate(GROUPS.items()):
            steps = slice(0, 1) if i == STILL else slice(None)
            parts.append(self.eo_patch_embed[name](x[..., bands])[:, steps] + self.code(i, months))
            hidden.append(mask[:, steps, list(bands)].amax(-1) > 0)
        parts.append(self.dw_embed(classes) + self.code(DYNAMIC_WORLD, months))
        hidden.append(classes == CLASSES)
        return torch.cat(parts, 1), torch.cat(hidden, 1)

    def run(self, tokens: Tensor, hidden: Tensor, latlon: Tensor) -> tuple[Tensor, Tensor]:
        """All tokens before the norm, the place first; hidden ones take no part. Also which take part (B, 1 + N)."""
        x = torch.cat([self.latlon_embed(cartesian(latlon).to(tokens.dtype))[:, None], tokens], 1)
        seen = nn.functional.pad(~hidden, (1, 0), value=True)
        bias = None if bool(seen.all()) else seen[:, None, None]
        for block in self.blocks:
            x = block(x, bias)
        return x, seen

    def pool(self, x: Tensor, seen: Tensor) -> Tensor:
        """The normalised mean of the tokens that take part."""
        weight = seen.to(x.dtype)[..., None]
        return self.norm((x * weight).sum(1) / weight.sum(1))


def cartesian(latlon: Tensor) -> Tensor:
    """(B, 3) on the unit sphere from degrees of latitude and longitude."""
    lat, lon = torch.deg2rad(latlon).unbind(-1)
    return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], -1)


class PrestoDecoder(nn.Module):
    """The reconstruction half; the group table is the encoder's own."""

    def __init__(self, s: PrestoShape, channels: nn.Embedding) -> None:
        super().__init__()
        rest = s.decoder_dim - channels.embedding_dim
        self.decoder_embed = Linear(s.dim, s.decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(s.decoder_dim))
        self.channel_embeddings = channels
        self.month_embed = nn.Embedding.from_pretrained(month_table(rest // 2), freeze=True)
        self.pos_embed = nn.Parameter(step_table(s.steps, rest - rest // 2), requires_grad=False)
        blocks = (Block(s.decoder_dim, s.decoder_heads, s.ratio, eps=1e-5) for _ in range(s.decoder_depth))
        self.decoder_blocks = nn.ModuleList(blocks)
        self.decoder_norm = nn.LayerNorm(s.decoder_dim)
        self.eo_decoder_pred = nn.ModuleDict({k: Linear(s.decoder_dim, len(v)) for k, v in GROUPS.items()})
        self.dw_decoder_pred = Linear(s.decoder_dim, CLASSES)

    def _code(self, months: Tensor) -> Tensor:
        b, t = months.shape
        month, place = self.month_embed(months), self.pos_embed[:, :t].expand(b, -1, -1)
        parts: list[Tensor] = []
        for i in range(len(GROUPS) + 1):
            channel = self.channel_embeddings.weight[i].expand(b, t, -1)
            whole = torch.cat([month, channel, place], -1)
            if i == STILL:
                whole = torch.cat([torch.zeros_like(month), channel, torch.zeros_like(place)], -1)[:, :1]
            parts.append(whole)
        return torch.cat(parts, 1)

    def forward(self, latent: Tensor, hidden: Tensor, months: Tensor) -> tuple[Tensor, Tensor]:
        """Bands (B, T, 17) and land cover (B, T, 9) from normalised tokens (B, 1 + N, D), hidden ones replaced."""
        t = months.shape[1]
        y = self.decoder_embed(latent)
        y = torch.cat([y[:, :1], torch.where(hidden[..., None], self.mask_token, y[:, 1:]) + self._code(months)], 1)
        y = self.decoder_norm(run_all(self.decoder_blocks, y))[:, 1:]
        sizes = [1 if i == STILL else t for i in range(len(GROUPS) + 1)]
        parts = y.split(sizes, 1)
        bands = [self.eo_decoder_pred[n](p).expand(-1, t, -1) for n, p in zip(GROUPS, parts, strict=False)]
        return torch.cat(bands, -1), self.dw_decoder_pred(parts[-1])


class Presto(EncoderModule):
    """Presto for every pixel of an image series: maps have the stride 1."""

    def __init__(self, shape: PrestoShape, config: PrestoConfig) -> None:
        super().__init__()
        s = self.shape = shape
        self.month, self.chunk = config.month, config.chunk
        self.encoder = PrestoEncoder(s)
        if config.decoder:
            self.decoder = PrestoDecoder(s, self.encoder.channel_embed)
        self.spec = EncoderSpec(
            name=f"presto/{config.size}",
            inputs=(S2, S1),
            widths=(s.dim,),
            strides=(1.0,),
            pooled=s.dim,
            depth=s.depth,
            native_time=True,
            licence="MIT",
            notes="monthly composites, at most 24; without dates the month of the config is assumed for the first",
        )

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        x, mask, months = self._series(views)
        b, t, h, w, _ = x.shape
        latlon = where.lonlat.flip(1).nan_to_num(0.0).float().to(x.device)
        flat = x.permute(0, 2, 3, 1, 4).reshape(b * h * w, t, -1)
        hide = mask.permute(0, 2, 3, 1, 4).reshape(b * h * w, t, -1)
        rows = torch.arange(b, device=x.device).repeat_interleave(h * w)
        parts: list[Tensor] = []
        for i in range(0, len(flat), self.chunk):
            at = rows[i : i + self.chunk]
            classes = torch.full((len(at), t), CLASSES, device=x.device)
            tokens, hidden = self.encoder.tokens(
                flat[i : i + self.chunk], classes, hide[i : i + self.chunk], months[at]
            )
            parts.append(self.encoder.pool(*self.encoder.run(tokens, hidden, latlon[at])))
        pixels = torch.cat(parts).view(b, h, w, -1)
        maps = pixels.permute(0, 3, 1, 2)
        return Features((maps,), pixels.mean((1, 2)), (1.0,), pixels.flatten(1, 2))

    def _series(self, views: Mapping[str, View]) -> tuple[Tensor, Tensor, Tensor]:
        """x and mask (B, T, H, W, 17) and months (B, T)."""
        shapes = {k: v.x.shape[:2] + v.x.shape[3:] for k, v in views.items()}
        if len(set(shapes.values())) > 1:
            raise UserError(f"the layers differ in size or timesteps: {shapes}", where=f"encoder {self.spec.name}")
        first = next(iter(views.values()))
        b, t, h, w = next(iter(shapes.values()))
        if t > self.shape.steps:
            raise UserError(f"{self.spec.name} takes at most {self.shape.steps} timesteps, not {t}")
        x = first.x.new_zeros(b, t, h, w, 17)
        mask = torch.ones_like(x)
        for name, view in views.items():
            x[..., SLICES[name]] = view.x.permute(0, 1, 3, 4, 2)
            present = torch.tensor(view.present, device=x.device)
            mask[..., SLICES[name]] = (~(view.valid.permute(0, 1, 3, 4, 2) & present)).to(x.dtype)
        if S2.sensor in views:
            red, nir = x[..., 4], x[..., 8]
            total = red + nir
            x[..., 16] = torch.where(total > 0, (nir - red) / total.clamp_min(1e-6), torch.zeros_like(total))
            mask[..., 16] = torch.maximum(mask[..., 4], mask[..., 8])
        return x, mask, self._months(first, b, t)

    def _months(self, view: View, b: int, t: int) -> Tensor:
        if view.times is not None:
            return months_from(view.times).to(view.x.device)
        if self.month is None:
            raise UserError(
                f"{self.spec.name} codes the month and the layer has no dates",
                where=f"layer {view.sensor.id}",
                remedy="give dates, or set the encoder's `month` (0..11) as an assumption",
            )
        return months_of(self.month, b, t).to(view.x.device)

    def reconstruct(
        self, x: Tensor, classes: Tensor, mask: Tensor, months: Tensor, latlon: Tensor
    ) -> dict[str, Tensor]:
        """The masked autoencoder on a pixel series (B, T, 17): tokens seen, what was kept, and the predictions."""
        tokens, hidden = self.encoder.tokens(x, classes, mask, months)
        raw, seen = self.encoder.run(tokens, hidden, latlon)
        b = len(x)
        kept = (~hidden).nonzero()[:, 1].view(b, -1)
        removed = hidden.nonzero()[:, 1].view(b, -1)
        latent = self.encoder.norm(raw)
        bands, cover = self.decoder(latent, hidden, months)
        place = torch.zeros(b, 1, dtype=kept.dtype, device=kept.device)
        shown = gather_tokens(latent, torch.cat([place, kept + 1], 1))
        return {"pooled": self.encoder.pool(raw, seen), "tokens": shown, "kept": kept, "removed": removed,
                "recon_eo": bands, "recon_dw": cover}  # fmt: skip


def months_from(times: Tensor) -> Tensor:
    """(B, T) months 0..11 of days since 1970."""
    rows = [[(date(1970, 1, 1) + timedelta(days=int(d))).month - 1 for d in row] for row in times.tolist()]
    return torch.tensor(rows, dtype=torch.int64)


@dataclass(frozen=True)
class PrestoConfig:
    """Presto (one published size). `month`: the first month (0..11) assumed for layers without dates."""

    kind: ClassVar[str] = "presto"
    sizes: ClassVar[Mapping[str, PrestoShape]] = {"tiny": PrestoShape(), "default": PrestoShape()}
    size: str = "default"
    shape: PrestoShape | None = None
    decoder: bool = False
    month: int | None = None
    chunk: int = 4096

    def build(self) -> Presto:
        return Presto(self.shape or self.sizes[self.size], self)

    def layout(self) -> Layout:
        return Layout(drop=() if self.decoder else ("decoder.*",))


MEMBER = PrestoConfig
