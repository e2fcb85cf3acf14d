"""Fixtures of Presto, among them the published weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from swath.models.encoders.presto import CLASSES, Presto, PrestoConfig, PrestoShape, months_of
from swath.models.oracle import Meta, Oracle, Tensors, count_blocks, only, says


def _build(meta: Meta, weights: Tensors) -> nn.Module:
    c = meta["config"]
    shape = PrestoShape(
        dim=len(weights["encoder.norm.bias"]),
        depth=count_blocks(weights, "encoder.blocks."),
        heads=int(c["encoder_num_heads"]),
        ratio=float(c.get("mlp_ratio", 4)),
        channel_share=float(c["channel_embed_ratio"]),
        month_share=float(c["month_embed_ratio"]),
        steps=weights["encoder.pos_embed"].shape[1],
        decoder_dim=len(weights["decoder.mask_token"]),
        decoder_depth=count_blocks(weights, "decoder.decoder_blocks."),
        decoder_heads=int(c["decoder_num_heads"]),
    )
    return PrestoConfig(shape=shape, decoder=True).build()


def _first(meta: Meta, case: str) -> int | Tensor:
    """The first month: a number, or one per sample."""
    said = cast(Mapping[str, Any], meta.get("months", {})).get(case, 0)
    numbers = [int(n) for n in re.findall(r"\d+", str(said))]
    return torch.tensor(numbers) if "[" in str(said) else numbers[0]


def _run(module: nn.Module, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    model = cast(Presto, module)
    x, latlon, cover = inputs["x"], inputs["latlons"], inputs["dynamic_world"]
    b, t = x.shape[:2]
    absent = inputs.get("dynamic_world_missing", torch.full_like(cover, CLASSES))
    cases = {
        "full": (cover, torch.zeros_like(x)),
        "masked": (absent, inputs["mask"]),
    }
    out: dict[str, Tensor] = {}
    for name, (classes, mask) in cases.items():
        months = months_of(_first(meta, name), b, t)
        parts = model.reconstruct(x, classes, mask, months, latlon)
        out |= {f"{name}.{k}": v for k, v in parts.items()}
    months = months_of(_first(meta, "t1"), b, 1)
    one = model.reconstruct(x[:, :1], cover[:, :1], torch.zeros_like(x[:, :1]), months, latlon)
    out["t1.pooled"] = one["pooled"]
    return only(out, meta)


MEMBER = Oracle(
    matches=lambda meta: says(meta, "presto"),
    build=_build,
    run=_run,
    full={"presto_default": lambda: PrestoConfig(decoder=True).build().state_dict()},
)
