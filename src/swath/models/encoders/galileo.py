"""Galileo: one transformer over many sensors at once, with tokens that vary in space and time, in one, or in none.

Galileo: Learning Global & Local Features of Many Remote Sensing Modalities, https://arxiv.org/abs/2502.09356.
token = embed(bands of a group) + [group | step | month | place], each a quarter of the width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, scaled_dot_product_attention

from swath.core import EncoderSpec, Features, Input, UserError, Where
from swath.models.encoder import EncoderModule, check_size, taps, to_map
from swath.models.encoders.presto import cartesian, month_table, months_from, months_of
from swath.models.inputs import View
from swath.models.layers import Mlp
from swath.models.layers.generated import kernel_resize
from swath.models.layers.products import Linear
from swath.models.loading import Layout

SPACE_TIME = {"S1": (0, 1), "S2_RGB": (2, 3, 4), "S2_Red_Edge": (5, 6, 7), "S2_NIR_10m": (8,), "S2_NIR_20m": (9,),
              "S2_SWIR": (10, 11), "NDVI": (12,)}  # fmt: skip
TIME = {"ERA5": (0, 1), "TC": (2, 3, 4), "VIIRS": (5,)}
SPACE = {"SRTM": (0, 1), "DW": tuple(range(2, 11)), "WC": tuple(range(11, 16))}
STATIC = {"LS": (0,), "location": (1, 2, 3), "DW_static": tuple(range(4, 13)), "WC_static": tuple(range(13, 18))}
FAMILIES = (SPACE_TIME, SPACE, TIME, STATIC)
GSD = 10.0

_MEAN = (-11.728724389184965, -18.85558188024017, 1395.3408730676722, 1338.4026921784578, 1343.09883810357,
         1543.8607982512297, 2186.2022069512263, 2525.0932853316694, 2410.3377187373408, 2750.2854646886753,
         2234.911100061487, 1474.5311266077113)  # fmt: skip
_STD = (4.887145774840316, 5.730270320384293, 917.7041440370853, 913.2988423581528, 1092.678723527555,
        1047.2206083460424, 1048.0101311156767, 1143.6903026819996, 1098.979177731649, 1204.472755085893,
        1145.9774063078878, 980.2429840007796)  # fmt: skip
_LOW, _SPAN = tuple(m - 2 * s for m, s in zip(_MEAN, _STD, strict=True)), tuple(4 * s for s in _STD)
S1 = Input("sentinel1-grd", ("vv", "vh"), "db", _LOW[:2], _SPAN[:2])
S2 = Input(
    "sentinel2-l2a",
    ("blue", "green", "red", "rededge071", "rededge075", "rededge078", "nir", "nir08", "swir16", "swir22"),
    "reflectance",
    _LOW[2:],
    _SPAN[2:],
    gain=10000.0,
)


@dataclass(frozen=True)
class GalileoShape:
    """Sizes of one Galileo; `patch` is the patch of the stored kernels, any smaller or larger one can run."""

    dim: int = 768
    depth: int = 12
    heads: int = 12
    ratio: float = 4.0
    patch: int = 8
    steps: int = 24


class Grid(NamedTuple):
    """What a set of tokens covers."""

    b: int
    h: int
    w: int
    t: int


class GalileoAttention(nn.Module):
    """Attention with separate projections."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = Linear(dim, dim), Linear(dim, dim), Linear(dim, dim)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor, bias: Tensor | None, context: Tensor | None = None) -> Tensor:
        y = x if context is None else context
        parts = (self.q(x), self.k(y), self.v(y))
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)
        return self.proj(scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2))


class GalileoBlock(nn.Module):
    """A pre-norm block."""

    def __init__(self, dim: int, heads: int, ratio: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = GalileoAttention(dim, heads)
        self.mlp = Mlp(dim, int(dim * ratio))

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        x = x + self.attn(self.norm1(x), bias)
        return x + self.mlp(self.norm2(x))


class FlexEmbed(nn.Module):
    """A patch embedding whose kernel is resized to the patch that is asked for."""

    def __init__(self, bands: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(bands, dim, patch, patch)

    def forward(self, x: Tensor, patch: int) -> Tensor:
        """(B, H, W, ..., C) as (B, h, w, ..., D)."""
        b = len(x)
        series = x if x.ndim == 5 else x[..., None, :]
        flat = series.permute(0, 3, 4, 1, 2).flatten(0, 1)
        y = conv2d(flat, kernel_resize(self.proj.weight, patch), self.proj.bias, stride=patch)
        y = y.unflatten(0, (b, -1)).permute(0, 3, 4, 1, 2)
        return y if x.ndim == 5 else y[:, :, :, 0]


def slow_sincos(positions: Tensor, dim: int) -> Tensor:
    """(..., dim) with rates 10000^-(i / dim / 2): the published weights were trained with this exponent."""
    rates = 1.0 / 10000 ** (torch.arange(dim // 2, dtype=torch.float32, device=positions.device) / dim / 2.0)
    angle = positions.float()[..., None] * rates
    return torch.cat([angle.sin(), angle.cos()], -1)


class Coded(nn.Module):
    """The tables of group, step and month, and the codes made of them."""

    pos_embed: Tensor
    month_embed: nn.Embedding
    s_t_channel_embed: Tensor
    sp_channel_embed: Tensor
    t_channel_embed: Tensor
    st_channel_embed: Tensor

    def add_tables(self, s: GalileoShape) -> None:
        """Make the tables, under the official names."""
        quarter = s.dim // 4
        self.pos_embed = nn.Parameter(slow_sincos(torch.arange(s.steps), quarter), requires_grad=False)
        self.month_embed = nn.Embedding.from_pretrained(month_table(quarter), freeze=True)
        self.s_t_channel_embed = nn.Parameter(torch.zeros(len(SPACE_TIME), quarter))
        self.sp_channel_embed = nn.Parameter(torch.zeros(len(SPACE), quarter))
        self.t_channel_embed = nn.Parameter(torch.zeros(len(TIME), quarter))
        self.st_channel_embed = nn.Parameter(torch.zeros(len(STATIC), quarter))

    def codes(self, g: Grid, months: Tensor, ratio: float) -> list[Tensor]:
        """Codes of the four families; `ratio` is a patch's side over 10 m."""
        quarter = self.pos_embed.shape[-1]
        device = months.device
        rows, cols = (torch.arange(n, device=device) * ratio for n in (g.h, g.w))
        half = quarter // 2
        across = slow_sincos(cols, half)[None].expand(g.h, -1, -1)
        place = torch.cat([across, slow_sincos(rows, half)[:, None].expand(-1, g.w, -1)], -1)
        step, month = self.pos_embed[: g.t], self.month_embed(months)
        b, h, w, t = g

        def join(channel: Tensor, lead: tuple[int, ...], parts: Sequence[Tensor | None]) -> Tensor:
            n = len(channel)
            size = (*lead, n, quarter)
            full = [channel.expand(size)]
            full += [channel.new_zeros(size) if p is None else p[..., None, :].expand(size) for p in parts]
            return torch.cat(full, -1)

        return [
            join(self.s_t_channel_embed, (b, h, w, t), (step, month[:, None, None], place[None, :, :, None])),
            join(self.sp_channel_embed, (b, h, w), (None, None, place[None])),
            join(self.t_channel_embed, (b, t), (step[None], month, None)),
            join(self.st_channel_embed, (b,), (None, None, None)),
        ]


class Galileo(EncoderModule, Coded):
    """Galileo's encoder. The batch may hold Sentinel-1, Sentinel-2 or both; groups that it lacks are left out."""

    def __init__(self, shape: GalileoShape, config: GalileoConfig) -> None:
        super().__init__()
        s = self.shape = shape
        self.patch, self.month, self.use_place = config.patch, config.month, config.location
        flex = {n: FlexEmbed(len(b), s.dim, s.patch) for n, b in (SPACE_TIME | SPACE).items()}
        self.space_time_embed = nn.ModuleDict({n: flex[n] for n in SPACE_TIME})
        self.space_embed = nn.ModuleDict({n: flex[n] for n in SPACE})
        self.time_embed = nn.ModuleDict({n: Linear(len(b), s.dim) for n, b in TIME.items()})
        self.static_embed = nn.ModuleDict({n: Linear(len(b), s.dim) for n, b in STATIC.items()})
        self.add_tables(s)
        self.blocks = nn.ModuleList(GalileoBlock(s.dim, s.heads, s.ratio) for _ in range(s.depth))
        self.norm = nn.LayerNorm(s.dim)
        n = len(taps(s.depth))
        self.spec = EncoderSpec(
            name=f"galileo/{config.size}",
            inputs=(S2, S1),
            widths=(s.dim,) * n,
            strides=(float(config.patch),) * n,
            pooled=s.dim,
            patch=config.patch,
            depth=s.depth,
            native_time=True,
            licence="MIT",
            notes="without dates the month of the config is assumed for the first timestep",
        )

    def embed(
        self, x: Sequence[Tensor], mask: Sequence[Tensor], months: Tensor, patch: int, gsd: float
    ) -> list[Tensor]:
        """Tokens of the four families: (B, h, w, T, g, D), (B, h, w, g, D), (B, T, g, D), (B, g, D)."""
        st, sp, tm, static = x
        tokens = [
            self._patches(self.space_time_embed, SPACE_TIME, st, mask[0], patch),
            self._patches(self.space_embed, SPACE, sp, mask[1], patch),
            torch.stack([self.time_embed[n](tm[..., b]) for n, b in TIME.items()], -2),
            torch.stack([self.static_embed[n](static[..., b]) for n, b in STATIC.items()], -2),
        ]
        codes = self.codes(Grid(*tokens[0].shape[:4]), months, gsd * patch / GSD)
        return [a + c.to(a.dtype) for a, c in zip(tokens, codes, strict=True)]

    def _patches(
        self, layers: nn.ModuleDict, groups: Mapping[str, tuple[int, ...]], x: Tensor, mask: Tensor, patch: int
    ) -> Tensor:
        size = (x.shape[0], x.shape[1] // patch, x.shape[2] // patch, *x.shape[3:-1], self.shape.dim)
        every: list[Tensor] = []
        for i, (name, bands) in enumerate(groups.items()):
            # A group that no sample shows is not worth a convolution; its tokens take no part either way.
            shown = bool((mask[..., i] == 0).any())
            every.append(layers[name](x[..., bands], patch) if shown else x.new_zeros(size))
        return torch.stack(every, -2)

    def run(self, tokens: list[Tensor], hidden: list[Tensor], until: int | None = None) -> list[list[Tensor]]:
        """For every block the four families, normalised; hidden tokens take no part and come out as norm(0)."""
        x = torch.cat([a.flatten(1, -2) for a in tokens], 1)
        hide = torch.cat([m.flatten(1) for m in hidden], 1)
        order = hide.to(torch.uint8).argsort(dim=1, stable=True)
        n = int((~hide).sum(1).max())
        index = order[:, : max(n, 1), None].expand(-1, -1, x.shape[-1])
        gone = hide.gather(1, order[:, : max(n, 1)])
        bias = (~gone)[:, None, None] if bool(gone.any()) else None
        y, out = x.gather(1, index), list[list[Tensor]]()
        for block in self.blocks[:until]:
            y = block(y, bias)
            whole = torch.zeros_like(x).scatter(1, index, y.masked_fill(gone[..., None], 0.0))
            parts = self.norm(whole).split([a[..., 0].flatten(1).shape[1] for a in tokens], 1)
            out.append([p.reshape(a.shape) for p, a in zip(parts, tokens, strict=True)])
        return out

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        x, mask, months, gsd = self._gather(views, where)
        p = self.patch
        tokens = self.embed(x, mask, months, p, gsd)
        hidden = [thin(m, p) if i < 2 else m for i, m in enumerate(mask)]
        every = self.run(tokens, [m > 0 for m in hidden])
        grid = tokens[0].shape[1:3]
        maps = [to_map(per_patch(every[i], hidden), (grid[0], grid[1])) for i in taps(self.shape.depth)]
        pooled = average(every[-1], hidden)
        return Features(tuple(maps), pooled, self.spec.strides, maps[-1].flatten(2).transpose(1, 2))

    def _gather(self, views: Mapping[str, View], where: Where) -> tuple[list[Tensor], list[Tensor], Tensor, float]:
        shapes = {k: v.x.shape[:2] + v.x.shape[3:] for k, v in views.items()}
        if len(set(shapes.values())) > 1:
            raise UserError(f"the layers differ in size or timesteps: {shapes}", where=f"encoder {self.spec.name}")
        first = next(iter(views.values()))
        b, t, h, w = next(iter(shapes.values()))
        check_size(h, w, self.patch, self.spec.name)
        if t > self.shape.steps:
            raise UserError(f"{self.spec.name} takes at most {self.shape.steps} timesteps, not {t}")
        sizes = ((b, h, w, t, 13), (b, h, w, 16), (b, t, 6), (b, 18))
        x = [first.x.new_zeros(s) for s in sizes]
        mask = [first.x.new_ones(*s[:-1], len(f)) for s, f in zip(sizes, FAMILIES, strict=True)]
        for name, view in views.items():
            lo = 0 if name == S1.sensor else 2
            x[0][..., lo : lo + len(view.input.bands)] = view.x.permute(0, 3, 4, 1, 2)
            # A patch hides a timestep only where nothing of it was observed.
            seen = view.valid[:, :, 0].float().flatten(0, 1)[:, None]
            open_ = nn.functional.max_pool2d(seen, self.patch).unflatten(0, (b, t))[:, :, 0].permute(0, 2, 3, 1)
            open_ = open_.repeat_interleave(self.patch, 1).repeat_interleave(self.patch, 2)
            for i, bands in enumerate(SPACE_TIME.values()):
                if lo <= bands[0] < lo + len(view.present) and all(view.present[k - lo] for k in bands):
                    mask[0][..., i] = (open_ == 0).to(x[0].dtype)
        if self.use_place:
            known = torch.isfinite(where.lonlat).all(1)
            latlon = where.lonlat.flip(1).nan_to_num(0.0).float().to(x[3].device)
            x[3][:, 1:4] = cartesian(latlon).to(x[3].dtype)
            mask[3][:, 1] = (~known).to(x[3])
        if first.times is None and self.month is None:
            raise UserError(
                f"{self.spec.name} codes the month and the layer has no dates",
                where=f"layer {first.sensor.id}",
                remedy="give dates, or set the encoder's `month` (0..11) as an assumption",
            )
        months = months_of(self.month or 0, b, t) if first.times is None else months_from(first.times)
        return x, mask, months.to(first.x.device), first.gsd


def thin(mask: Tensor, patch: int) -> Tensor:
    """The mask of the patches: that of their first pixel."""
    return mask[:, ::patch, ::patch]


def average(tokens: Sequence[Tensor], mask: Sequence[Tensor]) -> Tensor:
    """(B, D): the mean of all tokens that took part."""
    x = torch.cat([a.flatten(1, -2) for a in tokens], 1)
    keep = (torch.cat([m.flatten(1) for m in mask], 1) == 0).to(x.dtype)[..., None]
    return (x * keep).sum(1) / keep.sum(1).clamp_min(1)


def per_patch(tokens: Sequence[Tensor], mask: Sequence[Tensor]) -> Tensor:
    """(B, h*w, D): for every patch the mean of its own tokens and of those without a place."""
    st, sp = tokens[0].flatten(3, 4).flatten(1, 2), tokens[1].flatten(1, 2)
    n = sp.shape[1]
    rest = [a.flatten(1, -2)[:, None].expand(-1, n, -1, -1) for a in tokens[2:]]
    x = torch.cat([st, sp, *rest], 2)
    own = [mask[0].flatten(3, 4).flatten(1, 2), mask[1].flatten(1, 2)]
    own += [m.flatten(1)[:, None].expand(-1, n, -1) for m in mask[2:]]
    keep = (torch.cat(own, 2) == 0).to(x.dtype)[..., None]
    return (x * keep).sum(2) / keep.sum(2).clamp_min(1)


@dataclass(frozen=True)
class GalileoConfig:
    """Which Galileo, at which patch. `location` adds the place's token; `month` is assumed for undated layers."""

    kind: ClassVar[str] = "galileo"
    sizes: ClassVar[Mapping[str, GalileoShape]] = {
        "nano": GalileoShape(dim=128, depth=4, heads=8),
        "tiny": GalileoShape(dim=192, depth=12, heads=3),
        "base": GalileoShape(),
    }
    size: str = "base"
    shape: GalileoShape | None = None
    patch: int = 8
    location: bool = False
    month: int | None = None

    def build(self) -> Galileo:
        return Galileo(self.shape or self.sizes[self.size], self)

    def layout(self) -> Layout:
        return Layout(rename=((".backbone", ""),))


MEMBER = GalileoConfig
