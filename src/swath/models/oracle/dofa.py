"""Fixtures of DOFA version 1: the encoder with its head, and the masked autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from swath.models.encoders.dofa import Dofa, DofaConfig, DofaShape
from swath.models.oracle import Meta, Oracle, Tensors, count_blocks, only, says


def _build(meta: Meta, weights: Tensors) -> nn.Module:
    c = meta["config"]
    mae = "decoder_embed.weight" in weights
    dim = weights["cls_token"].shape[-1]
    patch = int(c["patch_size"])
    shape = DofaShape(
        image=round((weights["pos_embed"].shape[1] - 1) ** 0.5) * patch,
        patch=patch,
        dim=dim,
        depth=count_blocks(weights, "blocks."),
        heads=int(c["num_heads"]),
        waves=weights["patch_embed.weight_generator.weight_tokens"].shape[1],
        classes=len(weights["head.bias"]) if "head.bias" in weights else 0,
    )
    if mae:
        shape = replace(
            shape,
            decoder_dim=len(weights["decoder_embed.bias"]),
            decoder_depth=count_blocks(weights, "decoder_blocks."),
            decoder_heads=int(c["decoder_num_heads"]),
        )
    return DofaConfig(shape=shape, decoder=mae).build()


def _run(module: nn.Module, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    model = cast(Dofa, module)
    return _mae(model, meta, inputs) if hasattr(model, "decoder_pred") else _encoder(model, meta, inputs)


def _encoder(model: Dofa, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for label, um in cast(Mapping[str, list[float]], meta["wavelengths_um"]).items():
        tag = label.split(" ")[0]
        name = next(n for n in sorted(inputs, key=len, reverse=True) if tag.startswith(n.removeprefix("x_")))
        x, waves = inputs[name], torch.tensor(um)
        out[f"{tag}.patch_embed"], out[f"{tag}.waves"] = model.patch_embed(x, waves)
        # The fixture also holds what the old kernel order gives; ours under that name has to differ from it.
        out[f"WRONG_legacy_view.{tag}.patch_embed"] = out[f"{tag}.patch_embed"]
        every = model.tokens(x, waves)
        for i, tokens in enumerate(every):
            out[f"{tag}.tokens.{i}"] = tokens
        out[f"{tag}.tokens_last"] = every[-1]
        out[f"{tag}.features"] = model.pool(every[-1])
        out[f"{tag}.logits"] = model.head(out[f"{tag}.features"])
    return only(out, meta)


def _mae(model: Dofa, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    um = torch.tensor(meta["wavelengths_um"])
    x = next(v for k, v in inputs.items() if k.startswith("x") and v.shape[1] == len(um))
    out = model.reconstruct(x, um, inputs["noise"], float(meta["config"].get("mask_ratio", 0.75)))
    if "x_rgb" in inputs:
        out["zs_projector"] = model.student(inputs["x_rgb"])
    out["loss_mae"] = model.loss(x, out["pred"], out["mask"])
    out["loss_mae_norm_pix"] = model.loss(x, out["pred"], out["mask"], True)
    return only(out, meta)


def _classes(size: str) -> Tensors:
    return DofaConfig(shape=replace(DofaConfig.sizes[size], classes=45)).build().state_dict()


def _official(size: str) -> Tensors:
    """The released encoder file: the pretraining's norm, mask token and projector; no pooled norm, no head."""
    own = DofaConfig(size=size, decoder=True).build().state_dict()
    return {k: v for k, v in own.items() if not k.startswith("decoder_")}


MEMBER = Oracle(
    matches=lambda meta: says(meta, "dofa"),
    build=_build,
    run=_run,
    full={
        "dofa_base": lambda: _classes("base"),
        "dofa_large": lambda: _classes("large"),
        "dofa_base_mae": lambda: DofaConfig(size="base", decoder=True).build().state_dict(),
        "dofa_base_official_encoder_ckpt": lambda: _official("base"),
        "dofa_large_official_encoder_ckpt": lambda: _official("large"),
    },
)
