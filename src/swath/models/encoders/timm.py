"""Any timm network (ResNet, ConvNeXt, Swin, ViT, ...) as an encoder: the ImageNet baselines. Thin adapter.

https://github.com/huggingface/pytorch-image-models. Nothing is fetched: random weights, or a file with timm's keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from swath.core import Batch, EncoderSpec, Features, Input, UnknownName, UserError, Where
from swath.models.encoder import EncoderModule, per_timestep, taps
from swath.models.encoders._timm_vit import PLAIN, TimmViT
from swath.models.inputs import View, by_own_statistics, single, standard_input
from swath.models.loading import Layout

IMAGENET = Input("rgb-aerial", ("red", "green", "blue"), "display", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
SIZES: Mapping[str, str] = {
    "tiny": "test_resnet",
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "convnext-tiny": "convnext_tiny",
    "convnext-base": "convnext_base",
    "swin-tiny": "swin_tiny_patch4_window7_224",
    "swin-base": "swin_base_patch4_window7_224",
    "vit-small": "vit_small_patch16_224",
    "vit-base": "vit_base_patch16_224",
    "vit-large": "vit_large_patch16_224",
}


@dataclass(frozen=True)
class Timm:
    """`model` is any timm name (it wins over `size`); `sensor` and `bands` give the input another product.

    Display colours are standardised with ImageNet's statistics; another sensor with the run's, else with its own.
    """

    kind: ClassVar[str] = "timm"
    sizes: ClassVar[Mapping[str, str]] = SIZES
    size: str = "resnet50"
    model: str = ""
    sensor: str = "rgb-aerial"
    bands: tuple[str, ...] = ()

    def build(self) -> TimmEncoder:
        if self.size not in SIZES:
            raise UnknownName("size of timm", self.size, SIZES)
        plain = self.sensor == IMAGENET.sensor and self.bands in ((), IMAGENET.bands)
        want = IMAGENET if plain else standard_input(self.sensor, self.bands)
        return TimmEncoder(self.model or SIZES[self.size], want, f"timm/{self.model or self.size}")

    def layout(self) -> Layout:
        drop = ("fc.*", "head.fc.*", "head.weight", "head.bias", "classifier.*")
        return Layout(inside=("state_dict", "model"), drop=drop, under="net.")


def create(model: str, channels: int) -> Any:
    """A timm network without classifier; position tables and windows follow the image where timm lets them."""
    if model in PLAIN:
        return TimmViT(PLAIN[model], channels)
    import timm

    if model not in timm.list_models():
        raise UnknownName("timm model", model, timm.list_models(), where="encoder timm")
    free: Any = {"dynamic_img_size": True} if _is_vit(model) else {"strict_img_size": False} if "swin" in model else {}
    return timm.create_model(model, pretrained=False, num_classes=0, in_chans=channels, **free)


def _is_vit(model: str) -> bool:
    return model.startswith(("vit_", "deit", "beit", "eva", "test_vit"))


class TimmEncoder(EncoderModule):
    """Up to four levels: the last stages of a pyramid, or four depths of a plain transformer.

    A plain transformer's maps are what its blocks give, as timm's own features are: the last norm belongs to its tokens
    and its vector. Through it maps all come out at one size, and a decoder that starts with it learns more slowly.
    """

    def __init__(self, model: str, want: Input, name: str) -> None:
        super().__init__()
        self.net: Any = create(model, len(want.bands))
        info = list(self.net.feature_info)
        strides = [int(i["reduction"]) for i in info]
        plain = len(set(strides)) == 1
        last = min(4, len(info))
        chosen = taps(len(info)) if plain else tuple(range(len(info) - last, len(info)))
        self.indices: list[int] | int = list(chosen) if plain else last
        self.prefix = int(getattr(self.net, "num_prefix_tokens", 0)) if plain else 0
        self.tokens = plain
        self.spec = EncoderSpec(
            name=name,
            inputs=(want,),
            widths=tuple(int(info[i]["num_chs"]) for i in chosen),
            strides=tuple(float(strides[i]) for i in chosen),
            pooled=int(getattr(self.net, "head_hidden_size", self.net.num_features)),
            patch=strides[0] if plain else 1,
            depth=len(info),
            licence="per checkpoint",
            notes=f"timm {model}",
        )

    def _images(self, x: Tensor) -> Features:
        final, maps = self.net.forward_intermediates(x, indices=self.indices, norm=False)
        pooled = self.net.forward_head(final, pre_logits=True)
        tokens = final[:, self.prefix :] if self.tokens else None
        return Features(tuple(maps), pooled, self.spec.strides, tokens)

    def wanted(self, batch: Batch) -> EncoderSpec:
        return by_own_statistics(self.spec, batch)

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        view = single(views, self.spec.name)
        coarsest, (h, w) = int(max(self.spec.strides)), view.x.shape[3:5]
        if h % coarsest or w % coarsest:
            raise UserError(
                f"{self.spec.name} needs sides that are multiples of {coarsest} pixels; the layer is {h} x {w}",
                where=f"encoder {self.spec.name}",
                remedy="crop or pad the chips, or choose swath-vit, which takes any size",
            )
        return per_timestep(view, lambda x, rows: self._images(x))


MEMBER = Timm
