"""Swath's own plain ViT: any bands, any ground extent, any dates, any set of sensors, parts of it missing.

A band is known by what it measures (wavelength and width, or kind and name), not by its number in a file. From
that code an MLP gives mixing weights over a small basis of patch kernels K_r (in the spirit of DOFA,
https://arxiv.org/abs/2403.15356, at a tenth of its generator's size):

    token = sum_r K_r * (1/sqrt(C) sum_c a_r(code_c) x_c)  +  position(ground metres, index)  +  time  +  place

so that bands add up, a subset is a subset, and hyperspectral cubes cost one small matrix product. All sensors and
timesteps stand in one sequence; tokens without a valid pixel are masked out of attention and of every mean.
Other patch sizes reuse the same kernels through FlexiViT's pseudo-inverse resize (https://arxiv.org/abs/2212.08013).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swath.core import (
    Band,
    Batch,
    EncoderSpec,
    Features,
    Input,
    Layer,
    Sensor,
    Tokens,
    UnknownName,
    UserError,
    Where,
    convert,
    generator,
)
from swath.core.rng import coins
from swath.models.encoder import EncoderModule, pick
from swath.models.inputs import View
from swath.models.layers.alibi import token_bias
from swath.models.layers.attention import attend
from swath.models.layers.products import Linear
from swath.models.layers.transformer import added, mlp_of
from swath.models.loading import Layout

Size = Literal["nano", "tiny", "small", "base", "large"]
SIZES: Mapping[str, tuple[int, int, int]] = {
    "nano": (128, 4, 4),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}
KINDS = ("optical", "sar", "elevation", "thermal", "weather", "classes")
# Centre and width of physical values, by unit: part of the model, so never taken from a sensor's file.
UNITS: dict[str, tuple[float, float]] = {
    "reflectance": (0.2, 0.2),
    "radiance": (60.0, 60.0),
    "db": (-14.0, 7.0),
    "kelvin": (285.0, 20.0),
    "celsius": (12.0, 20.0),
    "m": (500.0, 800.0),
    "mm": (60.0, 100.0),
    "degree": (180.0, 104.0),
    "fraction": (0.5, 0.3),
    "percent": (50.0, 30.0),
    "display": (127.5, 64.0),
    "index": (0.0, 0.5),
}
_FREQUENCIES = 16
_CODE = 4 * _FREQUENCIES + 3
_REFERENCE_M = 160.0
_METRES_PER_DEGREE = 111_320.0
_DAYS = 365.2425


@dataclass(frozen=True)
class SwathViT:
    """`size` sets width, depth and heads; `patch` is in pixels; `drop_*` hide a code or a block while training.

    `alibi`: places as distances in attention (2-D ALiBi, as CROMA has it), not as codes in tokens.
    """

    kind: ClassVar[str] = "swath-vit"
    sizes: ClassVar[Mapping[str, tuple[int, int, int]]] = SIZES
    size: Size = "tiny"
    patch: int = 16
    registers: int = 4
    basis: int = 32
    drop_time: float = 0.1
    drop_place: float = 0.3
    drop_path: float = 0.0
    alibi: bool = False

    def build(self) -> PlainViT:
        return PlainViT(self)

    def layout(self) -> Layout:
        return Layout()


@lru_cache(maxsize=1024)
def _hashed(text: str) -> Tensor:
    """A fixed unit-variance code for a name: what has no wavelength is known by its kind and name."""
    return torch.randn(2 * _FREQUENCIES, generator=generator("swath-vit", text))


def _code(band: Band, kind: str) -> Tensor:
    """What a band measures, as numbers: Fourier features of log wavelength, or the hashed name; log width; flags."""
    waves, name = torch.zeros(2 * _FREQUENCIES), torch.zeros(2 * _FREQUENCIES)
    centre = width = flag = 0.0
    if band.nm is None:
        name = _hashed(f"{kind}:{band.name.lower()}")
    else:
        centre = math.log(band.nm / 300.0) / math.log(12_000.0 / 300.0)
        width = math.log10(max(band.fwhm or 0.05 * band.nm, 1.0)) - 1.5
        flag = 1.0
        phase = centre * math.pi * 64.0 ** (torch.arange(_FREQUENCIES) / (_FREQUENCIES - 1))
        waves = torch.cat([phase.sin(), phase.cos()])
    return torch.cat([waves, name, torch.tensor([centre, width, flag])])


@lru_cache(maxsize=256)
def band_codes(sensor: Sensor) -> Tensor:
    """One row a channel; a class product has one channel a class."""
    if sensor.kind == "classes":
        names = [name for _, name in sensor.classes]
        if not names:
            raise UserError("a class product without named classes cannot be embedded", where=f"sensor {sensor.id}")
        return torch.stack([_code(Band(n, unit="class"), "classes") for n in names])
    return torch.stack([_code(b, sensor.kind) for b in sensor.bands])


def standard(layer: Layer) -> Tensor:
    """Values of a layer near zero mean and unit width, zero where invalid; classes become one-hot channels."""
    sensor, x = layer.sensor, layer.x
    if sensor.kind == "classes":
        if len(sensor.bands) != 1:
            raise UserError(f"a class product has one band, not {len(sensor.bands)}", where=f"sensor {sensor.id}")
        values = torch.tensor([v for v, _ in sensor.classes], device=x.device, dtype=x.dtype)
        x = (x == values.view(1, 1, -1, 1, 1)).to(x.dtype)
        return torch.where(layer.valid, x, x.new_zeros(()))
    units = ["db" if b.unit in ("linear", "amplitude") else b.unit for b in sensor.bands]
    wrong = next((b for b, u in zip(sensor.bands, units, strict=True) if u not in UNITS), None)
    if wrong is not None:
        raise UnknownName("unit", wrong.unit, UNITS, where=f"band {wrong.name} of {sensor.id}")
    if any(u != b.unit for b, u in zip(sensor.bands, units, strict=True)):
        pairs = enumerate(zip(sensor.bands, units, strict=True))
        x = torch.stack([convert(x[:, :, c], b.unit, u) for c, (b, u) in pairs], 2)
    centre, width = (torch.tensor(v, dtype=x.dtype, device=x.device).view(-1, 1, 1)
                     for v in zip(*(UNITS[u] for u in units), strict=True))  # fmt: skip
    return torch.where(layer.valid, ((x - centre) / width).clamp_(-8.0, 8.0), x.new_zeros(()))


def own_view(layer: Layer) -> View:
    """The layer in this model's terms; nothing is refused that has a known unit."""
    sensor = layer.sensor
    want = Input(sensor.id, sensor.names, sensor.bands[0].unit)
    return View(want, standard(layer), layer.valid, layer.times, sensor, (True,) * len(sensor.bands))


def pixel_metres(view: View, where: Where) -> Tensor:
    """Side of a pixel in metres, float64 (B,): from each sample's grid where it is known, else the sensor's gsd."""
    b, _, _, h, w = view.x.shape
    out = torch.full((b,), float(view.gsd), dtype=torch.float64)
    for i, grid in enumerate(where.grids):
        if grid is None:
            continue
        gx, gy = grid.gsd
        side = math.sqrt(gx * grid.shape[1] / w * gy * grid.shape[0] / h)
        if "4326" in grid.crs or "OGC:CRS84" in grid.crs:
            lat = float(where.lonlat[i, 1]) if bool(torch.isfinite(where.lonlat[i, 1])) else 0.0
            side *= _METRES_PER_DEGREE * math.sqrt(max(math.cos(math.radians(lat)), 0.05))
        out[i] = side
    return out


def waves(value: Tensor, width: int, longest: float = 10_000.0) -> Tensor:
    """Sine and cosine of `value` at `width / 2` geometric frequencies from 1 to 1/longest."""
    rate = longest ** -(torch.arange(width // 2, device=value.device, dtype=torch.float64) / (width // 2))
    phase = value.double().unsqueeze(-1) * rate
    return torch.cat([phase.sin(), phase.cos()], -1)


@lru_cache(maxsize=64)
def _kernel_resize(old: int, new: int) -> Tensor:
    """(new², old²): pseudo-inverse of the transposed image resize, so that <w', resize(x)> is closest to <w, x>."""
    eye = torch.eye(old * old).view(old * old, 1, old, old)
    mode = "bilinear" if min(old, new) < 3 else "bicubic"
    resize = F.interpolate(eye, (new, new), mode=mode, align_corners=False, antialias=new < old)
    return torch.linalg.pinv(resize.view(old * old, new * new).double()).float()


class PatchEmbed(nn.Module):
    """Tokens of one sensor from pixels of whatever bands it has."""

    def __init__(self, width: int, patch: int, basis: int) -> None:
        super().__init__()
        self.patch, self.basis = patch, basis
        last = Linear(128, basis)
        self.mix = nn.Sequential(Linear(_CODE, 128), nn.GELU(), last)
        self.kinds = nn.Embedding(len(KINDS), width)
        self.kernel = nn.Parameter(torch.empty(width, basis, patch, patch))
        self.bias = nn.Parameter(torch.zeros(width))
        self.hole = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.kernel, std=(patch * patch * basis) ** -0.5)
        nn.init.normal_(last.weight, std=128**-0.5 * 2)
        nn.init.normal_(self.kinds.weight, std=0.02)
        nn.init.normal_(self.hole, std=0.02)

    def size(self, view: View) -> int:
        """Pixels of a patch for this layer: the model's, or less when the layer itself is smaller."""
        return min(self.patch, *view.x.shape[3:])

    def weight(self, patch: int) -> Tensor:
        if patch == self.patch:
            return self.kernel
        matrix = _kernel_resize(self.patch, patch).to(self.kernel)
        return (self.kernel.flatten(2) @ matrix.T).unflatten(-1, (patch, patch))

    def forward(self, view: View) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, h, w, D) and whether a patch holds any valid pixel (B, T, h, w)."""
        b, t, _, h, w = view.x.shape
        p = self.size(view)
        x, seen = view.x.flatten(0, 1), view.valid.flatten(0, 1)
        pad = (0, -w % p, 0, -h % p)
        if any(pad):
            x, seen = F.pad(x, pad), F.pad(seen, pad)
        part = F.avg_pool2d(seen.float(), p).squeeze(1)
        mix = self.mix(band_codes(view.sensor).to(self.bias)) * x.shape[1] ** -0.5
        x, kernel = x.to(self.bias.dtype), self.weight(p)
        if x.shape[1] <= self.basis:
            kernel = torch.einsum("drhw,cr->dchw", kernel, mix)
        else:
            # many bands: mixing the pixels once is cheaper than a kernel for every band
            x = torch.einsum("nchw,cr->nrhw", x, mix)
        x = F.conv2d(x, kernel, self.bias, stride=p).permute(0, 2, 3, 1)
        x = x + self.kinds.weight[KINDS.index(view.sensor.kind)] + self.hole * (1.0 - part).unsqueeze(-1).to(x.dtype)
        return x.unflatten(0, (b, t)), (part > 0).unflatten(0, (b, t))


class Context(nn.Module):
    """Time (day of year, year) or place (lon, lat) as a vector; unknown, or dropped while training, a learned one."""

    def __init__(self, inputs: int, width: int, drop: float) -> None:
        super().__init__()
        self.drop = drop
        last = Linear(width, width)
        self.net = nn.Sequential(Linear(inputs, width), nn.GELU(), last)
        self.unknown = nn.Parameter(torch.zeros(width))
        nn.init.zeros_(last.bias)
        nn.init.normal_(last.weight, std=0.02 * width**-0.5)

    def forward(self, code: Tensor, known: Tensor, who: tuple[Tensor, str]) -> Tensor:
        """`code` (B, ..., inputs), `known` bool (B, ...); a drop hides a whole sample, `who` are their keys and what is
        dropped."""
        if self.training and self.drop > 0:
            kept = coins(*who) >= self.drop
            known = known & kept.view(-1, *[1] * (known.ndim - 1))
        return torch.where(known.unsqueeze(-1), self.net(code.to(self.unknown)), self.unknown)


def time_code(times: Tensor) -> Tensor:
    """Three harmonics of the year, and the years since 2000 at five rates."""
    years = times.double() / _DAYS
    season = 2 * math.pi * years.unsqueeze(-1) * torch.arange(1, 4, device=times.device)
    return torch.cat([season.sin(), season.cos(), waves((years - 30.0) / 2.0, 10, 100.0)], -1)


def place_code(lonlat: Tensor) -> Tensor:
    """The point on the unit sphere at four scales: no seam at the date line, no stretch at the poles."""
    lon, lat = torch.nan_to_num(lonlat).deg2rad().unbind(-1)
    xyz = torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], -1)
    phase = (xyz.unsqueeze(-1) * math.pi * 2.0 ** torch.arange(4, device=xyz.device)).flatten(-2)
    return torch.cat([phase.sin(), phase.cos()], -1)


class Block(nn.Module):
    """Pre-norm attention and MLP; the attention is `attend`."""

    def __init__(self, width: int, heads: int, drop: float) -> None:
        super().__init__()
        self.heads, self.drop = heads, drop
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.proj = Linear(width, 3 * width), Linear(width, width)
        self.fc1, self.fc2 = Linear(width, 4 * width), Linear(4 * width, width)

    def _kept(self, x: Tensor) -> Tensor:
        if not self.training or self.drop == 0:
            return x
        keep = (torch.rand(len(x), 1, 1, device=x.device) >= self.drop).to(x.dtype)
        return x * keep / (1.0 - self.drop)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        b, n, _ = x.shape
        seen = attend(self.qkv(self.norm1(x)).view(b, n, 3, self.heads, -1), bias=mask)
        x = x + self._kept(self.proj(seen))
        return added(x, self._kept(mlp_of(self.fc1, self.fc2, self.norm2(x))))


class PlainViT(EncoderModule):
    """The encoder of `SwathViT`; meets TokenEncoder. Maps come from four depths, all at the patch's stride."""

    def __init__(self, config: SwathViT) -> None:
        super().__init__()
        if config.size not in SIZES:
            raise UnknownName("size", config.size, SIZES, where="swath-vit")
        width, depth, heads = SIZES[config.size]
        if config.patch < 1 or config.registers < 1:
            raise UserError("patch and registers must be at least 1", where="swath-vit")
        self.config, self.width, self.heads = config, width, heads
        self.embed = PatchEmbed(width, config.patch, config.basis)
        self.scale = Linear(16, width)
        self.time, self.place = Context(16, width, config.drop_time), Context(24, width, config.drop_place)
        self.registers = nn.Parameter(torch.randn(1, config.registers, width) * 0.02)
        drops = [config.drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(width, heads, d) for d in drops)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.depths = tuple(depth * (i + 1) // 4 for i in range(4))
        for block in self.blocks:
            for name in ("qkv", "proj", "fc1", "fc2"):
                nn.init.trunc_normal_(getattr(block, name).weight, std=0.02)
                nn.init.zeros_(getattr(block, name).bias)
        nn.init.normal_(self.scale.weight, std=0.02)
        self.spec = EncoderSpec(
            name=f"swath-vit/{config.size}",
            inputs=(),
            widths=(width,) * 4,
            strides=(float(config.patch),) * 4,
            pooled=width,
            patch=config.patch,
            depth=depth,
            native_time=True,
            any_bands=True,
            licence="Apache-2.0",
            notes="takes every sensor in its physical unit; trained weights decide which it knows",
        )

    def _positions(self, view: View, where: Where) -> Tensor:
        """(B or 1, h, w, D): half of the width by ground metres, half by index, plus the scale of a patch; that alone
        with `alibi`."""
        p = self.embed.size(view)
        rows, cols = (-(-n // p) for n in view.x.shape[3:])
        side = pixel_metres(view, where) * p
        # an exported graph cannot ask for values: it keeps one table a sample
        same = not torch.compiler.is_exporting() and bool((side == side[0]).all())
        side = side[:1] if same else side
        scale = self.scale(waves(side.log2(), 16, 50.0).to(self.registers))[:, None, None]
        if self.config.alibi:
            return scale
        q = self.width // 4
        parts: list[Tensor] = []
        for unit in (side / _REFERENCE_M, torch.ones(1, dtype=torch.float64)):
            y = waves((torch.arange(rows) + 0.5) * unit[:, None], q).unsqueeze(2)
            x = waves((torch.arange(cols) + 0.5) * unit[:, None], q).unsqueeze(1)
            parts += [y.expand(len(side), -1, cols, -1), x.expand(len(side), rows, -1, -1)]
        return torch.cat(parts, -1).to(self.registers) + scale

    def views(self, batch: Batch) -> dict[str, View]:
        """Every layer of the batch that the run allows, standardised."""
        only = self.adaptation.only
        found = {k: own_view(v) for k, v in batch.layers.items() if not only or k in only}
        if not found:
            raise UserError("the batch has no layer to encode", where="swath-vit")
        return found

    def tokenize(self, batch: Batch) -> Tokens:
        return self._tokens(self.views(batch), batch.where)

    def _tokens(self, views: Mapping[str, View], where: Where) -> Tokens:
        lonlat = where.lonlat
        place = self.place(place_code(lonlat), torch.isfinite(lonlat).all(-1), (where.key, "place"))[:, None]
        xs: list[Tensor] = []
        seen: list[Tensor] = []
        places: list[Tensor] = []
        grids: list[tuple[int, int]] = []
        for s, view in enumerate(views.values()):
            x, valid = self.embed(view)
            b, t, h, w = valid.shape
            times = view.times if view.times is not None else torch.zeros(b, t, dtype=torch.int64, device=x.device)
            known = torch.full_like(times, view.times is not None, dtype=torch.bool)
            when = self.time(time_code(times), known, (where.key, f"time{s}"))
            x = x + self._positions(view, where)[:, None] + when[:, :, None, None]
            xs.append(x.flatten(1, 3))
            seen.append(valid.flatten(1))
            index = torch.cartesian_prod(
                torch.tensor([s]), torch.tensor([0]), torch.arange(t), torch.arange(h), torch.arange(w)
            )
            places.append(index.view(-1, 5))
            grids.append((h, w))
        x = torch.cat(xs, 1) + place
        return Tokens(x, torch.cat(seen, 1), torch.cat(places).to(x.device), tuple(views), tuple(grids))

    def _run(self, tokens: Tokens, keep: Tensor | None, depths: Sequence[int]) -> list[Tensor]:
        """Normed tokens after each of `depths` blocks; registers go in front and are taken off again."""
        x, valid = tokens.x, tokens.valid
        if keep is not None:
            x = x.gather(1, keep.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
            valid = valid.gather(1, keep)
        n = self.registers.shape[1]
        x = torch.cat([self.registers.expand(len(x), -1, -1).to(x.dtype), x], 1)
        mask = None
        if torch.compiler.is_exporting() or not bool(valid.all()):
            mask = F.pad(valid, (n, 0), value=True)[:, None, None]
        if self.config.alibi:
            near = token_bias(tokens, self.heads, keep, n).to(x)
            mask = near if mask is None else near.masked_fill(~mask, -torch.inf)
        found: dict[int, Tensor] = {}
        for i, block in enumerate(self.blocks, 1):
            x = block(x, mask)
            if i in depths:
                found[i] = self.norm(x)[:, n:]
        return [found[d] for d in depths]

    def encode(self, tokens: Tokens, keep: Tensor | None = None) -> Tensor:
        return self._run(tokens, keep, self.depths[-1:])[0]

    def _map(self, x: Tensor, tokens: Tokens, counts: Sequence[int]) -> Tensor:
        """Mean over the valid timesteps of each sensor, then over sensors, on the finest token grid."""
        target = max(tokens.grids, key=lambda g: g[0] * g[1])
        total = weight = None
        start = 0
        for count, (h, w) in zip(counts, tokens.grids, strict=True):
            part = x[:, start : start + count].unflatten(1, (-1, h, w))
            seen = tokens.valid[:, start : start + count].unflatten(1, (-1, h, w))
            start += count
            some = seen.any(1)
            share = torch.where(some[:, None], seen, torch.ones_like(seen)).float().unsqueeze(-1)
            mean = ((part * share).sum(1) / share.sum(1)).permute(0, 3, 1, 2)
            # a sensor that saw nothing here counts only where no sensor saw anything
            worth = some.float().unsqueeze(1) + 1e-12
            if (h, w) != target:
                mean, worth = F.interpolate(mean, target, mode="nearest"), F.interpolate(worth, target, mode="nearest")
            total = mean * worth if total is None else total + mean * worth
            weight = worth if weight is None else weight + worth
        assert total is not None and weight is not None
        return (total / weight).to(x.dtype)

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        tokens = self._tokens(views, where)
        outs = self._run(tokens, None, self.depths)
        seen = tokens.valid.unsqueeze(-1).to(outs[-1].dtype)
        pooled = (outs[-1] * seen).sum(1) / seen.sum(1).clamp_min(1.0)
        finest = max(views.values(), key=lambda v: v.x.shape[3] * v.x.shape[4])
        counts = [v.x.shape[1] * h * w for v, (h, w) in zip(views.values(), tokens.grids, strict=True)]
        maps = tuple(self._map(x, tokens, counts) for x in outs)
        return Features(maps, pooled, (float(self.embed.size(finest)),) * len(maps), outs[-1])

    def forward(self, batch: Batch, levels: Sequence[int] | None = None) -> Features:
        return pick(self.features(self.views(batch), batch.where), levels, self.spec)


MEMBER = SwathViT
