"""OlmoEarth: latent masked modelling over Sentinel-1, Sentinel-2, Landsat and maps, at any patch from 1 to 8 pixels.

https://arxiv.org/abs/2511.13655. A token is one band set of one patch at one date. Version 1 adds four encodings
(band set, slot, month, ground position), each a quarter of the width; 1.2 turns queries and keys by learned
frequencies of (days, row, column) instead of slot and position. Images are resized so that a patch is 8 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swath.core import EncoderSpec, Features, Input, UnknownName, UserError, Where
from swath.models.encoder import EncoderModule, check_size, taps
from swath.models.inputs import View
from swath.models.layers import Mlp
from swath.models.layers.products import Linear
from swath.models.loading import Layout

VISIBLE, DECODED = 0, 2
STATIC = ("worldcover", "srtm", "openstreetmap_raster", "wri_canopy_height_map", "cdl", "worldcereal")
BASE_GSD, BASE_PATCH = 10.0, 8
S2 = (("blue", 1188.9412572078477, 1859.1923971769581), ("green", 1407.7739105458452, 1727.7387413631088),
      ("red", 1513.0573882432757, 1740.7757298757895), ("nir", 2755.481305028308, 1612.2565699990187),
      ("rededge071", 1890.9893042634167, 1754.7320388511766), ("rededge075", 2483.7812315422448, 1622.1172720635755),
      ("rededge078", 2722.728248756412, 1621.8226170190276), ("nir08", 2885.570263047681, 1611.3587521042082),
      ("swir16", 2562.852607796968, 1441.5471830655151), ("swir22", 1914.1383249044113, 1328.8914382756407),
      ("coastal", 1115.8494388252218, 1955.6991794280914), ("nir09", 3269.812554170875, 2651.088425085525))  # fmt: skip
S1 = (("vv", -11.648990747328444, 10.840350299936597), ("vh", -17.745436133270044, 10.216274681392647))
LANDSAT = (("pan", 10132.090998288624, 7788.7282476413675), ("coastal", 11000.959519415692, 7857.9205791510285),
           ("blue", 10493.416292898208, 7872.392135393957), ("green", 10146.318478942761, 7676.2774595217115),
           ("red", 10236.446029167704, 8038.218121686258), ("nir08", 14427.021492873682, 9302.431605916356),
           ("swir16", 12164.08145353199, 7442.390533225441), ("swir22", 9712.032951062303, 6037.712185433222),
           ("cirrus", 4585.469566989013, 2549.745355740949), ("lwir11", 21347.89356940543, 10957.2815012006),
           ("lwir12", 19686.23205859348, 9911.421224126807))  # fmt: skip


def _input(sensor: str, unit: str, rows: tuple[tuple[str, float, float], ...], gain: float = 1.0) -> Input:
    """(x - (mean - 2 std)) / (4 std)."""
    return Input(sensor, tuple(r[0] for r in rows), unit, tuple(m - 2 * s for _, m, s in rows),
                 tuple(4 * s for _, _, s in rows), gain=gain)  # fmt: skip


def _stored(row: tuple[str, float, float]) -> tuple[str, float, float]:
    """Landsat statistics are of stored numbers: as reflectance, or as radiance of the thermal bands."""
    scale, offset = (0.0003342, 0.1) if row[0].startswith("lwir") else (2e-5, -0.1)
    return row[0], row[1] * scale + offset, row[2] * scale


INPUTS: Mapping[str, Input] = {
    "sentinel2_l2a": _input("sentinel2-l2a", "reflectance", S2, 10_000.0),
    "sentinel1": _input("sentinel1-rtc", "db", S1),
    "landsat": _input("landsat8-toa", "own", tuple(_stored(r) for r in LANDSAT)),
}
Bandsets = Mapping[str, tuple[int, ...]]
_MAPS: Bandsets = {"worldcover": (1,), "srtm": (1,), "openstreetmap_raster": (30,), "wri_canopy_height_map": (1,),
                   "cdl": (1,), "worldcereal": (8,)}  # fmt: skip
SPLIT: Bandsets = {"sentinel2_l2a": (4, 6, 2), "sentinel1": (2,), "landsat": (1, 10), **_MAPS}
JOINT: Bandsets = {"sentinel2_l2a": (12,), "sentinel1": (2,), "landsat": (11,), **_MAPS}


@dataclass(frozen=True)
class Plan:
    """Sizes: `bandsets` gives the channels of every band set; `hidden` a width per pixel before the patch; `rope`."""

    dim: int
    depth: int
    heads: int
    bandsets: Bandsets
    hidden: int = 0
    rope: bool = False
    decoder_dim: int = 0
    decoder_depth: int = 4
    decoder_heads: int = 0
    ratio: float = 4.0
    day_scale: float = 1.0 / 30.0
    rope_base: float = 10_000.0


_DIMS = {
    "nano": (128, 4, 8),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}
_SET = {"v1": ("nano", "tiny", "base", "large"), "v1_1": ("nano", "tiny", "base"),
        "v1_2": ("nano", "tiny", "small", "base")}  # fmt: skip


def _plan(version: str, size: str) -> Plan:
    joint = version != "v1"
    return Plan(*_DIMS[size], JOINT if joint else SPLIT, 64 if joint else 0, version == "v1_2")


SIZES: Mapping[str, Plan] = {
    "tiny": Plan(64, 2, 4, SPLIT),
    **{f"{v}-{s}": _plan(v, s) for v, sizes in _SET.items() for s in sizes},
}


@dataclass(frozen=True)
class OlmoEarth:
    """`patch` is in pixels, 1 to 8; weights are under the OlmoEarth Artifact License."""

    kind: ClassVar[str] = "olmoearth"
    sizes: ClassVar[Mapping[str, Plan]] = SIZES
    size: str = "v1-base"
    patch: int = 4

    def build(self) -> OlmoEarthEncoder:
        if self.size not in SIZES:
            raise UnknownName("size of olmoearth", self.size, SIZES)
        if not 1 <= self.patch <= BASE_PATCH:
            raise UserError(f"the patch is 1 to {BASE_PATCH} pixels, not {self.patch}", where="encoder olmoearth")
        return OlmoEarthEncoder(SIZES[self.size], self.patch, f"olmoearth/{self.size}")

    def layout(self) -> Layout:
        return Layout(keep=("encoder.",), strip=("encoder.",), under="trunk.")


class BandsetPatches(nn.Module):
    """One band set: optional features per pixel, then patches."""

    def __init__(self, channels: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        if hidden:
            self.pixel_proj = nn.Sequential(Linear(channels, hidden), nn.ReLU())
            self.proj: nn.Module = Linear(hidden * BASE_PATCH**2, dim)
        else:
            self.proj = nn.Conv2d(channels, dim, BASE_PATCH, BASE_PATCH)

    def forward(self, x: Tensor, patch: int) -> Tensor:
        """(N, C, H, W) as (N, h, w, D)."""
        if patch != BASE_PATCH:
            size = tuple(n // patch * BASE_PATCH for n in x.shape[2:])
            x = F.interpolate(x.float(), size, mode="bicubic", antialias=True).to(x.dtype)
        if not self.hidden:
            return self.proj(x).permute(0, 2, 3, 1)
        y = self.pixel_proj(x.permute(0, 2, 3, 1))
        n, h, w, c = y.shape
        p = BASE_PATCH
        y = y.view(n, h // p, p, w // p, p, c).transpose(2, 3)
        return self.proj(y.reshape(n, h // p, w // p, p * p * c))


class Patches(nn.Module):
    """All modalities: `per_modality_embeddings.NAME.NAME__i`."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.per_modality_embeddings = nn.ModuleDict({
            name: nn.ModuleDict({f"{name}__{i}": BandsetPatches(c, plan.dim, plan.hidden) for i, c in enumerate(sets)})
            for name, sets in plan.bandsets.items()
        })  # fmt: skip
        self.sets = plan.bandsets

    def forward(self, name: str, x: Tensor, patch: int) -> Tensor:
        """(B, H, W, T, C) as (B, h, w, T, sets, D)."""
        b, _, _, t, _ = x.shape
        flat = x.permute(0, 3, 4, 1, 2).flatten(0, 1)
        parts = flat.split(list(self.sets[name]), 1)
        nets = cast(nn.ModuleDict, self.per_modality_embeddings[name]).values()
        y = torch.stack([net(p, patch) for net, p in zip(nets, parts, strict=True)], -2)
        return y.unflatten(0, (b, t)).permute(0, 2, 3, 1, 4, 5)


def slot_code(positions: Tensor, dim: int) -> Tensor:
    """(..., dim) sines then cosines at 10000^(-i / (2 dim)): the published rates, a quarter of the usual span."""
    steps = torch.arange(dim // 2, device=positions.device) / dim / 2.0
    angle = positions[..., None].float() * (1.0 / 10_000**steps)
    return torch.cat([angle.sin(), angle.cos()], -1)


class Encodings(nn.Module):
    """Band set, slot in time, month and ground position, a quarter of the width each."""

    def __init__(self, dim: int, bandsets: Bandsets, rope: bool) -> None:
        super().__init__()
        self.quarter, self.rope = dim // 4, rope
        angle = torch.arange(12) * (2 * math.pi / 12)
        half = self.quarter // 2
        table = torch.cat([angle.sin()[:, None].expand(-1, half), angle.cos()[:, None].expand(-1, half)], -1)
        self.month_embed = nn.Embedding(12, 2 * half, _weight=table.clone()).requires_grad_(False)
        self.per_modality_channel_embeddings = nn.ParameterDict(
            {k: nn.Parameter(torch.zeros(len(s), self.quarter)) for k, s in bandsets.items()}
        )

    def forward(self, name: str, shape: torch.Size, dates: Tensor, ratio: float) -> Tensor:
        """What is added to tokens of this shape (B, h, w, T, sets, D); `dates` (B, T, 3) day, month, year."""
        b, h, w, t, s, _ = shape
        n, device = self.quarter, dates.device
        channel = self.per_modality_channel_embeddings[name]
        out = [channel.view(1, 1, 1, 1, s, n).expand(b, h, w, t, s, n)]
        zero = channel.new_zeros(()).expand(b, h, w, t, s, n)
        timed = name not in STATIC
        slots = slot_code(torch.arange(t, device=device), n).to(channel.dtype)
        out.append(slots.view(1, 1, 1, t, 1, n).expand_as(zero) if timed and not self.rope else zero)
        months = self.month_embed(dates[:, :t, 1]).to(channel.dtype) if timed else None
        out.append(zero if months is None else months.view(b, 1, 1, t, 1, n).expand_as(zero))
        if self.rope:
            out.append(zero)
        else:
            x = slot_code(torch.arange(w, device=device) * ratio, n // 2)[None].expand(h, -1, -1)
            y = slot_code(torch.arange(h, device=device) * ratio, n // 2)[:, None].expand(-1, w, -1)
            place = torch.cat([x, y], -1).to(channel.dtype)
            out.append(place.view(1, h, w, 1, 1, n).expand_as(zero))
        return torch.cat(out, -1)


def places(shape: torch.Size, dates: Tensor, ratio: float, day_scale: float) -> Tensor:
    """(B, h, w, T, sets, 3): days since 2000 (of 365.25-day years), row and column, scaled."""
    b, h, w, t, s, _ = shape
    before = torch.tensor([0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334], device=dates.device)
    day, month, year = dates[:, :t].unbind(-1)
    days = ((year.float() - 2000) * 365.25 + before[month] + (day.float() - 1)) * day_scale
    rows, cols = (torch.arange(n, device=dates.device, dtype=torch.float32) * ratio for n in (h, w))
    parts = (days.view(b, 1, 1, t, 1), rows.view(1, h, 1, 1, 1), cols.view(1, 1, w, 1, 1))
    return torch.stack([p.expand(b, h, w, t, s) for p in parts], -1)


class SplitAttention(nn.Module):
    """Attention with separate projections; with `rope`, learned frequencies turn queries and keys."""

    def __init__(self, dim: int, heads: int, rope: bool, base: float) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = Linear(dim, dim), Linear(dim, dim), Linear(dim, dim)
        self.proj = Linear(dim, dim)
        if rope:
            size = base ** -(torch.arange(0, dim // heads, 4) / (dim // heads))
            way = torch.linalg.qr(torch.randn(heads, 3, 3, device="cpu"))[0].to(size)
            freqs = torch.cat([way[:, :, 0, None] * size, way[:, :, 1, None] * size], -1)
            self.rope_mixed_freqs = nn.Parameter(freqs.transpose(0, 1).contiguous())
        self.rope = rope

    def _turn(self, x: Tensor, where: Tensor) -> Tensor:
        freqs = self.rope_mixed_freqs.float()
        angle = torch.einsum("bna,ahd->bhnd", where.float(), freqs)
        cos, sin = (f.repeat_interleave(2, -1).to(x.dtype) for f in (angle.cos(), angle.sin()))
        turned = torch.stack([-x[..., 1::2], x[..., 0::2]], -1).flatten(-2)
        return x * cos + turned * sin

    def forward(
        self, x: Tensor, context: Tensor | None, mask: Tensor | None, where: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """`mask` (B, K) bool over keys; `where` are the places of queries and keys."""
        y = x if context is None else context
        q, k, v = (p(z).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for p, z in ((self.q, x), (self.k, y), (self.v, y)))  # fmt: skip
        if self.rope and where is not None:
            q, k = self._turn(q, where[0]), self._turn(k, where[1])
        bias = None if mask is None else mask[:, None, None]
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(z.transpose(1, 2).flatten(2))


class OlmoBlock(nn.Module):
    """Pre-norm self- or cross-attention and MLP; the context is not normed."""

    def __init__(self, dim: int, heads: int, plan: Plan) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = SplitAttention(dim, heads, plan.rope, plan.rope_base), Mlp(dim, int(dim * plan.ratio))

    def forward(
        self, x: Tensor, context: Tensor | None, mask: Tensor | None, where: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        x = x + self.attn(self.norm1(x), context, mask, where)
        return x + self.mlp(self.norm2(x))


class Projection(nn.Module):
    """The vector of the contrastive loss."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.projection = nn.Sequential(Linear(dim, dim))


@dataclass(frozen=True, eq=False)
class Sequence:
    """Tokens of all modalities in a row (B, N, D), their places for rotary attention, and the grid of each modality."""

    x: Tensor
    where: Tensor | None
    shapes: Mapping[str, torch.Size]

    def split(self, tokens: Tensor) -> dict[str, Tensor]:
        """A sequence of this layout as grids (B, h, w, T, sets, ...)."""
        counts = [math.prod(s[1:-1]) for s in self.shapes.values()]
        parts = tokens.split(counts, 1)
        return {k: p.unflatten(1, tuple(s[1:-1])) for (k, s), p in zip(self.shapes.items(), parts, strict=True)}


class OlmoTrunk(nn.Module):
    """The published encoder: patches, encodings, blocks."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.patch_embeddings = Patches(plan)
        self.composite_encodings = Encodings(plan.dim, plan.bandsets, plan.rope)
        self.blocks = nn.ModuleList(OlmoBlock(plan.dim, plan.heads, plan) for _ in range(plan.depth))
        self.norm = nn.LayerNorm(plan.dim)
        self.project_and_aggregate = Projection(plan.dim)

    def patches(self, given: Mapping[str, Tensor], patch: int) -> dict[str, Tensor]:
        """Raw patch tokens (B, h, w, T, sets, D) of (B, H, W, T, C) images."""
        return {k: self.patch_embeddings(k, v, patch) for k, v in given.items()}

    def sequence(self, tokens: Mapping[str, Tensor], dates: Mapping[str, Tensor], ratio: float) -> Sequence:
        """Tokens with their encodings, in a row."""
        return in_a_row(self.composite_encodings, tokens, dates, ratio, self.plan)

    def run(self, seq: Sequence, mask: Tensor | None = None) -> list[Tensor]:
        """The outputs of all blocks before the norm."""
        x, where, out = seq.x, None if seq.where is None else (seq.where, seq.where), list[Tensor]()
        for block in self.blocks:
            x = block(x, None, mask, where)
            out.append(x)
        return out

    def run_visible(self, seq: Sequence, visible: Tensor, mask_padding: bool) -> Tensor:
        """Normed tokens where `visible` (B, N), zeros elsewhere; hidden tokens take no part.

        Samples with fewer visible tokens are padded with zeros. The reference masks that padding only while training.
        """
        count = int(visible.sum(1).max())
        order = visible.int().argsort(dim=1, descending=True, stable=True)[:, :count]
        real = visible.gather(1, order)

        def take(v: Tensor) -> Tensor:
            return v.gather(1, order[..., None].expand(-1, -1, v.shape[-1])) * real[..., None].to(v.dtype)

        part = Sequence(take(seq.x), None if seq.where is None else take(seq.where), seq.shapes)
        y = self.norm(self.run(part, real if mask_padding and not bool(real.all()) else None)[-1])
        y = y * real[..., None].to(y.dtype)
        return torch.zeros_like(seq.x).scatter_add(1, order[..., None].expand_as(y), y)


def in_a_row(
    encodings: Encodings, tokens: Mapping[str, Tensor], dates: Mapping[str, Tensor], ratio: float, plan: Plan
) -> Sequence:
    """Grids of tokens as one sequence with encodings (and places, for rotary attention)."""
    shapes = {k: v.shape for k, v in tokens.items()}
    added = [(v + encodings(k, v.shape, dates[k], ratio)).flatten(1, -2) for k, v in tokens.items()]
    where = None
    if plan.rope:
        where = torch.cat([places(s, dates[k], ratio, plan.day_scale).flatten(1, -2) for k, s in shapes.items()], 1)
    return Sequence(torch.cat(added, 1), where, shapes)


class OlmoDecoder(nn.Module):
    """The published predictor: mask tokens look at the encoded ones."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        dim, heads = plan.decoder_dim or plan.dim, plan.decoder_heads or plan.heads
        self.composite_encodings = Encodings(dim, plan.bandsets, plan.rope)
        self.blocks = nn.ModuleList(OlmoBlock(dim, heads, plan) for _ in range(plan.decoder_depth))
        self.input_norm, self.norm = nn.LayerNorm(plan.dim), nn.LayerNorm(dim)
        self.encoder_to_decoder_embed = Linear(plan.dim, dim)
        self.to_output_embed = Linear(dim, plan.dim)
        self.mask_token = nn.Parameter(torch.zeros(dim))

    def forward(
        self, latent: Mapping[str, Tensor], state: Mapping[str, Tensor], dates: Mapping[str, Tensor], ratio: float
    ) -> dict[str, Tensor]:
        """`state` holds each token's role: 0 encoded, 2 to predict, else neither (it stays blank)."""
        tokens: dict[str, Tensor] = {}
        for name, x in latent.items():
            y = self.encoder_to_decoder_embed(self.input_norm(x))
            tokens[name] = torch.where((state[name] == DECODED)[..., None], self.mask_token.to(y.dtype), y)
        seq = in_a_row(self.composite_encodings, tokens, dates, ratio, self.plan)
        role = torch.cat([state[k].flatten(1) for k in latent], 1)
        context, visible, x = seq.x, role == VISIBLE, seq.x
        where = None if seq.where is None else (seq.where, seq.where)
        for block in self.blocks:
            x = block(x, context, visible, where)
        wanted = torch.where((role == DECODED)[..., None], x, context)
        wanted = wanted * ((role == DECODED) | visible)[..., None].to(x.dtype)
        return seq.split(self.to_output_embed(self.norm(wanted)))


class LatentMIM(nn.Module):
    """The published training model: encoder, predictor and the frozen target encoder."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.encoder, self.decoder = OlmoTrunk(plan), OlmoDecoder(plan)
        self.target_encoder = OlmoTrunk(plan).requires_grad_(False)

    def masked(
        self, given: Mapping[str, Tensor], state: Mapping[str, Tensor], dates: Mapping[str, Tensor], patch: int
    ) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
        """Latent tokens of the visible ones, their projected mean, and the predictions."""
        ratio = patch * BASE_GSD / BASE_GSD
        seq = self.encoder.sequence(self.encoder.patches(given, patch), dates, ratio)
        visible = torch.cat([state[k].flatten(1) for k in given], 1) == VISIBLE
        y = self.encoder.run_visible(seq, visible, self.training)
        pooled = self.encoder.project_and_aggregate.projection(y.sum(1) / visible.sum(1, keepdim=True))
        latent = seq.split(y)
        return latent, pooled, self.decoder(latent, state, dates, ratio)


def calendar(times: Tensor) -> Tensor:
    """Days since 1970 (B, T) as (B, T, 3): day of month from 1, month from 0, year."""
    dates = times.cpu().numpy().astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    day = (dates - months).astype(np.int64) + 1
    number = months.astype(np.int64)
    parts = np.stack([day, number % 12, number // 12 + 1970], -1)
    return torch.from_numpy(parts).to(times.device)


class OlmoEarthEncoder(EncoderModule):
    """The encoder over Sentinel-2, Sentinel-1 and Landsat on one grid; tokens of empty patches are masked."""

    def __init__(self, plan: Plan, patch: int, name: str = "olmoearth") -> None:
        super().__init__()
        self.trunk, self.patch = OlmoTrunk(plan), patch
        self.levels = taps(plan.depth)
        n = len(self.levels)
        self.spec = EncoderSpec(
            name=name,
            inputs=tuple(v for k, v in INPUTS.items() if k in plan.bandsets),
            widths=(plan.dim,) * n,
            strides=(float(patch),) * n,
            pooled=plan.dim,
            patch=patch,
            depth=plan.depth,
            native_time=True,
            licence="LicenseRef-OlmoEarth-Artifact",
            notes="sensors share one grid; dates are needed; no military, surveillance or extractive use",
        )

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        names = {v.sensor: k for k, v in INPUTS.items()}
        first = next(iter(views.values()))
        h, w = first.x.shape[3:]
        check_size(h, w, self.patch, self.spec.name)
        if any(v.x.shape[3:] != (h, w) for v in views.values()):
            raise UserError("the layers must share one grid", where=f"encoder {self.spec.name}")
        given: dict[str, Tensor] = {}
        dates: dict[str, Tensor] = {}
        seen: dict[str, Tensor] = {}
        for sensor, view in views.items():
            if view.times is None:
                raise UserError(f"{self.spec.name} needs dates", where=f"layer {sensor}")
            given[names[sensor]] = view.x.permute(0, 3, 4, 1, 2)
            dates[names[sensor]] = calendar(view.times)
            share = F.max_pool2d(view.valid.flatten(0, 1).float(), self.patch).squeeze(1).unflatten(0, view.x.shape[:2])
            seen[names[sensor]] = share.permute(0, 2, 3, 1) > 0
        ratio = self.patch * min(first.gsd, BASE_GSD) / BASE_GSD
        seq = self.trunk.sequence(self.trunk.patches(given, self.patch), dates, ratio)
        mask = torch.cat([seen[k][..., None].expand(s[:-1]).flatten(1) for k, s in seq.shapes.items()], 1)
        usable = torch.where(mask.any(1, keepdim=True), mask, torch.ones_like(mask))
        outs = self.trunk.run(seq, None if bool(usable.all()) else usable)
        chosen = [self.trunk.norm(outs[i]) for i in self.levels]
        weight = usable[..., None].to(chosen[-1].dtype)
        pooled = (chosen[-1] * weight).sum(1) / weight.sum(1)
        maps = tuple(self._map(y, seq, usable) for y in chosen)
        return Features(maps, pooled, self.spec.strides, chosen[-1])

    def _map(self, y: Tensor, seq: Sequence, usable: Tensor) -> Tensor:
        """Mean over the valid dates, band sets and sensors of each cell."""
        grids = seq.split(y)
        use = {k: v[..., None].to(y.dtype) for k, v in seq.split(usable).items()}
        total = torch.stack([(grids[k] * use[k]).sum((3, 4)) for k in grids]).sum(0)
        count = torch.stack([use[k].sum((3, 4)) for k in grids]).sum(0)
        plain = torch.stack([v.mean((3, 4)) for v in grids.values()]).mean(0)
        return torch.where(count > 0, total / count.clamp_min(1), plain).permute(0, 3, 1, 2)


MEMBER = OlmoEarth
