"""DINOv3 ConvNeXt: the convolutional students of DINOv3; the class vector is the mean of the last map.

https://arxiv.org/abs/2508.10104, https://arxiv.org/abs/2201.03545. x = x + gamma MLP(norm(dw7x7(x)))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from swath.core import EncoderSpec, Features, UnknownName, UserError, Where
from swath.models.encoder import EncoderModule, per_timestep
from swath.models.encoders.dinov3 import WEB, rgb_input
from swath.models.inputs import View, single
from swath.models.layers.convolutional import ChannelNorm
from swath.models.layers.products import Linear
from swath.models.loading import Layout


@dataclass(frozen=True)
class Plan:
    """Blocks and widths per stage."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    bands: int = 3


SIZES: Mapping[str, Plan] = {
    "tiny": Plan((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": Plan((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": Plan((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": Plan((3, 3, 27, 3), (192, 384, 768, 1536)),
}


@dataclass(frozen=True)
class DinoV3ConvNeXt:
    """One of `sizes`; the weights are gated and under the DINOv3 licence."""

    kind: ClassVar[str] = "dinov3-convnext"
    sizes: ClassVar[Mapping[str, Plan]] = SIZES
    size: str = "base"

    def build(self) -> ConvNeXtEncoder:
        if self.size not in SIZES:
            raise UnknownName("size of dinov3-convnext", self.size, SIZES)
        return ConvNeXtEncoder(SIZES[self.size], f"dinov3-convnext/{self.size}")

    def layout(self) -> Layout:
        return Layout()


class ConvNeXtBlock(nn.Module):
    """Depthwise 7 x 7, norm, two linear maps, a scale per feature."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.act, self.pwconv2 = Linear(width, 4 * width), nn.GELU(), Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.pwconv2(self.act(self.pwconv1(y)))).permute(0, 3, 1, 2)


class ConvNeXtEncoder(EncoderModule):
    """Maps at strides 4, 8, 16, 32; only the last is normed, as published."""

    def __init__(self, plan: Plan, name: str = "dinov3-convnext") -> None:
        super().__init__()
        self.plan = plan
        down = [nn.Sequential(nn.Conv2d(plan.bands, plan.dims[0], 4, 4), ChannelNorm(plan.dims[0]))]
        for a, b in zip(plan.dims[:-1], plan.dims[1:], strict=True):
            down.append(nn.Sequential(ChannelNorm(a), nn.Conv2d(a, b, 2, 2)))
        self.downsample_layers = nn.ModuleList(down)
        stages = [
            nn.Sequential(*(ConvNeXtBlock(d) for _ in range(n))) for n, d in zip(plan.depths, plan.dims, strict=True)
        ]
        self.stages = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(plan.dims[-1], eps=1e-6)
        self.norms = nn.ModuleList([*(nn.Identity() for _ in plan.dims[1:]), self.norm])
        self.spec = EncoderSpec(
            name=name,
            inputs=(rgb_input(WEB),),
            widths=plan.dims,
            strides=tuple(4.0 * 2**i for i in range(len(plan.dims))),
            pooled=plan.dims[-1],
            patch=4,
            depth=sum(plan.depths),
            licence="LicenseRef-DINOv3",
            notes="gated weights; the licence passes on",
        )

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """The maps of all stages, before any norm."""
        out: list[Tensor] = []
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))
            out.append(x)
        return out

    def normed(self, maps: list[Tensor]) -> list[Tensor]:
        """The maps as published: the last one normed."""
        return [*maps[:-1], self.norm(maps[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)]

    def vectors(self, last: Tensor) -> tuple[Tensor, Tensor]:
        """Class vector (the normed mean) and normed cells of the last map."""
        cells = last.flatten(2).transpose(1, 2)
        y = self.norm(torch.cat([last.mean((2, 3))[:, None], cells], 1))
        return y[:, 0], y[:, 1:]

    def _images(self, x: Tensor) -> Features:
        maps = self.pyramid(x)
        return Features(tuple(self.normed(maps)), self.vectors(maps[-1])[0], self.spec.strides)

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        view = single(views, self.spec.name)
        if min(view.x.shape[3:]) < 32:
            raise UserError(f"{self.spec.name} needs at least 32 x 32 pixels", where=f"encoder {self.spec.name}")
        return per_timestep(view, lambda x, rows: self._images(x))


MEMBER = DinoV3ConvNeXt
