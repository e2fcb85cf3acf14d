"""Fixtures of Clay: three sensors through the encoder, and the masked autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from swath.models.encoders.clay import Clay, ClayConfig, ClayShape, Told
from swath.models.loading import Layout
from swath.models.oracle import Meta, Oracle, Tensors, count_blocks, only, says


def _build(meta: Meta, weights: Tensors) -> nn.Module:
    c = meta["config"]
    w = {k.removeprefix("model."): v for k, v in weights.items()}
    shape = ClayShape(
        dim=w["encoder.cls_token"].shape[-1],
        depth=count_blocks(w, "encoder.transformer.layers."),
        heads=int(c["heads"]),
        dim_head=int(c["dim_head"]),
        ratio=len(w["encoder.transformer.layers.0.1.net.1.bias"]) / w["encoder.cls_token"].shape[-1],
        patch=int(c["patch_size"]),
        decoder_dim=len(w["decoder.mask_patch"]),
        decoder_depth=count_blocks(w, "decoder.transformer.layers."),
        decoder_heads=int(c["decoder_heads"]),
        decoder_dim_head=int(c["decoder_dim_head"]),
        decoder_ratio=len(w["decoder.transformer.layers.0.1.net.1.bias"]) / len(w["decoder.mask_patch"]),
        teacher=len(w["proj.bias"]),
    )
    return ClayConfig(shape=shape, decoder=True).build()


def _run(module: nn.Module, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    model = cast(Clay, module)
    out: dict[str, Tensor] = {}
    for key in inputs:
        if not key.endswith(".pixels"):
            continue
        tag = key.removesuffix(".pixels")
        x = inputs[key]
        gsd, time = float(inputs[f"{tag}.gsd"]), inputs[f"{tag}.time"]
        told = Told(inputs[f"{tag}.waves"], gsd, time, inputs[f"{tag}.latlon"])
        grid = (x.shape[2] // model.shape.patch, x.shape[3] // model.shape.patch)
        patches = out[f"{tag}.patch_embed"] = model.encoder.embed(x, told.um)
        last = model.encoder.run(patches + told.code(grid, model.shape.dim, x))[-1]
        out[f"{tag}.encoder_nomask"], out[f"{tag}.embedding_cls"] = last, last[:, 0]
        out[f"{tag}.proj"] = model.proj(last[:, 0])
        if f"{tag}.mask_noise" in inputs:
            ratio = float(meta["config"].get("mask_ratio", 0.75))
            mae = model.reconstruct(x, told, inputs[f"{tag}.mask_noise"], ratio)
            out |= {f"mae.{k}": v for k, v in mae.items()}
            out["mae.recon_loss_l1"] = model.loss(x, mae["pixels"], mae["masked_matrix"])
            out["mae.recon_loss_l1_normpix"] = model.loss(x, mae["pixels"], mae["masked_matrix"], True)
    return only(out, meta)


def _full(size: str, prefix: str = "") -> Callable[[], Tensors]:
    return lambda: {prefix + k: v for k, v in ClayConfig(size=size, decoder=True).build().state_dict().items()}


MEMBER = Oracle(
    matches=lambda meta: says(meta, "clay"),
    build=_build,
    run=_run,
    layout=lambda meta: Layout(strip=("model.",), drop=("teacher.*",)),
    full={
        **{f"clay_mae_{s}_noteacher": _full(s) for s in ("tiny", "small", "base", "large")},
        **{f"clay_mae_{s}_official_prefix": _full(s, "model.") for s in ("base", "large")},
    },
)
