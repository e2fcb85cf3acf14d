"""Fixtures of Scale-MAE."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from swath.models.encoders.scalemae import ScaleMae, ScaleMaeConfig
from swath.models.oracle import Meta, Oracle, Tensors, only, says, wanted
from swath.models.oracle.ssl4eo_vit import vit_shape


def _run(module: nn.Module, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    model = cast(ScaleMae, module)
    out: dict[str, Tensor] = {}
    for name in wanted(meta):
        if one := re.fullmatch(r"res([\d.]+)(?:_(\d+)x(\d+))?\.(tokens|logits)", name):
            x = inputs["x"]
            if one[2]:
                x = next(v for v in inputs.values() if tuple(v.shape[-2:]) == (int(one[2]), int(one[3])))
            last = model.norm(model.tokens(x, torch.full((len(x),), float(one[1])))[-1])
            out[name] = last if one[4] == "tokens" else model.head(last[:, 0])
        elif each := re.fullmatch(r".*per_sample_res_([\d._]+)\.(cls|tokens)", name):
            gsd = torch.tensor([float(v) for v in each[1].split("_")])
            last = model.norm(model.tokens(inputs["x"], gsd)[-1])
            out[name] = last[:, 0] if each[2] == "cls" else last
    return only(out, meta)


_TORCHGEO = replace(ScaleMaeConfig.sizes["large"], classes=1000)

MEMBER = Oracle(
    matches=lambda meta: says(meta, "scalemae", "scale-mae"),
    build=lambda meta, weights: ScaleMaeConfig(shape=vit_shape(meta, weights)).build(),
    run=_run,
    full={"scalemae_large_patch16_torchgeo": lambda: ScaleMaeConfig(shape=_TORCHGEO).build().state_dict()},
)
