"""Fixtures of MP-MAE: the encoder in its three stems, and the pretraining forward with all losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from torch import Tensor, nn

from swath.models.encoders.mpmae import (
    SIZES,
    ConvNeXtV2,
    MPMAEPretraining,
    Plan,
    PretrainingPlan,
    official_layout,
)
from swath.models.loading import Layout
from swath.models.oracle import Meta, Oracle, Tensors, says


def _pretraining(meta: Meta) -> bool:
    return says(meta, "fcmae")


def _build(meta: Meta, weights: Tensors) -> nn.Module:
    config = meta["config"]
    depths, dims = tuple(config["depths"]), tuple(config["dims"])
    if _pretraining(meta):
        head = weights.get("encoder.head.bias")
        encoder = Plan(depths, dims, int(config["patch_size"]), "encoder.initial_conv.0.weight" in weights,
                       int(config["modalities"]["sentinel2"]), 0 if head is None else len(head))  # fmt: skip
        return MPMAEPretraining(
            PretrainingPlan(
                encoder,
                {k: int(v) for k, v in config["modalities"].items()},
                int(config["decoder_embed_dim"]),
                int(config["decoder_depth"]),
                norm_pixels=bool(config["norm_pix_loss"]),
                mask_ratio=float(config["mask_ratio"]),
            )
        )
    variants = sorted({k.split(".")[0] for k in weights})
    patch = {v: int(v.split("_")[0].removeprefix("p")) for v in variants}
    custom = {v: f"{v}.encoder.initial_conv.0.kernel" in weights for v in variants}
    plan = Plan(depths, dims, bands=int(config["in_chans"]), classes=int(config["num_classes"]))
    return nn.ModuleDict({v: ConvNeXtV2(replace(plan, patch=patch[v], custom_stem=custom[v])) for v in variants})


def _run(module: nn.Module, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    if isinstance(module, MPMAEPretraining):
        return module({k: v for k, v in inputs.items() if k != "mask_noise"}, inputs["mask_noise"])
    out: dict[str, Tensor] = {}
    for name, part in cast(nn.ModuleDict, module).items():
        model = cast(ConvNeXtV2, part)
        stem = model.embed(inputs[f"{name}.x"])
        maps = model.pyramid(stem)
        features = model.vector(maps[-1])
        out |= {f"{name}.stem": stem, f"{name}.features": features, f"{name}.logits": model.head(features)}
        out |= {f"{name}.stage{i}": m for i, m in enumerate(maps)}
    return out


def _layout(meta: Meta) -> Layout:
    return Layout() if _pretraining(meta) else replace(official_layout(), absent=(), drop=())


def _full(size: str) -> Mapping[str, Tensor]:
    return ConvNeXtV2(replace(SIZES[size], classes=10)).state_dict()


MEMBER = Oracle(
    matches=lambda meta: says(meta, "mmearth"),
    build=_build,
    run=_run,
    layout=_layout,
    full={f"convnextv2_{s}_p{p}_dense": (lambda n=n, p=p: _full(f"{n}-p{p}"))
          for s, n in (("atto", "atto"), ("tiny", "convnext-tiny")) for p in (8, 16)},
)  # fmt: skip
