"""Fixtures of the three SatMAE models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

from torch import Tensor, nn

from swath.models.encoders.satmae import SatmaeConfig
from swath.models.encoders.satmae_group import GroupShape, SatmaeGroup, SatmaeGroupConfig
from swath.models.encoders.satmae_temporal import SatmaeTemporal, SatmaeTemporalConfig
from swath.models.oracle import Meta, Oracle, Tensors, count_blocks, only, says
from swath.models.oracle.ssl4eo_vit import vit_shape
from swath.models.vit import PlainViT


def _build(meta: Meta, weights: Tensors) -> nn.Module:
    c = meta["config"]
    if "patch_embed.0.proj.weight" not in weights:
        shape = vit_shape(meta, weights)
        if weights["pos_embed"].shape[-1] != shape.dim:
            return SatmaeTemporalConfig(shape=shape).build()
        return SatmaeConfig(shape=shape).build()
    kernel, decoder = weights["patch_embed.0.proj.weight"], weights.get("decoder_embed.bias")
    shape = GroupShape(
        image=round((weights["pos_embed"].shape[1] - 1) ** 0.5) * kernel.shape[-1],
        patch=kernel.shape[-1],
        groups=tuple(tuple(int(i) for i in g) for g in c["channel_groups"]),
        channel_dim=weights["channel_embed"].shape[-1],
        dim=len(kernel),
        depth=count_blocks(weights, "blocks."),
        heads=int(c["num_heads"]),
        classes=len(weights["head.bias"]) if "head.bias" in weights else 0,
    )
    if decoder is not None:
        shape = replace(
            shape,
            decoder_dim=len(decoder),
            decoder_channel_dim=weights["decoder_channel_embed"].shape[-1],
            decoder_depth=count_blocks(weights, "decoder_blocks."),
            decoder_heads=int(c["decoder_num_heads"]),
        )
    return SatmaeGroupConfig(shape=shape).build()


def _run(module: nn.Module, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    ratio = float(meta["config"].get("mask_ratio", 0.75))
    x = inputs["x"]
    if isinstance(module, SatmaeGroup):
        return only(_group(module, x, inputs, ratio), meta)
    if isinstance(module, SatmaeTemporal):
        stamps = inputs["timestamps"]
        parts = module.reconstruct(x, stamps, inputs["noise"], ratio)
        last = module.norm(_temporal_tokens(module, x, stamps))
    else:
        plain = cast(PlainViT, module)
        parts = plain.reconstruct(x, inputs["noise"], ratio)
        last = plain.norm(plain.tokens(x)[-1])
    model = cast("SatmaeTemporal | PlainViT", module)
    out = {f"mae.{k}": v for k, v in parts.items()}
    out["mae.loss"] = model.loss(x, parts["pred"], parts["mask"])
    out["mae.loss_norm_pix"] = model.loss(x, parts["pred"], parts["mask"], True)
    out["vit_cls.features"] = last[:, 0]
    return only(out, meta)


def _temporal_tokens(model: SatmaeTemporal, x: Tensor, stamps: Tensor) -> Tensor:
    from swath.models.layers.vit import run_all, with_class

    return run_all(model.blocks, with_class(model.cls_token, model.embed(x, stamps)))


def _group(model: SatmaeGroup, x: Tensor, inputs: Tensors, ratio: float) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for kind in ("indep", "spatial"):
        if f"noise_{kind}" not in inputs:
            continue
        parts = model.reconstruct(x, inputs[f"noise_{kind}"], ratio, kind)
        out |= {f"mae_{kind}.{k}": v for k, v in parts.items()}
        out[f"mae_{kind}.loss"] = model.loss(x, parts["pred"], parts["mask"])
        out[f"mae_{kind}.loss_norm_pix"] = model.loss(x, parts["pred"], parts["mask"], True)
    last = model.tokens(x)[-1]
    out["vit_cls.features"] = model.norm(last)[:, 0]
    # The pooled class normalises the mean of the patch tokens; its norm holds the values of the other one.
    out["vit_gap.features_fcnorm_from_norm"] = model.norm(last[:, 1:].mean(1))
    return out


def _group_state(size: str, classes: int, decoder: int) -> Callable[[], Tensors]:
    shape = replace(SatmaeGroupConfig.sizes[size], classes=classes, decoder_dim=decoder)
    return lambda: _pooled_name(SatmaeGroupConfig(shape=shape).build().state_dict(), classes)


def _temporal_state(classes: int, decoder: int) -> Callable[[], Tensors]:
    shape = replace(SatmaeTemporalConfig.sizes["large"], classes=classes, decoder_dim=decoder)
    return lambda: _pooled_name(SatmaeTemporalConfig(shape=shape).build().state_dict(), classes)


def _pooled_name(state: Tensors, classes: int) -> Tensors:
    """The fine-tuned classes pool first and call their one norm `fc_norm`."""
    return {f"fc_{k}" if classes and k.startswith("norm.") else k: v for k, v in state.items()}


MEMBER = Oracle(
    matches=lambda meta: says(meta, "satmae") and not says(meta, "ssl4eo"),
    build=_build,
    run=_run,
    full={
        "mae_vit_large_224_p16": lambda: SatmaeConfig(decoder=True).build().state_dict(),
        "mae_vit_base_group_img96_p8": _group_state("base", 0, 512),
        "mae_vit_large_group_img96_p8": _group_state("large", 0, 512),
        "vit_base_group_img96_p8_62cls": _group_state("base", 62, 0),
        "vit_large_group_img96_p8_62cls": _group_state("large", 62, 0),
        "mae_vit_large_temporal_224_p16": _temporal_state(0, 512),
        "vit_large_temporal_224_p16_62cls": _temporal_state(62, 0),
    },
)
