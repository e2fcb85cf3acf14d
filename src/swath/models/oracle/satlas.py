"""Fixtures of SatlasPretrain: backbone, pyramid and upsampling of one or several images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from swath.models.encoders.satlas import SENTINEL2, SIZES, Plan, SatlasEncoder, official_layout
from swath.models.oracle import Meta, Oracle, Tensors, says


def _build(meta: Meta, weights: Tensors) -> nn.Module:
    config = meta["config"]
    channels = int(config["num_channels"])
    several = bool(config.get("multi", False))
    width = next(v.shape[0] for k, v in weights.items() if k.endswith("layer_blocks.0.0.weight"))
    classes = next((v.shape[0] for k, v in weights.items() if k.endswith(("backbone.head.weight", "fc.weight"))), 1000)
    swin = resnet = None
    if "embed_dim" in config:
        heads, depths = tuple(config["num_heads"]), tuple(config["depths"])
        swin = (int(config["embed_dim"]), depths, heads, int(config["window"][0]))
    else:
        resnet = tuple(_stage(weights, i) for i in range(1, 5))
    return SatlasEncoder(Plan(SENTINEL2, several, swin, resnet or (), channels, width, classes))


def _stage(weights: Tensors, number: int) -> int:
    part = f"layer{number}."
    return 1 + max(int(k.split(part)[1].split(".")[0]) for k in weights if part in k)


def _run(module: nn.Module, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    model = cast(SatlasEncoder, module)
    channels, out = model.plan.bands, dict[str, Tensor]()
    for name, x in inputs.items():
        prefix = "" if name == "x" else f"{name.removeprefix('x_')}size_"
        maps = model.over_time(x.unflatten(1, (-1, channels)))
        levels = model.fpn(maps)
        out |= {f"{prefix}backbone.{i}": m for i, m in enumerate(maps)}
        out |= {f"{prefix}fpn.{i}": m for i, m in enumerate(levels)}
        if not prefix:
            out["upsample.0"] = model.upsample(levels[0])
    if model.plan.several:
        first = model.pyramid(inputs["x"][:, :channels])
        out |= {f"single_image0.backbone.{i}": m for i, m in enumerate(first)}
    return out


def _full(size: str) -> Mapping[str, Tensor]:
    return SatlasEncoder(SIZES[size]).state_dict()


_FULL = {
    "swinb_ms9_fpn_si": "sentinel2-swinb-si-ms",
    "swinb_ms9_fpn_mi": "sentinel2-swinb-mi-ms",
    "swinb_rgb3_fpn_si": "sentinel2-swinb-si-rgb",
    "swinb_landsat11_fpn_si": "landsat-swinb-si",
    "swinb_s1_2_fpn_si": "sentinel1-swinb-si",
    "swint_ms9_fpn_si": "sentinel2-swint-si-ms",
    "resnet50_ms9_fpn": "sentinel2-resnet50-si-ms",
}

MEMBER = Oracle(
    matches=lambda meta: says(meta, "satlas"),
    build=_build,
    run=_run,
    layout=lambda meta: official_layout(),
    full={name: (lambda size=size: _full(size)) for name, size in _FULL.items()},
)
