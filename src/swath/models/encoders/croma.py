"""CROMA: radar and optical encoders that meet in a cross-attention encoder; positions are 2-D ALiBi biases only.

Remote Sensing Representations with Contrastive Radar-Optical Masked Autoencoders, https://arxiv.org/abs/2311.00566.
bias(head, i, j) = -slope(head) * distance(i, j).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from swath.core import EncoderSpec, Features, Input, UserError, Where
from swath.models.encoder import EncoderModule, check_size, per_timestep, plain_features, taps
from swath.models.inputs import View
from swath.models.layers import patchify
from swath.models.layers.alibi import bias_of, distances
from swath.models.layers.products import Linear
from swath.models.loading import Layout

RADAR = Input("sentinel1-grd", ("vv", "vh"), "db")
OPTICAL_BANDS = ("coastal", "blue", "green", "red", "rededge071", "rededge075", "rededge078", "nir", "nir08", "nir09",
                 "swir16", "swir22")  # fmt: skip
OPTICAL = Input("sentinel2-l2a", OPTICAL_BANDS, "reflectance", gain=10000.0)


@dataclass(frozen=True)
class CromaShape:
    """Sizes of one CROMA. The published classes have 16 heads and patches of 8 pixels."""

    dim: int = 768
    depth: int = 12
    heads: int = 16
    patch: int = 8


def alibi(grid: tuple[int, int], heads: int) -> Tensor:
    """(1, heads, N, N): minus the distance of two cells times the head's slope."""
    h, w = grid
    rows, cols = torch.meshgrid(torch.arange(h).float(), torch.arange(w).float(), indexing="ij")
    places = torch.stack([rows.reshape(-1), cols.reshape(-1)], 1)
    return bias_of(distances(places)[None], heads)


class SelfAttention(nn.Module):
    """Pre-norm attention with a bias on the logits."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.input_norm = nn.LayerNorm(dim)
        self.to_qkv = Linear(dim, 3 * dim, bias=False)
        self.to_out = Linear(dim, dim)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self.to_qkv(self.input_norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.to_out(scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Queries of one sensor, keys and values of the other; one norm serves both."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.input_norm = nn.LayerNorm(dim)
        self.to_q = Linear(dim, dim, bias=False)
        self.to_k = Linear(dim, dim, bias=False)
        self.to_v = Linear(dim, dim, bias=False)
        self.to_out = Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor, bias: Tensor) -> Tensor:
        x, context = self.input_norm(x), self.input_norm(context)
        parts = (self.to_q(x), self.to_k(context), self.to_v(context))
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)
        return self.to_out(scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Pre-norm two-layer map (the third place is the reference's dropout, kept for its numbering)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.input_norm = nn.LayerNorm(dim)
        self.net = nn.Sequential(Linear(dim, 4 * dim), nn.GELU(), nn.Identity(), Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.input_norm(x))


class CromaTransformer(nn.Module):
    """One sensor's stack."""

    def __init__(self, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        pairs = ([SelfAttention(dim, heads), FeedForward(dim)] for _ in range(depth))
        self.layers = nn.ModuleList(nn.ModuleList(p) for p in pairs)
        self.norm_out = nn.LayerNorm(dim)

    def run(self, x: Tensor, bias: Tensor) -> list[Tensor]:
        """Every layer's output, the last one normalised."""
        out: list[Tensor] = []
        for layer in self.layers:
            attend, feed = layer.children()
            x = x + attend(x, bias)
            x = x + feed(x)
            out.append(x)
        out[-1] = self.norm_out(x)
        return out


class CromaJoint(nn.Module):
    """The stack in which one sensor's tokens read the other's."""

    def __init__(self, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        triples = ([SelfAttention(dim, heads), CrossAttention(dim, heads), FeedForward(dim)] for _ in range(depth))
        self.layers = nn.ModuleList(nn.ModuleList(p) for p in triples)
        self.norm_out = nn.LayerNorm(dim)

    def run(self, x: Tensor, context: Tensor, bias: Tensor) -> list[Tensor]:
        """Every layer's output, the last one normalised."""
        out: list[Tensor] = []
        for layer in self.layers:
            attend, cross, feed = layer.children()
            x = x + attend(x, bias)
            x = x + cross(x, context, bias)
            x = x + feed(x)
            out.append(x)
        out[-1] = self.norm_out(x)
        return out


class CromaSensor(nn.Module):
    """Patches of one sensor through its stack."""

    def __init__(self, s: CromaShape, bands: int, depth: int) -> None:
        super().__init__()
        self.patch = s.patch
        self.linear_input = Linear(bands * s.patch * s.patch, s.dim)
        self.transformer = CromaTransformer(s.dim, depth, s.heads)

    def run(self, x: Tensor, bias: Tensor) -> list[Tensor]:
        return self.transformer.run(self.linear_input(patchify(x, self.patch, "cpq")), bias)


def _pool(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(dim), Linear(dim, 4 * dim), nn.GELU(), Linear(4 * dim, dim))


class Croma(EncoderModule):
    """Radar, optical, or both: what the batch holds decides which vector and maps come out."""

    def __init__(self, shape: CromaShape, name: str) -> None:
        super().__init__()
        s = self.shape = shape
        self.s1_encoder = CromaSensor(s, len(RADAR.bands), s.depth // 2)
        self.s1_GAP_FFN = _pool(s.dim)
        self.s2_encoder = CromaSensor(s, len(OPTICAL.bands), s.depth)
        self.s2_GAP_FFN = _pool(s.dim)
        self.joint_encoder = CromaJoint(s.dim, s.depth // 2, s.heads)
        n = len(taps(s.depth // 2))
        self.spec = EncoderSpec(
            name=name,
            inputs=(OPTICAL, RADAR),
            widths=(s.dim,) * n,
            strides=(float(s.patch),) * n,
            pooled=s.dim,
            patch=s.patch,
            depth=s.depth,
            licence="MIT",
            notes="each image is scaled by its own mean +/- 2 std, so that a vector does not depend on its batch",
        )

    def bias(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        """The ALiBi bias of this grid."""
        return alibi(grid, self.shape.heads).to(like)

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        radar, optical = views.get(RADAR.sensor), views.get(OPTICAL.sensor)
        if radar is not None and optical is not None:
            return self._joint(radar, optical)
        view = next(iter(views.values()))
        encoder, pool = (self.s1_encoder, self.s1_GAP_FFN) if radar else (self.s2_encoder, self.s2_GAP_FFN)
        depth = len(encoder.transformer.layers)

        def image(x: Tensor, rows: Tensor) -> Features:
            grid = self._grid(x)
            every = encoder.run(x, self.bias(grid, x))
            levels = [every[i] for i in taps(depth, len(self.spec.widths))]
            return plain_features(levels, grid, float(self.shape.patch), pool(every[-1].mean(1)), prefix=0)

        return per_timestep(_scaled(view), image)

    def _joint(self, radar: View, optical: View) -> Features:
        if radar.x.shape[:2] + radar.x.shape[3:] != optical.x.shape[:2] + optical.x.shape[3:]:
            raise UserError(
                f"{self.spec.name} needs radar and optical of one size and number of timesteps: "
                f"{tuple(radar.x.shape)} beside {tuple(optical.x.shape)}",
                where=f"encoder {self.spec.name}",
                remedy="resample or composite them, or use one: Adaptation(only=(...,))",
            )
        from dataclasses import replace

        s1, s2 = _scaled(radar), _scaled(optical)
        n = s1.x.shape[2]
        both = replace(s2, x=torch.cat([s1.x, s2.x], 2), valid=s1.valid | s2.valid)

        def image(x: Tensor, rows: Tensor) -> Features:
            grid = self._grid(x)
            bias = self.bias(grid, x)
            first, second = self.s1_encoder.run(x[:, :n], bias)[-1], self.s2_encoder.run(x[:, n:], bias)[-1]
            every = self.joint_encoder.run(first, second, bias)
            levels = [every[i] for i in taps(len(every), len(self.spec.widths))]
            return plain_features(levels, grid, float(self.shape.patch), every[-1].mean(1), prefix=0)

        return per_timestep(both, image)

    def _grid(self, x: Tensor) -> tuple[int, int]:
        check_size(x.shape[2], x.shape[3], self.shape.patch, self.spec.name)
        return x.shape[2] // self.shape.patch, x.shape[3] // self.shape.patch


def _scaled(view: View) -> View:
    """Each image and band: mean +/- 2 std of its valid pixels to 0..1, clipped."""
    from dataclasses import replace

    x, valid = view.x.float(), view.valid.float()
    count = valid.sum((3, 4), keepdim=True).clamp_min(1)
    mean = (x * valid).sum((3, 4), keepdim=True) / count
    std = (((x - mean) * valid).square().sum((3, 4), keepdim=True) / count).sqrt()
    low = mean - 2 * std
    y = ((x - low) / (4 * std).clamp_min(1e-6)).clamp(0, 1)
    return replace(view, x=torch.where(view.valid, y, torch.zeros_like(y)).to(view.x.dtype))


@dataclass(frozen=True)
class CromaConfig:
    """Which CROMA."""

    kind: ClassVar[str] = "croma"
    sizes: ClassVar[Mapping[str, CromaShape]] = {
        "tiny": CromaShape(dim=64, depth=4),
        "base": CromaShape(),
        "large": CromaShape(dim=1024, depth=24),
    }
    size: str = "base"
    shape: CromaShape | None = None

    def build(self) -> Croma:
        return Croma(self.shape or self.sizes[self.size], f"croma/{self.size}")

    def layout(self) -> Layout:
        """Five nested states; torchgeo's copy also stores the bias that is computed here."""
        return Layout(drop=("attn_bias",))


MEMBER = CromaConfig
