"""Fixtures of MultiMAE."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from swath.models.encoders.multimae import TASKS, Multimae, MultimaeConfig, MultimaeShape, class_loss, image_loss
from swath.models.oracle import Meta, Oracle, Tensors, count_blocks, only, says, wanted


def _build(meta: Meta, weights: Tensors) -> nn.Module:
    c = meta["config"]
    kernel, small = weights["input_adapters.rgb.proj.weight"], weights["input_adapters.semseg.proj.weight"]
    patch = kernel.shape[-1]
    out = "output_adapters.rgb."
    shape = MultimaeShape(
        image=weights["input_adapters.rgb.pos_emb"].shape[-1] * patch,
        patch=patch,
        dim=len(kernel),
        depth=count_blocks(weights, "encoder."),
        heads=int(c["heads"]),
        decoder_dim=len(weights[out + "query_norm.bias"]),
        decoder_depth=count_blocks(weights, out + "decoder_transformer."),
        decoder_heads=int(c["dec_heads"]),
        classes=len(weights["input_adapters.semseg.class_emb.weight"]),
        class_dim=small.shape[1],
        class_stride=patch // small.shape[-1],
    )
    return MultimaeConfig(shape=shape, decoder=True).build()


def _run(module: nn.Module, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    model = cast(Multimae, module)
    x = {t: inputs[t] for t in TASKS if t in inputs}
    masks = {t: inputs[f"mask.{t}"] for t in x}
    pred = model.reconstruct(x, masks)
    out = {f"mae.pred.{k}": v for k, v in pred.items()}
    patch = model.shape.patch
    out["loss.rgb_mse_normpix"] = image_loss(pred["rgb"], x["rgb"], masks["rgb"], patch=patch)
    out["loss.rgb_mse"] = image_loss(pred["rgb"], x["rgb"], masks["rgb"])
    out["loss.depth_l1"] = image_loss(pred["depth"], x["depth"], masks["depth"], power=1)
    out["loss.semseg_ce"] = class_loss(pred["semseg"], x["semseg"], masks["semseg"])
    both = {k: torch.cat([v, v.flip(-1)]) for k, v in x.items()}
    for i, tokens in enumerate(model.run(model.tokens(both))):
        out[f"multivit.layer{i}"] = tokens
    out["multivit.rgb_only"] = model.run(model.tokens({"rgb": both["rgb"]}))[-1]
    for name in wanted(meta):
        if re.fullmatch(r"multivit\.rgb_\d+", name):
            out[name] = model.run(model.tokens({"rgb": inputs[name.removeprefix("multivit.")]}))[-1]
    return only(out, meta)


def _full(size: str) -> Callable[[], Tensors]:
    return lambda: MultimaeConfig(size=size, decoder=True).build().state_dict()


MEMBER = Oracle(
    matches=lambda meta: says(meta, "multimae"),
    build=_build,
    run=_run,
    full={"multimae_base": _full("base"), "multimae_large": _full("large")},
)
