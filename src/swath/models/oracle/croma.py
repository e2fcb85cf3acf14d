"""Fixtures of CROMA."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from swath.models.encoders.croma import Croma, CromaConfig, CromaShape
from swath.models.loading import Layout
from swath.models.oracle import Meta, Oracle, Tensors, count_blocks, only, says


def _build(meta: Meta, weights: Tensors) -> nn.Module:
    c = meta["config"]
    shape = CromaShape(
        dim=len(weights["s2_encoder.linear_input.bias"]),
        depth=count_blocks(weights, "s2_encoder.transformer.layers."),
        heads=int(c.get("num_heads", 16)),
        patch=int(c.get("patch_size", 8)),
    )
    return CromaConfig(shape=shape).build()


def _run(module: nn.Module, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    model = cast(Croma, module)
    sar, optical = inputs["sar"], inputs["optical"]
    p = model.shape.patch
    bias = model.bias((sar.shape[2] // p, sar.shape[3] // p), sar)
    one, two = model.s1_encoder.run(sar, bias)[-1], model.s2_encoder.run(optical, bias)[-1]
    joint = model.joint_encoder.run(one, two, bias)[-1]
    out = {
        "sar_encodings": one,
        "sar_GAP": model.s1_GAP_FFN(one.mean(1)),
        "optical_encodings": two,
        "optical_GAP": model.s2_GAP_FFN(two.mean(1)),
        "joint_encodings": joint,
        "joint_GAP": joint.mean(1),
        "attn_bias_alibi": bias,
    }
    return only(out, meta)


def _state(size: str, *, with_bias: bool) -> Tensors:
    state = dict(CromaConfig(size=size).build().state_dict())
    if with_bias:
        state["attn_bias"] = torch.empty(1, 16, 225, 225)
    return state


MEMBER = Oracle(
    matches=lambda meta: says(meta, "croma"),
    build=_build,
    run=_run,
    layout=lambda meta: Layout(drop=("attn_bias",)),
    full={
        "croma_base": lambda: _state("base", with_bias=True),
        "croma_large": lambda: _state("large", with_bias=True),
        "croma_base_official_flattened": lambda: _state("base", with_bias=False),
        "croma_large_official_flattened": lambda: _state("large", with_bias=False),
    },
)
