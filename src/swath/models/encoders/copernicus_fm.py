"""Copernicus-FM: any spectral sensor by wavelength and bandwidth, any other variable by its name, told place and date.

Towards a Unified Copernicus Foundation Model for Earth Vision, https://arxiv.org/abs/2503.11849.
code(x) = sin, cos of 2 pi x / w for wavelengths w spread evenly in log scale (after Aurora).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from swath.core import EncoderSpec, Features, Where
from swath.models.encoder import EncoderModule, check_size, per_timestep, plain_features, taps
from swath.models.inputs import View, single
from swath.models.layers.generated import BandResidual, KernelWriter, kernel_resize
from swath.models.layers.products import Linear
from swath.models.layers.vit import blocks, fixed_table, run, table_for
from swath.models.loading import Layout

GAIN = 0.01
LANGUAGE = 2048
# C-band radar has no place in nanometres that the pretraining did not give it: 5.6 cm in nm, and its bandwidth.
RADAR_NM, RADAR_WIDTH = 5.0e7, 1.0e9


@dataclass(frozen=True)
class CopernicusShape:
    """Sizes of one Copernicus-FM; `patch` is the patch of the stored kernels."""

    image: int = 224
    patch: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    hyper: int = 128
    classes: int = 0


def fourier(x: Tensor, dim: int, low: float, high: float) -> Tensor:
    """(..., dim) in float32, computed in float64."""
    waves = torch.logspace(math.log10(low), math.log10(high), dim // 2, dtype=torch.float64, device=x.device)
    angle = x.double()[..., None] * (2 * math.pi / waves)
    return torch.cat([angle.sin(), angle.cos()], -1).float()


class HyperEmbed(nn.Module):
    """Band codes to kernels of any patch, and images to tokens."""

    def __init__(self, s: CopernicusShape, *, language: bool) -> None:
        super().__init__()
        self.patch, self.dim, self.hyper = s.patch, s.dim, s.hyper
        if language:
            self.language_proj = Linear(LANGUAGE, s.hyper)
        self.weight_generator = KernelWriter(s.hyper, s.patch * s.patch * s.dim, s.dim)
        self.fclayer = BandResidual(s.hyper, ("w1", "w2"), nn.ReLU())

    def spectral(self, nm: Tensor, width: Tensor) -> Tensor:
        """Codes of bands by centre and width in nanometres."""
        return fourier(nm, self.hyper, 100, 1e9) + fourier(width, self.hyper, 1, 1e9)

    def variable(self, language: Tensor) -> Tensor:
        """The code of a variable by the language embedding of its name."""
        return self.language_proj(language[None])

    def forward(self, x: Tensor, codes: Tensor, patch: int) -> Tensor:
        kernels, bias = self.weight_generator(self.fclayer(codes.to(x.dtype)))
        kernels = kernels.view(-1, self.patch, self.patch, self.dim).permute(3, 0, 1, 2)
        kernels = kernel_resize(kernels, patch) * GAIN
        y = conv2d(x, kernels, None if bias is None else bias * GAIN, stride=patch, padding=1)
        return y.flatten(2).transpose(1, 2)


class CopernicusFM(EncoderModule):
    """The encoder of Copernicus-FM; pooled is the normalised mean of the patch tokens."""

    def __init__(self, shape: CopernicusShape, name: str) -> None:
        super().__init__()
        s = self.shape = shape
        self.patch_embed_spectral = HyperEmbed(s, language=False)
        self.patch_embed_variable = HyperEmbed(s, language=True)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, s.dim))
        self.pos_embed = fixed_table(s.image // s.patch, s.dim)
        self.coord_fc, self.scale_fc, self.time_fc = (Linear(s.dim, s.dim) for _ in range(3))
        self.coord_token = nn.Parameter(torch.zeros(1, 1, s.dim))
        self.scale_token = nn.Parameter(torch.zeros(1, 1, s.dim))
        self.time_token = nn.Parameter(torch.zeros(1, 1, s.dim))
        self.blocks = blocks(s.depth, s.dim, s.heads)
        self.fc_norm = nn.LayerNorm(s.dim, eps=1e-6)
        if s.classes:
            self.head = Linear(s.dim, s.classes)
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
            notes="an unknown place or date uses the learned token, sample by sample",
        )

    def meta(self, known: Tensor, *, whole: bool) -> Tensor:
        """(B, 1, D) of [lon, lat, days, km2 of a token]; NaN takes the learned token.

        With `whole`, one NaN in a batch switches the whole batch, as the reference does.
        """
        d = self.shape.dim
        lon, lat, days, area = known.unbind(1)
        half = d // 2
        place = torch.cat([fourier(lon + 180, half, 1e-4, 720), fourier(lat + 90, half, 1e-4, 720)], -1)
        place = nn.functional.pad(place, (0, d - place.shape[-1]))
        sources = (
            (self.coord_fc, self.coord_token, place, lon.isnan() | lat.isnan()),
            (self.scale_fc, self.scale_token, fourier(area, d, 1e-3, 5.1e8), area.isnan()),
            (self.time_fc, self.time_token, fourier(days, d, 1, 365.25), days.isnan()),
        )
        total = torch.zeros(len(known), 1, d, dtype=self.cls_token.dtype, device=known.device)
        for layer, token, code, unknown in sources:
            absent = unknown.any().expand_as(unknown) if whole else unknown
            total = total + layer(torch.where(absent[:, None, None], token, code[:, None].to(token.dtype)))
        return total

    def tokens(self, patches: Tensor, meta: Tensor, grid: tuple[int, int]) -> list[Tensor]:
        """Every block's output, class token first."""
        table = table_for(self.pos_embed, grid, antialias=True) + meta
        first = self.cls_token + table[:, :1]
        x = torch.cat([first.expand(len(patches), -1, -1), patches + table[:, 1:]], 1)
        return run(self.blocks, x)

    def pool(self, last: Tensor) -> Tensor:
        """The normalised mean of the patch tokens."""
        return self.fc_norm(last[:, 1:].mean(1))

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        view = single(views, self.spec.name)
        p = self.shape.patch
        bands = view.sensor.bands
        nm = torch.tensor([RADAR_NM if b.nm is None else b.nm for b in bands], device=view.x.device)
        width = torch.tensor([RADAR_WIDTH if b.nm is None else b.fwhm or 30.0 for b in bands], device=view.x.device)
        codes = self.patch_embed_spectral.spectral(nm, width)
        b, t = view.x.shape[:2]
        days = torch.full((b, t), float("nan")) if view.times is None else view.times.double()
        area = (view.gsd * p / 1000.0) ** 2
        lonlat = where.lonlat.to(days)[:, None].expand(b, t, 2)
        known = torch.cat([lonlat, days[..., None], torch.full((b, t, 1), area).to(days)], -1).flatten(0, 1)

        def image(x: Tensor, rows: Tensor) -> Features:
            check_size(x.shape[2], x.shape[3], p, self.spec.name)
            grid = (x.shape[2] // p, x.shape[3] // p)
            meta = self.meta(known.to(x.device), whole=False)
            every = self.tokens(self.patch_embed_spectral(x, codes, p), meta, grid)
            return plain_features([every[i] for i in taps(self.shape.depth)], grid, float(p), self.pool(every[-1]))

        return per_timestep(view, image)


@dataclass(frozen=True)
class CopernicusConfig:
    """Copernicus-FM, one published size."""

    kind: ClassVar[str] = "copernicus-fm"
    sizes: ClassVar[Mapping[str, CopernicusShape]] = {
        "tiny": CopernicusShape(image=32, patch=8, dim=32, depth=4, heads=4, hyper=32),
        "base": CopernicusShape(),
    }
    size: str = "base"
    shape: CopernicusShape | None = None

    def build(self) -> CopernicusFM:
        return CopernicusFM(self.shape or self.sizes[self.size], f"copernicus-fm/{self.size}")

    def layout(self) -> Layout:
        """The released file may be wrapped, and brings the pretraining's decoder and norm."""
        drop = ("head.*", "norm.*", "mask_token", "decoder*", "projector*")
        return Layout(inside=("model",), drop=drop, absent=("fc_norm.*",))


MEMBER = CopernicusConfig
