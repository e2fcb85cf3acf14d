"""Fixtures of the DINOv3 ViT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from swath.models.encoders.dinov3 import SIZES, DinoV3Encoder, Plan
from swath.models.oracle import Meta, Oracle, Tensors, count_blocks, says, wanted


def _build(meta: Meta, weights: Tensors) -> nn.Module:
    config = meta["config"]
    kernel, storage = weights["patch_embed.proj.weight"], weights["storage_tokens"]
    return DinoV3Encoder(
        Plan(
            dim=kernel.shape[0],
            depth=count_blocks(weights, "blocks."),
            heads=int(config["num_heads"]),
            storage=storage.shape[1],
            patch=kernel.shape[-1],
            bands=kernel.shape[1],
            ratio=float(config["ffn_ratio"]),
            base=float(config["pos_embed_rope_base"]),
            local_norm="local_cls_norm.weight" in weights,
            eps=1e-5 if "bf16" in str(config["norm_layer"]) else 1e-6,
        )
    )


def _run(module: nn.Module, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    model, out = cast(DinoV3Encoder, module), dict[str, Tensor]()
    front = 1 + model.plan.storage
    for name, x in inputs.items():
        size = f"x{x.shape[2]}" if name == "x" else name
        layers = model.tokens(x)
        y = model.norm(layers[-1])
        out |= {f"{size}.cls": y[:, 0], f"{size}.storage": y[:, 1:front], f"{size}.patch": y[:, front:]}
        out[f"{size}.prenorm"] = layers[-1]
        for i, layer in enumerate(layers):
            y = model.norm(layer)
            out |= {f"{size}.layer{i}.cls": y[:, 0], f"{size}.layer{i}.patch": y[:, front:]}
    for name in wanted(meta):
        if found := re.fullmatch(r"rope_(sin|cos)_(\d+)x(\d+)", name):
            sin, cos = model.rope_embed(int(found[2]), int(found[3]))
            out[name] = sin if found[1] == "sin" else cos
    asked = wanted(meta)
    return {k: v for k, v in out.items() if not asked or k in asked}


def _full(size: str) -> Mapping[str, Tensor]:
    return DinoV3Encoder(SIZES[size]).state_dict()


MEMBER = Oracle(
    matches=lambda meta: says(meta, "dinov3") and not says(meta, "convnext"),
    build=_build,
    run=_run,
    full={f"dinov3_{s.replace('-', '_')}": (lambda s=s: _full(s)) for s in SIZES if s != "tiny"},
)
