"""Fixtures of Copernicus-FM."""

from __future__ import annotations

import re
from typing import cast

import torch
from torch import Tensor, nn

from swath.models.encoders.copernicus_fm import CopernicusConfig, CopernicusFM, CopernicusShape
from swath.models.oracle import Meta, Oracle, Tensors, count_blocks, only, says, wanted

ABSENT = -9999.0


def _build(meta: Meta, weights: Tensors) -> nn.Module:
    c = meta["config"]
    patch, dim = int(c["patch_size"]), weights["cls_token"].shape[-1]
    shape = CopernicusShape(
        image=round((weights["pos_embed"].shape[1] - 1) ** 0.5) * patch,
        patch=patch,
        dim=dim,
        depth=count_blocks(weights, "blocks."),
        heads=int(c["num_heads"]),
        hyper=len(weights["patch_embed_spectral.fclayer.w1.bias"]),
        classes=len(weights["head.bias"]) if "head.bias" in weights else 0,
    )
    return CopernicusConfig(shape=shape).build()


def _run(module: nn.Module, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    model = cast(CopernicusFM, module)
    spectral, variable = model.patch_embed_spectral, model.patch_embed_variable
    nm = torch.tensor(meta["wavelengths_nm"], dtype=torch.float32)
    width = torch.tensor(meta["bandwidths_nm"], dtype=torch.float32)
    tables = {"": "metadata", "nan": "metadata_nan", "partial": "metadata_partial"}

    def pooled(name: str) -> Tensor:
        kind = name.split("_", maxsplit=1)[0]
        resized = re.search(r"_k(\d+)", name)
        patch = int(resized[1]) if resized else model.shape.patch
        x = inputs[f"x_{kind}"]
        if kind == "spectral":
            tokens = spectral(x, spectral.spectral(nm, width), patch)
        else:
            tokens = variable(x, variable.variable(inputs["language_embed"]), patch)
        known = inputs[next((v for k, v in tables.items() if k and k in name), tables[""])]
        known = torch.where(known == ABSENT, torch.full_like(known, float("nan")), known)
        side = round(tokens.shape[1] ** 0.5)
        every = model.tokens(tokens, model.meta(known, whole=True), (side, side))
        return model.pool(every[-1])

    out: dict[str, Tensor] = {}
    for name in wanted(meta):
        case, kind = name.rsplit(".", 1)
        if kind.startswith("patch_embed"):
            size = int(kind.rsplit("_k", 1)[1])
            out[name] = spectral(inputs["x_spectral"], spectral.spectral(nm, width), size)
        elif kind == "features":
            out[name] = pooled(case)
        elif kind == "logits":
            out[name] = model.head(pooled(case))
    return only(out, meta)


MEMBER = Oracle(
    matches=lambda meta: says(meta, "copernicusfm", "copernicus-fm"),
    build=_build,
    run=_run,
    full={"copernicusfm_base": lambda: CopernicusConfig().build().state_dict()},
)
