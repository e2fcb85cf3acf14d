"""Tiny encoders of the three kinds of trunk, tiny data: enough to learn something in seconds."""

from dataclasses import dataclass, field

import torch
from timm.models.resnet import BasicBlock, ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from swath.core.batch import Batch, Boxes, Label, Layer, Where
from swath.core.contracts import EncoderSpec, Features, Input, LabelSpec
from swath.core.rng import generator
from swath.core.sensors import SENSORS

SENSOR = SENSORS.get("sentinel2-l2a").select(["blue", "green", "red", "nir"])


def normal(batch):
    layer = batch.layers[SENSOR.id]
    x = torch.where(layer.valid, (layer.x - 0.15) / 0.15, 0.0)
    return x[:, 0]


class TinyViT(nn.Module):
    def __init__(self, size=32):
        super().__init__()
        self.trunk = VisionTransformer(
            img_size=size, patch_size=8, in_chans=4, embed_dim=32, depth=4, num_heads=4, num_classes=0
        )
        self.spec = EncoderSpec("tiny-vit", (Input(SENSOR.id, SENSOR.names, "reflectance"),), (32, 32), (8.0, 8.0), 32)

    def forward(self, batch, levels=None):
        last, maps = self.trunk.forward_intermediates(normal(batch), indices=[1, 3], norm=False)
        return pick(Features(tuple(maps), last.mean(1), (8.0, 8.0)), levels)


class TinySwin(nn.Module):
    def __init__(self, size=32):
        super().__init__()
        self.trunk = SwinTransformer(
            img_size=size, patch_size=4, in_chans=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4,
            num_classes=0,
        )  # fmt: skip
        self.spec = EncoderSpec("tiny-swin", (Input(SENSOR.id, SENSOR.names, "reflectance"),), (16, 32), (4.0, 8.0), 32)

    def forward(self, batch, levels=None):
        maps = self.trunk.forward_intermediates(normal(batch), indices=[0, 1], intermediates_only=True)
        return pick(Features(tuple(maps), maps[-1].mean((2, 3)), (4.0, 8.0)), levels)


class TinyResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = ResNet(BasicBlock, (2, 2, 1, 1), in_chans=4, num_classes=0, channels=(16, 24, 32, 48))
        self.spec = EncoderSpec(
            "tiny-resnet",
            (Input(SENSOR.id, SENSOR.names, "reflectance"),),
            (16, 24, 32, 48),
            (4.0, 8.0, 16.0, 32.0),
            48,
        )

    def forward(self, batch, levels=None):
        x = self.trunk.maxpool(self.trunk.act1(self.trunk.bn1(self.trunk.conv1(normal(batch)))))
        maps = []
        for stage in (self.trunk.layer1, self.trunk.layer2, self.trunk.layer3, self.trunk.layer4):
            x = stage(x)
            maps.append(x)
        return pick(Features(tuple(maps), x.mean((2, 3)), self.spec.strides), levels)


def pick(features, levels):
    if levels is None:
        return features
    return Features(
        tuple(features.maps[i] for i in levels), features.pooled, tuple(features.strides[i] for i in levels)
    )


TRUNKS = {"vit": TinyViT, "swin": TinySwin, "resnet": TinyResNet}


def build(trunk, seed=0):
    torch.manual_seed(seed)
    return TRUNKS[trunk]()


LABELS = {
    "class": LabelSpec("what", "class", ("a", "b", "c")),
    "mask": LabelSpec("what", "mask", ("a", "b", "c"), ("#000000", "#ff0000", "#00ff00")),
    "tags": LabelSpec("what", "tags", ("a", "b", "c")),
    "map": LabelSpec("what", "map", unit="m", low=0.0),
    "scalar": LabelSpec("what", "scalar", unit="t/ha"),
    "image": LabelSpec("what", "image", unit="reflectance"),
}


@dataclass
class TinySource:
    """Fields of three spectra; the label of any kind follows from them."""

    kind: str = "mask"
    n: int = 24
    size: int = 32
    dates: int = 1
    name: str = "tiny"
    sensors: tuple = (SENSOR,)
    licence: str = "CC0-1.0"
    fingerprint: str = "tiny"
    labels: dict = field(default_factory=dict)

    def __post_init__(self):
        self.labels = {"what": LABELS[self.kind]}

    def __len__(self):
        return self.n

    def splits(self):
        a, b = int(self.n * 0.5), int(self.n * 0.75)
        return {"train": list(range(a)), "val": list(range(a, b)), "test": list(range(b, self.n))}

    def sample(self, index, bands=None):
        g = generator(7, index, "tiny")
        s, t = self.size, self.dates
        spectra = torch.tensor([[0.05, 0.08, 0.06, 0.4], [0.12, 0.15, 0.2, 0.25], [0.06, 0.06, 0.04, 0.02]])
        field = torch.randint(0, 3, (4, 4), generator=g)
        if self.kind in ("class", "scalar"):
            main = index % 3
            field = torch.where(torch.rand(4, 4, generator=g) < 0.7, main, field)
        mask = field.repeat_interleave(s // 4, 0).repeat_interleave(s // 4, 1)
        x = spectra[mask].permute(2, 0, 1) + 0.02 * torch.randn(t, 4, s, s, generator=g)
        layer = Layer.of(SENSOR, x[None], times=torch.arange(t)[None] * 30 + 19000)
        return Batch({SENSOR.id: layer}, self.where(index), {"what": self.label(mask, field, index, spectra)})

    def where(self, index):
        return Where(torch.tensor([index]), torch.tensor([[10.0, 50.0]], dtype=torch.float64), names=(f"tiny-{index}",))

    def label(self, mask, field, index, spectra):
        share = torch.stack([(field == k).float().mean() for k in range(3)])
        one = torch.ones(1, dtype=torch.bool)
        match self.kind:
            case "mask":
                return Label("mask", mask[None], torch.ones(1, *mask.shape, dtype=torch.bool))
            case "class":
                return Label("class", torch.tensor([index % 3]), one)
            case "tags":
                return Label("tags", (share > 0.3).float()[None], torch.ones(1, 3, dtype=torch.bool))
            case "map":
                height = torch.tensor([20.0, 2.0, 0.0])[mask][None, None]
                return Label("map", height, torch.ones(1, 1, *mask.shape, dtype=torch.bool))
            case "image":
                image = spectra[mask].permute(2, 0, 1)[None]
                return Label("image", image, torch.ones(1, 1, *mask.shape, dtype=torch.bool))
            case _:
                return Label("scalar", 10 * share[:1], one)


@dataclass
class ObjectSource(TinySource):
    """Bright rectangles on dark ground: boxes with masks."""

    kind: str = "class"

    def __post_init__(self):
        self.labels = {"what": LabelSpec("what", "boxes", ("house",))}

    def sample(self, index, bands=None):
        g = generator(9, index, "objects")
        s = self.size
        x = torch.tensor([0.06, 0.07, 0.06, 0.3]).view(1, 4, 1, 1).expand(1, 4, s, s).clone()
        boxes, masks = [], []
        for _ in range(1 + index % 3):
            for _ in range(20):
                h, w = (int(v) for v in torch.randint(6, 14, (2,), generator=g))
                r, c = int(torch.randint(0, s - h, (1,), generator=g)), int(torch.randint(0, s - w, (1,), generator=g))
                m = torch.zeros(s, s, dtype=torch.bool)
                m[r : r + h, c : c + w] = True
                grown = torch.nn.functional.max_pool2d(m[None].float(), 5, 1, 2)[0] > 0
                if not any(bool((grown & o).any()) for o in masks):
                    x[0, :, m] = torch.tensor([0.3, 0.3, 0.35, 0.32])[:, None]
                    boxes.append([c, r, c + w, r + h])
                    masks.append(m)
                    break
        x = x + 0.01 * torch.randn(x.shape, generator=g)
        objects = Boxes(torch.tensor(boxes).float(), torch.zeros(len(boxes), dtype=torch.int64), torch.stack(masks))
        size = torch.tensor([[s, s]])
        label = Label("boxes", size, torch.ones(1, 2, dtype=torch.bool), (objects,))
        return Batch({SENSOR.id: Layer.of(SENSOR, x[None])}, self.where(index), {"what": label})


@dataclass
class ChangeSource(TinySource):
    """Two dates; what turned from plants to soil is the change."""

    kind: str = "mask"
    dates: int = 2

    def __post_init__(self):
        self.labels = {"what": LabelSpec("what", "mask", ("same", "changed"))}

    def sample(self, index, bands=None):
        g = generator(8, index, "change")
        first = super().sample(index)
        mask = first.labels["what"].value
        x = first.layers[SENSOR.id].x.clone()
        cells = (
            (torch.rand(4, 4, generator=g) < 0.3)
            .repeat_interleave(self.size // 4, 0)
            .repeat_interleave(self.size // 4, 1)
        )
        changed = (mask == 0) & cells[None]
        x[:, 1] = torch.where(changed[:, None], torch.tensor([0.12, 0.15, 0.2, 0.25]).view(1, 4, 1, 1), x[:, 1])
        layer = Layer.of(SENSOR, x, times=first.layers[SENSOR.id].times)
        label = Label("mask", changed.long(), torch.ones_like(changed))
        return Batch({SENSOR.id: layer}, first.where, {"what": label})


@dataclass
class HoleySource(TinySource):
    """A series with clouds; the label is the image without them."""

    kind: str = "image"
    dates: int = 3

    def sample(self, index, bands=None):
        g = generator(6, index, "holes")
        one = super().sample(index)
        layer = one.layers[SENSOR.id]
        holes = (torch.rand(1, self.dates, 1, 4, 4, generator=g) < 0.5).repeat_interleave(8, 3).repeat_interleave(8, 4)
        return Batch({SENSOR.id: Layer.of(SENSOR, layer.x, ~holes, layer.times)}, one.where, one.labels)


@dataclass
class CoarseSource(TinySource):
    """The input is the label at half its resolution."""

    kind: str = "image"

    def sample(self, index, bands=None):
        one = super().sample(index)
        x = one.layers[SENSOR.id].x
        small = torch.nn.functional.avg_pool2d(x[:, 0], 2)[:, None]
        return Batch({SENSOR.id: Layer.of(SENSOR, small)}, one.where, one.labels)
