"""DINOv3 ViT: rotary positions, register ("storage") tokens, LayerScale; also the satellite model of SAT-493M.

https://arxiv.org/abs/2508.10104. q, k of patch tokens turn by angles 2 pi x / period of their place in [-1, 1]; the
key bias is masked to zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swath.core import EncoderSpec, Features, Input, UnknownName, Where
from swath.models.encoder import EncoderModule, check_size, per_timestep, plain_features, taps
from swath.models.inputs import View, single
from swath.models.layers import LayerScale, Mlp, PatchEmbed
from swath.models.layers.products import Linear
from swath.models.loading import Layout

WEB = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SATELLITE = ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))


@dataclass(frozen=True)
class Plan:
    """Sizes; `satellite` models saw other statistics and carry a norm for local crops."""

    dim: int
    depth: int
    heads: int
    satellite: bool = False
    storage: int = 4
    patch: int = 16
    bands: int = 3
    ratio: float = 4.0
    base: float = 100.0
    local_norm: bool = False
    eps: float = 1e-5


SIZES: Mapping[str, Plan] = {
    "tiny": Plan(64, 4, 4),
    "vits16": Plan(384, 12, 6),
    "vitb16": Plan(768, 12, 12),
    "vitl16": Plan(1024, 24, 16),
    "vitl16-sat493m": Plan(1024, 24, 16, satellite=True, local_norm=True),
}


@dataclass(frozen=True)
class DinoV3:
    """One of `sizes`; the weights are gated and under the DINOv3 licence."""

    kind: ClassVar[str] = "dinov3"
    sizes: ClassVar[Mapping[str, Plan]] = SIZES
    size: str = "vitl16-sat493m"

    def build(self) -> DinoV3Encoder:
        if self.size not in SIZES:
            raise UnknownName("size of dinov3", self.size, SIZES)
        return DinoV3Encoder(SIZES[self.size], f"dinov3/{self.size}")

    def layout(self) -> Layout:
        return Layout()


def rgb_input(statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Input:
    """Display values, standardised with statistics of the range 0..1."""
    mean, std = (tuple(255.0 * v for v in s) for s in statistics)
    return Input("rgb-aerial", ("red", "green", "blue"), "display", mean, std)


class Rope(nn.Module):
    """Sines and cosines (h*w, head features) of places on a grid, each axis running over [-1, 1]."""

    periods: Tensor

    def __init__(self, features: int, base: float) -> None:
        super().__init__()
        steps = torch.arange(features // 4, dtype=torch.float32)
        self.register_buffer("periods", base ** (2.0 * steps / (features // 2)))

    def forward(self, h: int, w: int) -> tuple[Tensor, Tensor]:
        periods = self.periods.float()
        y, x = ((torch.arange(n, device=periods.device) + 0.5) / n * 2.0 - 1.0 for n in (h, w))
        places = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).flatten(0, 1)
        angles = (2.0 * math.pi * places[:, :, None] / periods).flatten(1).tile(2)
        return angles.sin(), angles.cos()


def turn(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the last tokens of (B, heads, N, d); those in front (class, storage) have no place."""
    sin, cos = rope
    front = x.shape[-2] - sin.shape[0]
    part = x[..., front:, :].to(sin.dtype)
    first, second = part.chunk(2, -1)
    part = part * cos + torch.cat([-second, first], -1) * sin
    return torch.cat([x[..., :front, :], part.to(x.dtype)], -2)


class MaskedBiasLinear(nn.Linear):
    """The joint projection; `bias_mask` is zero at the key's part."""

    bias_mask: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim, 3 * dim)
        mask = torch.ones(3 * dim)
        mask[dim : 2 * dim] = 0.0
        self.register_buffer("bias_mask", mask)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias * self.bias_mask.to(self.bias.dtype))


class RopeAttention(nn.Module):
    """Self-attention with rotary places."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = MaskedBiasLinear(dim), Linear(dim, dim)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(turn(q, rope), turn(k, rope), v)
        return self.proj(y.transpose(1, 2).reshape(b, n, d))


class RopeBlock(nn.Module):
    """Pre-norm block with LayerScale."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(plan.dim, eps=plan.eps), nn.LayerNorm(plan.dim, eps=plan.eps)
        self.attn, self.mlp = RopeAttention(plan.dim, plan.heads), Mlp(plan.dim, int(plan.dim * plan.ratio))
        self.ls1, self.ls2 = LayerScale(plan.dim, 1e-5), LayerScale(plan.dim, 1e-5)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rope))
        return x + self.ls2(self.mlp(self.norm2(x)))


class DinoV3Encoder(EncoderModule):
    """Class token, storage tokens, patches; the pooled vector is the class token."""

    def __init__(self, plan: Plan, name: str = "dinov3") -> None:
        super().__init__()
        self.plan = plan
        self.patch_embed = PatchEmbed(plan.bands, plan.dim, plan.patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, plan.dim) * 0.02)
        self.storage_tokens = nn.Parameter(torch.randn(1, plan.storage, plan.dim) * 0.02)
        self.mask_token = nn.Parameter(torch.zeros(1, plan.dim))
        self.rope_embed = Rope(plan.dim // plan.heads, plan.base)
        self.blocks = nn.ModuleList(RopeBlock(plan) for _ in range(plan.depth))
        self.norm = nn.LayerNorm(plan.dim, eps=plan.eps)
        if plan.local_norm:
            self.local_cls_norm = nn.LayerNorm(plan.dim, eps=plan.eps)
        self.levels = taps(plan.depth)
        n = len(self.levels)
        self.spec = EncoderSpec(
            name=name,
            inputs=(rgb_input(SATELLITE if plan.satellite else WEB),),
            widths=(plan.dim,) * n,
            strides=(float(plan.patch),) * n,
            pooled=plan.dim,
            patch=plan.patch,
            depth=plan.depth,
            licence="LicenseRef-DINOv3",
            notes="gated weights; the licence passes on",
        )

    def tokens(self, x: Tensor) -> list[Tensor]:
        """Outputs of all blocks, before the norm: class, storage, patches."""
        h, w = x.shape[2] // self.plan.patch, x.shape[3] // self.plan.patch
        patches = self.patch_embed(x)
        front = torch.cat([self.cls_token, self.storage_tokens], 1).expand(len(x), -1, -1)
        y, rope, out = torch.cat([front, patches], 1), self.rope_embed(h, w), list[Tensor]()
        for block in self.blocks:
            y = block(y, rope)
            out.append(y)
        return out

    def _images(self, x: Tensor) -> Features:
        layers = self.tokens(x)
        grid = (x.shape[2] // self.plan.patch, x.shape[3] // self.plan.patch)
        chosen = [self.norm(layers[i]) for i in self.levels]
        return plain_features(chosen, grid, float(self.plan.patch), prefix=1 + self.plan.storage)

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        view = single(views, self.spec.name)
        check_size(view.x.shape[3], view.x.shape[4], self.plan.patch, self.spec.name)
        return per_timestep(view, lambda x, rows: self._images(x))


MEMBER = DinoV3
