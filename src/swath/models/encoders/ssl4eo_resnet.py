"""ResNets pretrained on SSL4EO-S12: MoCo v2, DINO and DeCUR, on Sentinel-2 (13 bands) or Sentinel-1 (VV, VH).

SSL4EO-S12: https://arxiv.org/abs/2211.07044; DeCUR: https://arxiv.org/abs/2309.05300. The network is timm's ResNet.
Thin adapter with the published parameter names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor

from swath.core import EncoderSpec, Features, Input, UnknownName, UserError, Where
from swath.models.encoder import EncoderModule, per_timestep
from swath.models.inputs import View, single
from swath.models.loading import Layout

Source = Literal["bare", "moco", "dino", "decur"]
SENTINEL2 = Input(
    "sentinel2-l1c",
    ("coastal", "blue", "green", "red", "rededge071", "rededge075", "rededge078", "nir", "nir08", "nir09", "cirrus",
     "swir16", "swir22"),
    "reflectance",
    clip=(0.0, 1.0),
)  # fmt: skip
SENTINEL1 = Input("sentinel1-grd", ("vv", "vh"), "db", (-12.59, -20.26), (5.26, 5.91))
INSIDE: Mapping[str, tuple[str, ...]] = {"moco": ("state_dict",), "dino": ("teacher",), "decur": ("model",)}


@dataclass(frozen=True)
class Plan:
    """Blocks and bottleneck widths per stage."""

    input: Input
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    bands: int = 0


SIZES: Mapping[str, Plan] = {
    "tiny": Plan(SENTINEL2, (1, 1, 1, 1), (8, 16, 24, 32)),
    "sentinel2-rn50": Plan(SENTINEL2),
    "sentinel1-rn50": Plan(SENTINEL1),
}


@dataclass(frozen=True)
class SSL4EOResNet:
    """`source` says how the official file nests its keys: `bare`, or MoCo v2, DINO, joint DeCUR checkpoints."""

    kind: ClassVar[str] = "ssl4eo-resnet"
    sizes: ClassVar[Mapping[str, Plan]] = SIZES
    size: str = "sentinel2-rn50"
    source: Source = "bare"

    def build(self) -> ResNetEncoder:
        if self.size not in SIZES:
            raise UnknownName("size of ssl4eo-resnet", self.size, SIZES)
        return ResNetEncoder(SIZES[self.size], f"ssl4eo-resnet/{self.size}")

    def layout(self) -> Layout:
        if self.source == "bare":
            return Layout(drop=("fc.*",))
        branch = "backbone_1" if SIZES[self.size].input.sensor == "sentinel1-grd" else "backbone_2"
        prefix = {"moco": "module.encoder_q.", "dino": "module.backbone.", "decur": f"module.{branch}."}[self.source]
        return Layout(inside=INSIDE[self.source], keep=(prefix,), strip=(prefix,), drop=("fc.*",))


class ResNetEncoder(EncoderModule):
    """Maps at strides 4, 8, 16, 32; pooled is the mean of the last."""

    def __init__(self, plan: Plan, name: str = "ssl4eo-resnet") -> None:
        super().__init__()
        block: Any = Bottleneck
        net: Any = ResNet(block, plan.blocks, num_classes=0, in_chans=plan.bands or len(plan.input.bands),
                          channels=plan.widths)  # fmt: skip
        self.conv1, self.bn1, self.act1, self.maxpool = net.conv1, net.bn1, net.act1, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        sizes = tuple(4 * w for w in plan.widths)
        self.spec = EncoderSpec(
            name=name,
            inputs=(plan.input,),
            widths=sizes,
            strides=(4.0, 8.0, 16.0, 32.0),
            pooled=sizes[-1],
            patch=4,
            depth=sum(plan.blocks),
            licence="CC-BY-4.0",
        )

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """The maps of the four stages."""
        y, out = self.maxpool(self.act1(self.bn1(self.conv1(x)))), list[Tensor]()
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            y = stage(y)
            out.append(y)
        return out

    def _images(self, x: Tensor) -> Features:
        maps = self.pyramid(x)
        return Features(tuple(maps), maps[-1].mean((2, 3)), self.spec.strides)

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        view = single(views, self.spec.name)
        if min(view.x.shape[3:]) < 32:
            raise UserError(f"{self.spec.name} needs at least 32 x 32 pixels", where=f"encoder {self.spec.name}")
        return per_timestep(view, lambda x, rows: self._images(x))


MEMBER = SSL4EOResNet
