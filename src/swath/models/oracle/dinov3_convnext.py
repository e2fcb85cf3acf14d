"""Fixtures of the DINOv3 ConvNeXt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from swath.models.encoders.dinov3_convnext import SIZES, ConvNeXtEncoder, Plan
from swath.models.oracle import Meta, Oracle, Tensors, says


def _build(meta: Meta, weights: Tensors) -> nn.Module:
    config = meta["config"]
    bands = weights["downsample_layers.0.0.weight"].shape[1]
    return ConvNeXtEncoder(Plan(tuple(config["depths"]), tuple(config["dims"]), bands))


def _run(module: nn.Module, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    model = cast(ConvNeXtEncoder, module)
    maps = model.pyramid(inputs["x"])
    vector, cells = model.vectors(maps[-1])
    prenorm = maps[-1].flatten(2).transpose(1, 2)
    out = {f"stage{i}": m for i, m in enumerate(maps)}
    out |= {f"stage{i}_norm": m for i, m in enumerate(model.normed(maps))}
    return out | {
        "feat.x_norm_clstoken": vector,
        "feat.x_norm_patchtokens": cells,
        "feat.x_storage_tokens": cells[:, :0],
        "feat.x_prenorm": prenorm,
    }


def _full(size: str) -> Mapping[str, Tensor]:
    return ConvNeXtEncoder(SIZES[size]).state_dict()


MEMBER = Oracle(
    matches=lambda meta: says(meta, "dinov3") and says(meta, "convnext"),
    build=_build,
    run=_run,
    full={f"dinov3_convnext_{s}": (lambda s=s: _full(s)) for s in SIZES},
)
