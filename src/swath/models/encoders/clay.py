"""Clay v1 and v1.5: a masked autoencoder for any sensor, told the bands' wavelengths, the gsd, the time and the place.

https://github.com/Clay-foundation/model. token += [sincos((row, col) * gsd), week, hour, lat, lon as sines].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, l1_loss, linear, scaled_dot_product_attention

from swath.core import EncoderSpec, Features, Input, Where
from swath.models.encoder import EncoderModule, check_size, per_timestep, plain_features, taps
from swath.models.inputs import View, single
from swath.models.layers import gather_tokens, patchify
from swath.models.layers.generated import BandResidual, KernelWriter
from swath.models.layers.masked import standardise_patches
from swath.models.layers.products import Linear
from swath.models.loading import Layout

WAVES = 128
GAIN = 0.02
META = 8

_S2 = (("blue", 1105.0, 1809.0), ("green", 1355.0, 1757.0), ("red", 1552.0, 1888.0), ("rededge071", 1887.0, 1870.0),
       ("rededge075", 2422.0, 1732.0), ("rededge078", 2630.0, 1697.0), ("nir", 2743.0, 1742.0),
       ("nir08", 2785.0, 1648.0), ("swir16", 2388.0, 1470.0), ("swir22", 1835.0, 1379.0))  # fmt: skip
_S1 = (("vv", -12.113, 8.314), ("vh", -18.673, 8.017))
_NAIP = (("red", 110.16, 47.23), ("green", 115.41, 39.82), ("blue", 98.15, 35.43), ("nir", 139.04, 49.86))
# Micrometres as the weights saw them; radar has placeholders.
_UM = {
    "sentinel2-l2a": (0.493, 0.56, 0.665, 0.704, 0.74, 0.783, 0.842, 0.865, 1.61, 2.19),
    "sentinel1-rtc": (3.5, 4.0),
    "naip": (0.65, 0.56, 0.48, 0.842),
}


def _input(sensor: str, unit: str, table: tuple[tuple[str, float, float], ...], gain: float = 1.0) -> Input:
    names, mean, std = zip(*table, strict=True)
    return Input(sensor, names, unit, mean, std, gain=gain)


INPUTS = (
    _input("sentinel2-l2a", "reflectance", _S2, 10000.0),
    _input("sentinel1-rtc", "db", _S1),
    _input("naip", "display", _NAIP),
)


@dataclass(frozen=True)
class ClayShape:
    """Sizes of one Clay; `teacher` is the width of the distillation target."""

    dim: int = 1024
    depth: int = 24
    heads: int = 16
    dim_head: int = 64
    ratio: float = 4.0
    patch: int = 8
    decoder_dim: int = 512
    decoder_depth: int = 4
    decoder_heads: int = 4
    decoder_dim_head: int = 64
    decoder_ratio: float = 4.0
    teacher: int = 1024


def _wave_code(um: Tensor) -> Tensor:
    half = WAVES // 2
    rates = 1.0 / 10000 ** (torch.arange(half, device=um.device) / (half - 1))
    angle = um.float()[:, None] * rates
    return torch.cat([angle.sin(), angle.cos()], 1)


def ground_code(h: int, w: int, dim: int, gsd: float) -> Tensor:
    """(h*w, dim): sine-cosine of row and column in units of ground extent."""
    quarter = dim // 4
    rates = 1.0 / 10000 ** (2 * (torch.arange(quarter) / (quarter - 1)) / dim) * gsd
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    y, x = y.reshape(-1, 1) * rates, x.reshape(-1, 1) * rates
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], 1)


class ClayAttention(nn.Module):
    """Pre-norm attention without biases."""

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = Linear(heads * dim_head, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.to_out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class ClayMlp(nn.Module):
    """Pre-norm two-layer map."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.LayerNorm(dim), Linear(dim, hidden), nn.GELU(), Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class ClayTransformer(nn.Module):
    """The stack with its final norm."""

    def __init__(self, dim: int, depth: int, heads: int, dim_head: int, *, ratio: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        pairs = ([ClayAttention(dim, heads, dim_head), ClayMlp(dim, int(dim * ratio))] for _ in range(depth))
        self.layers = nn.ModuleList(nn.ModuleList(pair) for pair in pairs)

    def run(self, x: Tensor) -> list[Tensor]:
        """Every layer's output, the last one normalised."""
        out: list[Tensor] = []
        for pair in self.layers:
            for part in pair.children():
                x = x + part(x)
            out.append(x)
        out[-1] = self.norm(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)[-1]


class WaveKernels(nn.Module):
    """Generated kernels: an embedding's (out, row, column) or, without a bias, a decoder's (row, column, out)."""

    def __init__(self, patch: int, dim: int, *, decoder: bool) -> None:
        super().__init__()
        self.patch, self.dim = patch, dim
        self.weight_generator = KernelWriter(WAVES, patch * patch * dim, None if decoder else dim, trunk="encoder")
        self.fclayer = BandResidual(WAVES, ("l1", "l2"), nn.GELU())

    def forward(self, um: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        return self.weight_generator(self.fclayer(_wave_code(um).to(dtype)))


class ClayEncoder(nn.Module):
    """The encoder half, under the official names."""

    def __init__(self, s: ClayShape) -> None:
        super().__init__()
        self.patch, self.dim = s.patch, s.dim
        self.cls_token = nn.Parameter(torch.randn(1, 1, s.dim) * 0.02)
        self.patch_embedding = WaveKernels(s.patch, s.dim, decoder=False)
        self.transformer = ClayTransformer(s.dim, s.depth, s.heads, s.dim_head, ratio=s.ratio)

    def embed(self, x: Tensor, um: Tensor) -> Tensor:
        """Patch tokens without positions."""
        kernels, bias = self.patch_embedding(um, x.dtype)
        kernels = kernels.view(-1, self.dim, self.patch, self.patch).transpose(0, 1) * GAIN
        return conv2d(x, kernels, bias, stride=self.patch).flatten(2).transpose(1, 2)

    def run(self, tokens: Tensor) -> list[Tensor]:
        """Every layer's output, class token first."""
        return self.transformer.run(torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1))


class ClayDecoder(nn.Module):
    """The reconstruction half."""

    def __init__(self, s: ClayShape) -> None:
        super().__init__()
        self.dim = s.decoder_dim
        self.mask_patch = nn.Parameter(torch.randn(s.decoder_dim) * 0.02)
        self.enc_to_dec = Linear(s.dim, s.decoder_dim)
        self.transformer = ClayTransformer(
            s.decoder_dim, s.decoder_depth, s.decoder_heads, s.decoder_dim_head, ratio=s.decoder_ratio
        )
        self.embed_to_pixels = WaveKernels(s.patch, s.decoder_dim, decoder=True)

    def pixels(self, tokens: Tensor, um: Tensor) -> Tensor:
        """Tokens to pixels of the bands."""
        return linear(tokens, self.embed_to_pixels(um, tokens.dtype)[0].reshape(-1, self.dim) * GAIN)


@dataclass(frozen=True, eq=False)
class Told:
    """What Clay is told beside the pixels: wavelengths in um, gsd in m, (B, 4) time and (B, 4) place as sines."""

    um: Tensor
    gsd: float
    time: Tensor
    place: Tensor

    def code(self, grid: tuple[int, int], dim: int, like: Tensor) -> Tensor:
        """(B, N, dim): ground positions, then the eight numbers of time and place."""
        ground = ground_code(*grid, dim - META, self.gsd).to(like)
        told = torch.cat([self.time, self.place], 1).to(like)
        n, b = len(ground), len(told)
        return torch.cat([ground.expand(b, -1, -1), told[:, None].expand(-1, n, -1)], 2)


class Clay(EncoderModule):
    """Clay as an encoder; with `decoder` the masked autoencoder and the projection to the teacher."""

    def __init__(self, shape: ClayShape, decoder: bool, name: str) -> None:
        super().__init__()
        s = self.shape = shape
        self.encoder = ClayEncoder(s)
        if decoder:
            self.decoder = ClayDecoder(s)
            self.proj = Linear(s.dim, s.teacher)
        n = len(taps(s.depth))
        self.spec = EncoderSpec(
            name=name,
            inputs=INPUTS,
            widths=(s.dim,) * n,
            strides=(float(s.patch),) * n,
            pooled=s.dim,
            patch=s.patch,
            depth=s.depth,
            any_bands=True,
            licence="Apache-2.0",
        )

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        view = single(views, self.spec.name)
        b, t = view.x.shape[:2]
        place = _place(where.lonlat).to(view.x.device)
        time = torch.zeros(b, t, 4) if view.times is None else _time(view.times)
        um = _micrometres(view).to(view.x.device)
        p = self.shape.patch

        def image(x: Tensor, rows: Tensor) -> Features:
            check_size(x.shape[2], x.shape[3], p, self.spec.name)
            grid = (x.shape[2] // p, x.shape[3] // p)
            told = Told(um, view.gsd, time.flatten(0, 1).to(x.device), place[rows])
            every = self.encoder.run(self.encoder.embed(x, um) + told.code(grid, self.shape.dim, x))
            return plain_features([every[i] for i in taps(self.shape.depth)], grid, float(p))

        return per_timestep(view, image)

    def reconstruct(self, x: Tensor, told: Told, noise: Tensor, ratio: float) -> dict[str, Tensor]:
        """The masked autoencoder: the tokens of least noise are masked."""
        grid = (x.shape[2] // self.shape.patch, x.shape[3] // self.shape.patch)
        tokens = self.encoder.embed(x, told.um) + told.code(grid, self.shape.dim, x)
        order = noise.argsort(1)
        n = int(ratio * order.shape[1])
        hidden, seen = order[:, :n], order[:, n:]
        matrix = torch.zeros_like(noise).scatter(1, hidden, 1.0)
        encoded = self.encoder.run(gather_tokens(tokens, seen))[-1]
        y = self.decoder.enc_to_dec(encoded)
        code = told.code(grid, self.decoder.dim, y)
        whole = self.decoder.mask_patch.expand(len(y), order.shape[1], -1)
        whole = whole.scatter(1, seen[..., None].expand(-1, -1, y.shape[-1]), y[:, 1:]) + code
        decoded = self.decoder.transformer(torch.cat([y[:, :1], whole], 1))[:, 1:]
        pixels = self.decoder.pixels(decoded, told.um)
        return {"encoded_unmasked": encoded, "unmasked_indices": seen, "masked_indices": hidden,
                "masked_matrix": matrix, "pixels": pixels}  # fmt: skip

    def loss(self, x: Tensor, pixels: Tensor, matrix: Tensor, standardise: bool = False) -> Tensor:
        """Absolute error on the masked tokens."""
        target = patchify(x, self.shape.patch, "cpq")
        target = standardise_patches(target) if standardise else target
        error = l1_loss(pixels, target, reduction="none").mean(-1)
        return (error * matrix).sum() / matrix.sum()


def _micrometres(view: View) -> Tensor:
    known = _UM.get(view.input.sensor)
    declared = next((i for i in INPUTS if i.sensor == view.input.sensor), None)
    if known is not None and declared is not None:
        return torch.tensor([known[declared.bands.index(n)] for n in view.input.bands])
    radar = {"vv": 3.5, "vh": 4.0}
    return torch.tensor([radar.get(b.name, 4.0) if b.nm is None else b.nm / 1000 for b in view.sensor.bands])


def _time(times: Tensor) -> Tensor:
    """(B, T, 4): sine and cosine of the ISO week over 52 and of the hour (noon, for products dated by day) over 24."""
    weeks = [[(date(1970, 1, 1) + timedelta(days=int(d))).isocalendar().week for d in row] for row in times.tolist()]
    angle = torch.tensor(weeks, dtype=torch.float32) * (2 * math.pi / 52)
    noon = torch.full_like(angle, math.pi)
    return torch.stack([angle.sin(), angle.cos(), noon.sin(), noon.cos()], -1)


def _place(lonlat: Tensor) -> Tensor:
    """(B, 4): sine and cosine of latitude and longitude; zeros where unknown, as the published examples do."""
    angle = torch.deg2rad(lonlat.double())
    lon, lat = angle[:, 0], angle[:, 1]
    return torch.stack([lat.sin(), lat.cos(), lon.sin(), lon.cos()], -1).nan_to_num(0.0).float()


@dataclass(frozen=True)
class ClayConfig:
    """Which Clay. v1 is `base`, v1.5 is `large`. Unknown dates and places are zeros."""

    kind: ClassVar[str] = "clay"
    sizes: ClassVar[Mapping[str, ClayShape]] = {
        "tiny": ClayShape(dim=192, depth=6, heads=4, dim_head=48, ratio=2, decoder_dim=96, decoder_depth=3,
                          decoder_heads=2, decoder_dim_head=48, decoder_ratio=2),
        "small": ClayShape(dim=384, depth=6, heads=6, ratio=2, decoder_dim=192, decoder_depth=4, decoder_heads=4,
                           decoder_ratio=2),
        "base": ClayShape(dim=768, depth=12, heads=12),
        "large": ClayShape(),
    }  # fmt: skip
    size: str = "large"
    shape: ClayShape | None = None
    decoder: bool = False

    def build(self) -> Clay:
        return Clay(self.shape or self.sizes[self.size], self.decoder, f"clay/{self.size}")

    def layout(self) -> Layout:
        """A training checkpoint: everything under `model.`, with the frozen teacher inside."""
        drop = ("teacher.*",) if self.decoder else ("teacher.*", "decoder.*", "proj.*")
        return Layout(inside=("state_dict",), strip=("model.",), drop=drop)


MEMBER = ClayConfig
