"""SatlasPretrain: Swin-v2 or ResNet and a feature pyramid, for one image or the maximum over several.

https://arxiv.org/abs/2211.15660. The backbones are torchvision's; several images are encoded alone and their maps
merged by the maximum over time. Thin adapter with the published module names.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2
from torchvision.ops import FeaturePyramidNetwork

from swath.core import EncoderSpec, Features, Input, UnknownName, UserError, Where
from swath.models.encoder import EncoderModule, per_timestep
from swath.models.inputs import View, single
from swath.models.loading import Layout

# The true-colour product maps reflectance 0..0.3558 to 0..255; the other bands were divided by 8160 of 10000.
_TCI, _REST = 0.3558, 0.816
SENTINEL2 = Input("sentinel2-l1c",
                  ("red", "green", "blue", "rededge071", "rededge075", "rededge078", "nir", "swir16", "swir22"),
                  "reflectance", std=(_TCI,) * 3 + (_REST,) * 6, clip=(0.0, 1.0))  # fmt: skip
TRUE_COLOUR = Input("sentinel2-l1c", ("red", "green", "blue"), "reflectance", std=(_TCI,) * 3, clip=(0.0, 1.0))
# (N - 4000) / 16320 of the stored numbers: reflectance = 2e-5 N - 0.1, thermal radiance = 3.342e-4 N + 0.1.
LANDSAT = Input(
    "landsat8-toa",
    ("coastal", "blue", "green", "red", "nir08", "swir16", "swir22", "pan", "cirrus", "lwir11", "lwir12"),
    "own",
    mean=(-0.02,) * 9 + (1.4368,) * 2,
    std=(0.3264,) * 9 + (5.454144,) * 2,
    clip=(0.0, 1.0),
)
AERIAL = Input("naip", ("red", "green", "blue"), "display", std=(255.0,) * 3, clip=(0.0, 1.0))
SENTINEL1 = Input("sentinel1-grd", ("vh", "vv"), "display", std=(255.0,) * 2, clip=(0.0, 1.0))


@dataclass(frozen=True)
class Plan:
    """`swin`: width, depths, heads, window side; or `resnet`: blocks per stage. `several`: maximum over images."""

    input: Input
    several: bool = False
    swin: tuple[int, tuple[int, ...], tuple[int, ...], int] | None = None
    resnet: tuple[int, ...] = ()
    channels: int = 0
    fpn: int = 128
    classes: int = 1000

    @property
    def bands(self) -> int:
        return self.channels or len(self.input.bands)


_B = (128, (2, 2, 18, 2), (4, 8, 16, 32), 8)
_T = (96, (2, 2, 6, 2), (3, 6, 12, 24), 8)
_RESNETS = {"resnet50": (3, 4, 6, 3), "resnet152": (3, 8, 36, 3)}
_SENTINEL2 = {"ms": SENTINEL2, "rgb": TRUE_COLOUR}
SIZES: Mapping[str, Plan] = {
    "tiny": Plan(SENTINEL2, True, (16, (2, 2, 2, 2), (1, 2, 4, 8), 4), fpn=16, classes=10),
    **{f"sentinel2-{b}-{n}-{k}": Plan(i, n == "mi", s) for b, s in (("swinb", _B), ("swint", _T))
       for n in ("si", "mi") for k, i in _SENTINEL2.items()},
    **{f"sentinel2-{b}-{n}-{k}": Plan(i, False, None, s) for b, s in _RESNETS.items()
       for n in ("si", "mi") for k, i in _SENTINEL2.items()},
    **{f"{s}-swinb-{n}": Plan(i, n == "mi", _B) for s, i in (("landsat", LANDSAT), ("aerial", AERIAL),
       ("sentinel1", SENTINEL1)) for n in ("si", "mi")},
}  # fmt: skip


@dataclass(frozen=True)
class Satlas:
    """`fpn` gives the pyramid's maps (the published heads use them); without it the backbone's own."""

    kind: ClassVar[str] = "satlas"
    sizes: ClassVar[Mapping[str, Plan]] = SIZES
    size: str = "sentinel2-swinb-mi-ms"
    fpn: bool = True

    def build(self) -> SatlasEncoder:
        if self.size not in SIZES:
            raise UnknownName("size of satlas", self.size, SIZES)
        return SatlasEncoder(SIZES[self.size], self.fpn, f"satlas/{self.size}")

    def layout(self) -> Layout:
        return official_layout()


def official_layout() -> Layout:
    """The heads are dropped: each is one of Satlas's own label sets."""
    return Layout(rename=(("intermediates.0.fpn.", "fpn.fpn."), ("intermediates.1.layers.", "upsample.layers.")),
                  drop=("heads.*",))  # fmt: skip


class Inner(nn.Module):
    """A level of the published nesting: `backbone` around the network, or around another level."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone


class InnerResNet(nn.Module):
    """The nesting of the ResNet files."""

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        self.resnet = resnet


class Pyramid(nn.Module):
    """torchvision's feature pyramid under the published name."""

    def __init__(self, widths: list[int], out: int) -> None:
        super().__init__()
        self.fpn = FeaturePyramidNetwork(widths, out)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return list(self.fpn(OrderedDict((str(i), m) for i, m in enumerate(maps))).values())


class Upsample(nn.Module):
    """From stride 4 to the input's own resolution, by two doublings."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True),
                          nn.ConvTranspose2d(width, width, 4, 2, 1), nn.ReLU(inplace=True))
            for _ in range(2)
        ))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def swin(plan: Plan) -> SwinTransformer:
    """torchvision's Swin v2 with the bands of the plan."""
    assert plan.swin is not None
    width, depths, heads, window = plan.swin
    net = SwinTransformer([4, 4], width, list(depths), list(heads), [window, window], stochastic_depth_prob=0.2,
                          num_classes=plan.classes, block=SwinTransformerBlockV2,
                          downsample_layer=PatchMergingV2)  # fmt: skip
    if plan.bands != 3:
        stem = cast(nn.Sequential, net.features[0])
        stem[0] = nn.Conv2d(plan.bands, width, 4, 4)
    return net


class SatlasEncoder(EncoderModule):
    """Backbone, pyramid and the (optional, unpublished in use) upsampling, with the published names."""

    def __init__(self, plan: Plan, fpn: bool = True, name: str = "satlas") -> None:
        super().__init__()
        self.plan, self.with_fpn = plan, fpn
        if plan.swin is not None:
            inner = Inner(swin(plan))
            self.backbone: nn.Module = Inner(inner) if plan.several else inner
            widths = [plan.swin[0] * 2**i for i in range(4)]
        else:
            net = ResNet(Bottleneck, list(plan.resnet), num_classes=plan.classes)
            net.conv1 = nn.Conv2d(plan.bands, 64, 7, 2, 3, bias=False)
            self.backbone = InnerResNet(net)
            widths = [256, 512, 1024, 2048]
        self.fpn = Pyramid(widths, plan.fpn)
        self.upsample = Upsample(plan.fpn)
        self.spec = EncoderSpec(
            name=name,
            inputs=(plan.input,),
            widths=(plan.fpn,) * 4 if fpn else tuple(widths),
            strides=(4.0, 8.0, 16.0, 32.0),
            pooled=widths[-1],
            patch=4,
            depth=sum(plan.swin[1] if plan.swin else plan.resnet),
            native_time=plan.several,
            licence="ODC-BY-1.0",
            notes="true-colour bands are rebuilt from reflectance as reflectance / 0.3558; several images: maximum",
        )

    def net(self) -> SwinTransformer | ResNet:
        """The torchvision network inside the nesting."""
        inner = self.backbone
        while isinstance(inner, Inner):
            inner = inner.backbone
        return inner.resnet if isinstance(inner, InnerResNet) else cast(SwinTransformer, inner)

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """The backbone's maps at strides 4, 8, 16, 32 of single images (N, C, H, W)."""
        net, out = self.net(), list[Tensor]()
        if isinstance(net, ResNet):
            x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
            for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
                x = stage(x)
                out.append(x)
            return out
        for i, stage in enumerate(net.features):
            x = stage(x)
            if i % 2:
                out.append(x.permute(0, 3, 1, 2))
        return out

    def over_time(self, x: Tensor, seen: Tensor | None = None) -> list[Tensor]:
        """Maps of series (B, T, C, H, W): the maximum over the images that are there (`seen`, (B, T))."""
        b, t = x.shape[:2]
        maps = [m.unflatten(0, (b, t)) for m in self.pyramid(x.flatten(0, 1))]
        if seen is None or bool(seen.all()):
            return [m.amax(1) for m in maps]
        use = torch.where(seen.any(1, keepdim=True), seen, torch.ones_like(seen))[:, :, None, None, None]
        return [m.masked_fill(~use, float("-inf")).amax(1) for m in maps]

    def _features(self, maps: list[Tensor]) -> Features:
        pooled = maps[-1].mean((2, 3))
        shown = self.fpn(maps) if self.with_fpn else maps
        return Features(tuple(shown), pooled, self.spec.strides)

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        view = single(views, self.spec.name)
        if min(view.x.shape[3:]) < 32:
            raise UserError(f"{self.spec.name} needs at least 32 x 32 pixels", where=f"encoder {self.spec.name}")
        if self.plan.several:
            return self._features(self.over_time(view.x, view.seen))
        return per_timestep(view, lambda x, rows: self._features(self.pyramid(x)))


MEMBER = Satlas
