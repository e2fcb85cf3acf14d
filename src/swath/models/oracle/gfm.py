"""Fixtures of GFM: masked pretraining with a teacher, and the plain encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from swath.models.encoders.gfm import SIZES, TEACHER, GFMEncoder, GFMPretraining
from swath.models.layers.swin import SwinPlan
from swath.models.oracle import Meta, Oracle, Tensors, says


def _plan(config: Mapping[str, Any]) -> SwinPlan:
    return SwinPlan(
        width=int(config["embed_dim"]),
        depths=tuple(config["depths"]),
        heads=tuple(config["num_heads"]),
        window=int(config["window_size"]),
        image=int(config["img_size"]),
        patch=int(config["patch_size"]),
        bands=int(config["in_chans"]),
        ratio=float(config["mlp_ratio"]),
    )


def _build(meta: Meta, weights: Tensors) -> nn.Module:
    config = meta["config"]
    return GFMPretraining(
        _plan(config), _plan(config["teacher"]), int(config["encoder_stride"]), float(config["alpha"])
    )


def _run(module: nn.Module, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    model, x = cast(GFMPretraining, module), inputs["x"]
    found = model.losses(x, inputs["mask"])
    out = {k if k.startswith("loss") else f"simmim.{k}": v for k, v in found.items()}
    out["teacher.zt"] = model.taught(x)
    out["swin.patch_embed"] = model.encoder.patch_embed(x).flatten(1, 2)
    stages = model.encoder.stages(x)[0]
    out |= {f"swin.stage{i}": m.flatten(1, 2) for i, m in enumerate(stages)}
    last = model.encoder.norm(stages[-1]).flatten(1, 2)
    return out | {"swin.norm": last, "swin.features_pooled": last.mean(1)}


def _pretraining() -> Mapping[str, Tensor]:
    return GFMPretraining(SIZES["base"], TEACHER).state_dict()


def _encoder(size: str) -> Mapping[str, Tensor]:
    return GFMEncoder(SIZES[size]).state_dict()


MEMBER = Oracle(
    matches=lambda meta: says(meta, "GFM"),
    build=_build,
    run=_run,
    full={
        "gfm_pretrain_swinb_192w6_with_teacher": _pretraining,
        "gfm_encoder_swinb_192w6": lambda: _encoder("base"),
        "gfm_encoder_swinb_256w8": lambda: _encoder("base-256"),
    },
)
