"""TerraMind: any-to-any generative model over Sentinel-1 and 2, elevation, land cover, NDVI and coordinates.

One transformer encodes the tokens of every given modality (patches, or ids of a tokenizer); one decoder predicts the
tokens of any other, all masked at once, from the encoded context. https://arxiv.org/abs/2504.11171
The encoder-decoder follows 4M (https://arxiv.org/abs/2312.06647). Official keys throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swath.core import EncoderSpec, Features, Input, UnknownName, UserError, Where
from swath.models.encoder import EncoderModule, check_size, taps, to_map
from swath.models.inputs import View
from swath.models.layers import Attention, patchify, resize_positions, sincos_1d
from swath.models.layers.products import Linear
from swath.models.loading import Layout

Merge = Literal["none", "mean", "max", "concat", "dict"]
S2_L2A = ("coastal", "blue", "green", "red", "rededge071", "rededge075", "rededge078", "nir", "nir08", "nir09",
          "swir16", "swir22")  # fmt: skip
S2_L1C = (*S2_L2A[:10], "cirrus", "swir16", "swir22")
L2A_MEAN = (1390.458, 1503.317, 1718.197, 1853.91, 2199.1, 2779.975, 2987.011, 3083.234, 3132.22, 3162.988, 2424.884,
            1857.648)  # fmt: skip
L2A_STD = (2106.761, 2141.107, 2038.973, 2134.138, 2085.321, 1889.926, 1820.257, 1871.918, 1753.829, 1797.379,
           1434.261, 1334.311)  # fmt: skip
L1C_MEAN = (2357.089, 2137.385, 2018.788, 2082.986, 2295.651, 2854.537, 3122.849, 3040.56, 3306.481, 1473.847, 506.07,
            2472.825, 1838.929)  # fmt: skip
L1C_STD = (1624.683, 1675.806, 1557.708, 1833.702, 1823.738, 1733.977, 1732.131, 1679.732, 1727.26, 1024.687, 442.165,
           1331.411, 1160.419)  # fmt: skip
INPUTS = {
    "untok_sen2l2a@224": Input("sentinel2-l2a", S2_L2A, "reflectance", L2A_MEAN, L2A_STD, gain=10_000.0),
    "untok_sen2l1c@224": Input("sentinel2-l1c", S2_L1C, "reflectance", L1C_MEAN, L1C_STD, gain=10_000.0),
    "untok_sen1grd@224": Input("sentinel1-grd", ("vv", "vh"), "db", (-12.599, -20.293), (5.195, 5.89)),
    "untok_sen1rtc@224": Input("sentinel1-rtc", ("vv", "vh"), "db", (-10.93, -17.329), (4.391, 4.459)),
    "untok_dem@224": Input("copdem", ("elevation",), "m", (670.665,), (951.272,)),
}
PIXELS = {"untok_sen2l2a@224": 12, "untok_sen2l1c@224": 13, "untok_sen2rgb@224": 3, "untok_sen1grd@224": 2,
          "untok_sen1rtc@224": 2, "untok_dem@224": 1}  # fmt: skip
TOKENS = {"tok_sen2l2a@224": 15360, "tok_sen1grd@224": 15360, "tok_sen1rtc@224": 15360, "tok_dem@224": 15360,
          "tok_ndvi@224": 15360, "tok_lulc@224": 4375}  # fmt: skip
SHORT = {"S2L2A": "untok_sen2l2a@224", "S2L1C": "untok_sen2l1c@224", "RGB": "untok_sen2rgb@224",
         "S1GRD": "untok_sen1grd@224", "S1RTC": "untok_sen1rtc@224", "DEM": "untok_dem@224", "LULC": "tok_lulc@224",
         "NDVI": "tok_ndvi@224"}  # fmt: skip
COORDS = 30000


@dataclass(frozen=True)
class Plan:
    """Sizes of one TerraMind. `pixels` are channels per raster modality, `vocab` ids per token modality."""

    dim: int
    depth: int
    heads: int
    gated: bool
    decoder_depth: int = 0
    patch: int = 16
    image: int = 224
    mlp_ratio: float = 4.0
    pixels: Mapping[str, int] | None = None
    vocab: Mapping[str, int] | None = None
    targets: Mapping[str, int] | None = None

    @property
    def grid(self) -> int:
        return self.image // self.patch


SIZES: Mapping[str, Plan] = {
    "tiny": Plan(192, 12, 3, False, 12),
    "small": Plan(384, 12, 6, False, 12),
    "base": Plan(768, 12, 12, True, 12),
    "large": Plan(1024, 24, 16, True, 24),
}


@dataclass(frozen=True)
class TerraMind:
    """`merge` says how the tokens of several sensors become one map: their mean or their maximum."""

    kind: ClassVar[str] = "terramind"
    sizes: ClassVar[Mapping[str, Plan]] = SIZES
    size: str = "base"
    merge: Literal["mean", "max"] = "mean"

    def build(self) -> TerraMindEncoder:
        if self.size not in SIZES:
            raise UnknownName("size of terramind", self.size, SIZES)
        return TerraMindEncoder(SIZES[self.size], self.merge, f"terramind/{self.size}")

    def layout(self) -> Layout:
        return Layout(drop=("decoder*", "mask_token", "encoder_embeddings.tok_*", "encoder_embeddings.coords*",
                            "encoder_embeddings.untok_sen2rgb*"), recomputed=("*.pos_emb",))  # fmt: skip


def full_plan(size: str) -> Plan:
    """The published encoder-decoder with every modality."""
    plan = SIZES[size]
    vocab = {**TOKENS, "coords": COORDS}
    return Plan(plan.dim, plan.depth, plan.heads, plan.gated, plan.decoder_depth, pixels=PIXELS, vocab=vocab,
                targets=vocab)  # fmt: skip


class PlainNorm(nn.Module):
    """LayerNorm whose bias is a constant zero (and yet stands in the files)."""

    bias: Tensor

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.register_buffer("bias", torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class Feedforward(nn.Module):
    """GELU with biases, or SwiGLU without at two thirds of the width."""

    def __init__(self, dim: int, ratio: float, gated: bool) -> None:
        super().__init__()
        hidden = int(dim * ratio)
        self.gated = gated
        hidden = int(2 * hidden / 3) if gated else hidden
        self.fc1, self.fc2 = Linear(dim, hidden, bias=not gated), Linear(hidden, dim, bias=not gated)
        self.act = nn.SiLU() if gated else nn.GELU()
        if gated:
            self.fc3 = Linear(dim, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.fc1(x))
        return self.fc2(y * self.fc3(x) if self.gated else y)


class CrossAttention(nn.Module):
    """Queries of the decoder on keys and values of the context."""

    def __init__(self, dim: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = Linear(dim, dim, bias=bias), Linear(dim, 2 * dim, bias=bias)
        self.proj = Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        b, n, d = x.shape
        q = self.q(x).view(b, n, self.heads, -1).transpose(1, 2)
        k, v = self.kv(context).view(b, context.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(y.transpose(1, 2).reshape(b, n, d))


class EncoderBlock(nn.Module):
    """Pre-norm self-attention and feedforward."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.norm1, self.norm2 = PlainNorm(plan.dim), PlainNorm(plan.dim)
        self.attn = Attention(plan.dim, plan.heads, not plan.gated, not plan.gated)
        self.mlp = Feedforward(plan.dim, plan.mlp_ratio, plan.gated)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attn(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """Self-attention, attention on the context, feedforward."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.norm1, self.norm2 = PlainNorm(plan.dim), PlainNorm(plan.dim)
        self.query_norm, self.context_norm = PlainNorm(plan.dim), PlainNorm(plan.dim)
        self.self_attn = Attention(plan.dim, plan.heads, not plan.gated, not plan.gated)
        self.cross_attn = CrossAttention(plan.dim, plan.heads, not plan.gated)
        self.mlp = Feedforward(plan.dim, plan.mlp_ratio, plan.gated)

    def forward(self, x: Tensor, context: Tensor, own: Tensor | None, seen: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.norm1(x), own)
        x = x + self.cross_attn(self.query_norm(x), self.context_norm(context), seen)
        return x + self.mlp(self.norm2(x))


def positions_2d(side: int, dim: int) -> Tensor:
    """(1, side², dim): column sines and cosines, then row ones, laid out column by column as the official table is."""
    rate = 10_000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    first, second = torch.meshgrid(torch.arange(side).double(), torch.arange(side).double(), indexing="ij")
    parts = [f(p.reshape(-1, 1) * rate) for p in (first, second) for f in (torch.sin, torch.cos)]
    return torch.cat(parts, -1)[None].float()


class PixelEmbedding(nn.Module):
    """Patches (rows, columns, band) through one matrix without bias."""

    pos_emb: Tensor

    def __init__(self, plan: Plan, channels: int) -> None:
        super().__init__()
        self.patch, self.grid = plan.patch, plan.grid
        self.proj = Linear(channels * plan.patch**2, plan.dim, bias=False)
        self.mod_emb = nn.Parameter(torch.randn(1, 1, plan.dim) * 0.02)
        self.register_buffer("pos_emb", positions_2d(plan.grid, plan.dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and what is added to them (position and modality)."""
        grid = (x.shape[2] // self.patch, x.shape[3] // self.patch)
        where = resize_positions(self.pos_emb, (self.grid, self.grid), grid)
        return self.proj(patchify(x, self.patch)), (where + self.mod_emb).expand(len(x), -1, -1)


class TokenEmbedding(nn.Module):
    """Ids of a tokenizer (B, h, w), or of a sequence (B, N); `target` adds the logits, tied to the embedding."""

    pos_emb: Tensor

    def __init__(self, plan: Plan, vocab: int, sequence: bool, target: bool = False) -> None:
        super().__init__()
        self.grid = 0 if sequence else plan.grid
        self.token_emb = nn.Embedding(vocab, plan.dim)
        nn.init.normal_(self.token_emb.weight, std=0.02)
        self.mod_emb = nn.Parameter(torch.randn(1, 1, plan.dim) * 0.02)
        table = sincos_1d(512, plan.dim)[None] if sequence else positions_2d(plan.grid, plan.dim)
        self.register_buffer("pos_emb", table)
        if target:
            self.to_logits = Linear(plan.dim, vocab, bias=False)
            self.to_logits.weight = self.token_emb.weight

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.token_emb(ids.flatten(1)), self.places(ids)

    def places(self, ids: Tensor) -> Tensor:
        """Position and modality of each id."""
        if self.grid:
            size = (ids.shape[1], ids.shape[2]) if ids.ndim == 3 else (self.grid, self.grid)
            where = resize_positions(self.pos_emb, (self.grid, self.grid), size)
        else:
            where = self.pos_emb[:, : ids.shape[1]]
        return (where + self.mod_emb).expand(len(ids), -1, -1)


class TerraMindModel(nn.Module):
    """Encoder of all modalities of the plan and, with `decoder_depth`, the decoder of its targets."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        parts: dict[str, nn.Module] = {k: PixelEmbedding(plan, c) for k, c in (plan.pixels or {}).items()}
        parts |= {k: TokenEmbedding(plan, n, k == "coords") for k, n in (plan.vocab or {}).items()}
        self.encoder_embeddings = nn.ModuleDict(parts)
        self.encoder = nn.ModuleList(EncoderBlock(plan) for _ in range(plan.depth))
        self.encoder_norm = PlainNorm(plan.dim)
        if not plan.decoder_depth:
            return
        targets = {k: TokenEmbedding(plan, n, k == "coords", True) for k, n in (plan.targets or {}).items()}
        for name, part in targets.items():
            if name in parts:
                part.mod_emb = cast(TokenEmbedding, parts[name]).mod_emb
        self.decoder_embeddings = nn.ModuleDict(targets)
        self.decoder_proj_context = Linear(plan.dim, plan.dim)
        self.decoder = nn.ModuleList(DecoderBlock(plan) for _ in range(plan.decoder_depth))
        self.decoder_norm = PlainNorm(plan.dim)
        self.mask_token = nn.Parameter(torch.randn(1, 1, plan.dim) * 0.02)

    def target(self, name: str) -> TokenEmbedding:
        """The decoder's embedding of a target modality."""
        if name not in self.decoder_embeddings:
            raise UnknownName("target modality", name, self.decoder_embeddings, where="terramind")
        return cast(TokenEmbedding, self.decoder_embeddings[name])

    def embed(self, given: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, list[int]]:
        """Tokens of all given modalities in a row, what is added to them, and how many each has."""
        unknown = [k for k in given if k not in self.encoder_embeddings]
        if unknown:
            raise UnknownName("modality", unknown[0], self.encoder_embeddings, where="terramind")
        pairs = [self.encoder_embeddings[k](v) for k, v in given.items()]
        counts = [x.shape[1] for x, _ in pairs]
        return torch.cat([x for x, _ in pairs], 1), torch.cat([e for _, e in pairs], 1), counts

    def layers(self, x: Tensor, seen: Tensor | None = None) -> list[Tensor]:
        """Outputs of all blocks, the last one normed; `seen` (B, N) bool masks tokens."""
        mask = None if seen is None else seen[:, None, None]
        out: list[Tensor] = []
        for block in self.encoder:
            x = block(x, mask)
            out.append(x)
        out[-1] = self.encoder_norm(x)
        return out

    def encode(self, given: Mapping[str, Tensor], merge: Merge = "mean") -> list[Tensor] | list[dict[str, Tensor]]:
        """Every block's tokens for raster and token modalities, merged over modalities."""
        x, where, counts = self.embed(given)
        parts = [layer.split(counts, 1) for layer in self.layers(x + where)]
        if merge == "dict":
            return [dict(zip(given, p, strict=True)) for p in parts]
        return [merge_parts(p, merge) for p in parts]

    def context(self, given: Mapping[str, Tensor], seen: Tensor | None = None) -> Tensor:
        """What the decoder attends to."""
        x, where, _ = self.embed(given)
        return self.decoder_proj_context(self.layers(x + where, seen)[-1]) + where

    def decode(self, y: Tensor, context: Tensor, own: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
        """Decoder states; `own` (B, N, N) and `seen` (B, K) are True where attention may look."""
        for block in self.decoder:
            y = block(y, context, None if own is None else own[:, None], None if seen is None else seen[:, None, None])
        return self.decoder_norm(y)

    def logits(self, given: Mapping[str, Tensor], target: str) -> Tensor:
        """Logits of every token of a raster target (B, h*w, vocab), all masked, in raster order."""
        context = self.context(given)
        part = self.target(target)
        blank = torch.zeros(len(context), part.grid, part.grid, dtype=torch.int64, device=context.device)
        return part.to_logits(self.decode(self.mask_token + part.places(blank), context))

    def generate(self, given: Mapping[str, Tensor], targets: Sequence[str]) -> dict[str, Tensor]:
        """The most likely tokens (B, h, w) of each target in turn; each generated one becomes an input of the next."""
        known, made = dict(given), dict[str, Tensor]()
        for target in targets:
            side = self.target(target).grid
            made[target] = known[target] = self.logits(known, target).argmax(-1).unflatten(1, (side, side))
        return made

    def losses(self, examples: Mapping[str, Example]) -> dict[str, Tensor]:
        """Cross-entropy of masked targets by modality; `mod` is their mean. `token` weighs a modality by its number of
        logits (tokens times vocabulary), as the reference does, not by its tokens."""
        given = {k: e.value for k, e in examples.items() if k in self.encoder_embeddings}
        seen = torch.cat([~e.input_mask.flatten(1) for k, e in examples.items() if k in given], 1)
        context = self.context(given, seen)
        wanted = {k: e for k, e in examples.items() if k in self.decoder_embeddings}
        where = torch.cat([self.target(k).places(e.value) for k, e in wanted.items()], 1)
        asked = torch.cat([~e.target_mask.flatten(1) for e in wanted.values()], 1)
        reach = torch.cat([e.attention.flatten(1) for e in wanted.values()], 1)
        which = torch.cat([torch.full_like(e.attention.flatten(1), i) for i, e in enumerate(wanted.values())], 1)
        y = self.decode(self.mask_token + where, context, decoder_mask(asked, reach, which), seen)
        terms: dict[str, Tensor] = {}
        start, sizes = 0, list[int]()
        for name, example in wanted.items():
            ids = example.value.flatten(1)
            part = slice(start, start + ids.shape[1])
            start += ids.shape[1]
            rows = self.target(name).to_logits(y[:, part][asked[:, part]])
            terms[name] = F.cross_entropy(rows.float(), ids[asked[:, part]]) if len(rows) else rows.sum()
            sizes.append(rows.numel())
        each = torch.stack(list(terms.values()))
        share = torch.tensor(sizes, dtype=each.dtype, device=each.device)
        return {"mod": each.mean(), "token": (each * share).sum() / share.sum().clamp_min(1), **terms}


@dataclass(frozen=True, eq=False)
class Example:
    """One modality in training: its value, which tokens are hidden from the encoder and not asked (True), and the
    decoder's attention counts (a number of tokens, at the first of each group that may see one another)."""

    value: Tensor
    input_mask: Tensor
    target_mask: Tensor
    attention: Tensor


def decoder_mask(asked: Tensor, reach: Tensor, which: Tensor) -> Tensor:
    """Who may look at whom: asked tokens of the same modality, up to the running sum of the attention counts."""
    order = asked.long().cumsum(1) - 1
    limit = (reach * asked).cumsum(1)
    allowed = (order[:, None, :] < limit[:, :, None]) & asked[:, None, :]
    allowed &= which[:, None, :] == which[:, :, None]
    # a token that may see nobody (it is not asked) sees itself: its state is not used
    return allowed | (torch.eye(asked.shape[1], dtype=torch.bool, device=asked.device) & ~asked[:, None, :])


def merge_parts(parts: Sequence[Tensor], merge: Merge) -> Tensor:
    """Tokens of several modalities on one grid as one."""
    if merge == "none":
        return torch.cat(list(parts), 1)
    if len({p.shape[1] for p in parts}) > 1:
        raise UserError("modalities on different token grids cannot be merged", where="terramind")
    if merge == "concat":
        return torch.cat(list(parts), -1)
    return torch.stack(list(parts)).mean(0) if merge == "mean" else torch.stack(list(parts)).amax(0)


class TerraMindEncoder(EncoderModule):
    """The encoder over declared sensors; those that a sample lacks are masked out of attention and of the merge."""

    def __init__(self, plan: Plan, merge: Literal["mean", "max"] = "mean", name: str = "terramind") -> None:
        super().__init__()
        pixels = {k: v for k, v in (plan.pixels or PIXELS).items() if k in INPUTS}
        self.merge = merge
        model = TerraMindModel(Plan(plan.dim, plan.depth, plan.heads, plan.gated, 0, plan.patch, plan.image,
                                    plan.mlp_ratio, pixels))  # fmt: skip
        self.plan = model.plan
        self.encoder_embeddings, self.encoder = model.encoder_embeddings, model.encoder
        self.encoder_norm = model.encoder_norm
        self.levels = taps(plan.depth)
        n = len(self.levels)
        self.spec = EncoderSpec(
            name=name,
            inputs=tuple(INPUTS[k] for k in pixels),
            widths=(plan.dim,) * n,
            strides=(float(plan.patch),) * n,
            pooled=plan.dim,
            patch=plan.patch,
            depth=plan.depth,
            licence="Apache-2.0",
            notes="sensors of one batch share one grid; missing ones are masked",
        )

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        by_sensor = {v.sensor: k for k, v in INPUTS.items()}
        steps = max(v.x.shape[1] for v in views.values())
        sizes = {v.x.shape[3:] for v in views.values()}
        if len(sizes) > 1 or any(v.x.shape[1] not in (1, steps) for v in views.values()):
            raise UserError(
                "the layers must share one grid and one number of timesteps (or have one)",
                where="encoder terramind",
                remedy="resample to one grid; give as many dates of each sensor, or one",
            )
        h, w = next(iter(sizes))
        check_size(h, w, self.plan.patch, "terramind")
        pairs = {by_sensor[k]: v for k, v in views.items()}
        xs = [v.x.expand(-1, steps, -1, -1, -1).flatten(0, 1) for v in pairs.values()]
        seen = torch.stack([v.seen.expand(-1, steps).flatten() for v in pairs.values()], 1)
        embedded = [self.encoder_embeddings[k](x) for k, x in zip(pairs, xs, strict=True)]
        x = torch.cat([t + e for t, e in embedded], 1)
        count = x.shape[1] // len(xs)
        # a sample without any sensor still needs something to attend to: its blank tokens
        usable = torch.where(seen.any(1, keepdim=True), seen, torch.ones_like(seen))
        mask = None if bool(usable.all()) else usable.repeat_interleave(count, 1)[:, None, None]
        layers: list[Tensor] = []
        for block in self.encoder:
            x = block(x, mask)
            layers.append(x)
        layers[-1] = self.encoder_norm(x)
        merged = [self._merge(layers[i].unflatten(1, (len(xs), count)), usable) for i in self.levels]
        dated = seen.any(1).view(-1, steps)
        weight = torch.where(dated.any(1, keepdim=True), dated, torch.ones_like(dated)).to(x.dtype)
        weight = weight / weight.sum(1, keepdim=True)
        merged = [torch.einsum("bt,btnd->bnd", weight, m.unflatten(0, (-1, steps))) for m in merged]
        p = self.plan.patch
        maps = tuple(to_map(m, (h // p, w // p)) for m in merged)
        return Features(maps, merged[-1].mean(1), (float(p),) * len(maps), merged[-1])

    def _merge(self, x: Tensor, usable: Tensor) -> Tensor:
        """(N, sensors, tokens, D) over usable sensors."""
        share = usable[:, :, None, None]
        if self.merge == "max":
            return x.masked_fill(~share, float("-inf")).amax(1)
        return (x * share).sum(1) / share.sum(1)


MEMBER = TerraMind
