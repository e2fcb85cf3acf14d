"""Scale-MAE: a ViT whose positions are measured in metres on the ground.

Scale-MAE, https://arxiv.org/abs/2212.14532. p(row, col) = sincos(gsd * row, gsd * col); the stored table is not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from swath.core import EncoderSpec, Features, Input, Where
from swath.models.encoder import EncoderModule, check_size, per_timestep, plain_features, taps
from swath.models.inputs import View, single
from swath.models.layers import PatchEmbed, sincos_single
from swath.models.layers.products import Linear
from swath.models.layers.vit import at, blocks, run, with_class
from swath.models.loading import Layout
from swath.models.vit import ViTShape

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _input(sensor: str, unit: str, gain: float) -> Input:
    return Input(sensor, ("red", "green", "blue"), unit, _MEAN, _STD, gain=gain)


def metre_table(grid: tuple[int, int], dim: int, gsd: Tensor) -> Tensor:
    """(B, 1 + h*w, dim) for gsd (B,): columns first, a zero row for the class token."""
    half = dim // 2
    ys, xs = torch.meshgrid(torch.arange(grid[0]).float(), torch.arange(grid[1]).float(), indexing="ij")
    ys, xs = (v.reshape(1, -1).to(gsd) * gsd[:, None] for v in (ys, xs))
    table = torch.cat([sincos_single(xs, half), sincos_single(ys, half)], -1)
    return nn.functional.pad(table, (0, 0, 1, 0))


class ScaleMae(EncoderModule):
    """The encoder of Scale-MAE."""

    def __init__(self, shape: ViTShape, name: str) -> None:
        super().__init__()
        s = self.shape = shape
        self.patch_embed = PatchEmbed(s.bands, s.dim, s.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, s.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (s.image // s.patch) ** 2, s.dim), requires_grad=False)
        self.blocks = blocks(s.depth, s.dim, s.heads, s.ratio)
        self.norm = nn.LayerNorm(s.dim, eps=1e-6)
        if s.classes:
            self.head = Linear(s.dim, s.classes)
        n = len(taps(s.depth))
        self.spec = EncoderSpec(
            name=name,
            inputs=(_input("rgb-aerial", "display", 1 / 255), _input("naip", "display", 1 / 255)),
            widths=(s.dim,) * n,
            strides=(float(s.patch),) * n,
            pooled=s.dim,
            patch=s.patch,
            depth=s.depth,
            licence="CC-BY-NC-4.0",
        )

    def tokens(self, x: Tensor, gsd: Tensor) -> list[Tensor]:
        """Every block's output before the norm; gsd in metres, one per sample."""
        grid = (x.shape[2] // self.shape.patch, x.shape[3] // self.shape.patch)
        table = metre_table(grid, self.shape.dim, gsd).to(x.dtype)
        return run(self.blocks, with_class(self.cls_token, self.patch_embed(x)) + table)

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        view = single(views, self.spec.name)
        p = self.shape.patch

        def image(x: Tensor, rows: Tensor) -> Features:
            check_size(x.shape[2], x.shape[3], p, self.spec.name)
            every = self.tokens(x, torch.full((len(x),), float(view.gsd), device=x.device))
            levels = at(every, taps(self.shape.depth), self.norm(every[-1]))
            return plain_features(levels, (x.shape[2] // p, x.shape[3] // p), float(p))

        return per_timestep(view, image)


@dataclass(frozen=True)
class ScaleMaeConfig:
    """Scale-MAE, one published size. Its weights are for non-commercial use."""

    kind: ClassVar[str] = "scalemae"
    sizes: ClassVar[Mapping[str, ViTShape]] = {
        "tiny": ViTShape(image=32, patch=8, dim=32, depth=4, heads=4),
        "large": ViTShape(dim=1024, depth=24, heads=16),
    }
    size: str = "large"
    shape: ViTShape | None = None

    def build(self) -> ScaleMae:
        return ScaleMae(self.shape or self.sizes[self.size], f"scalemae/{self.size}")

    def layout(self) -> Layout:
        """The pretraining file brings a decoder; the position table is never read."""
        drop = ("decoder*", "mask_token*", "fpn*", "fcn*", "head.*")
        return Layout(inside=("model",), drop=drop, recomputed=("pos_embed",))


MEMBER = ScaleMaeConfig
