"""Fixtures of the SSL4EO-S12 vision transformers."""

from __future__ import annotations

import re
from typing import cast

from torch import Tensor, nn

from swath.models.encoders.ssl4eo_vit import LAYOUT, Ssl4eoViTConfig
from swath.models.loading import normalise_keys
from swath.models.oracle import Meta, Oracle, Tensors, count_blocks, only, says, wanted
from swath.models.vit import PlainViT, ViTShape


def vit_shape(meta: Meta, weights: Tensors) -> ViTShape:
    """A plain ViT's sizes from its state; the number of heads is only in the config."""
    c = meta["config"]
    kernel = weights["patch_embed.proj.weight"]
    patch = kernel.shape[-1]
    decoder = weights.get("decoder_embed.bias")
    dim = kernel.shape[0]
    return ViTShape(
        image=round((weights["pos_embed"].shape[1] - 1) ** 0.5) * patch,
        patch=patch,
        bands=kernel.shape[1],
        dim=dim,
        depth=count_blocks(weights, "blocks."),
        heads=int(c.get("num_heads", c.get("heads", 0))),
        ratio=len(weights["blocks.0.mlp.fc1.bias"]) / dim,
        offset=0.1 if says(meta, "dino") else 0.0,
        classes=len(weights["head.bias"]) if "head.bias" in weights else 0,
        decoder_dim=0 if decoder is None else len(decoder),
        decoder_depth=count_blocks(weights, "decoder_blocks."),
        decoder_heads=int(c.get("decoder_num_heads", 1)),
    )


def _build(meta: Meta, weights: Tensors) -> nn.Module:
    return Ssl4eoViTConfig(shape=vit_shape(meta, normalise_keys(weights, LAYOUT)[0])).build()


def _run(module: nn.Module, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    model = cast(PlainViT, module)
    x = inputs["x"]
    every = model.tokens(x)
    last = model.norm(every[-1])
    out = {"tokens": last, "cls": last[:, 0], "pos_embed": model.pos_embed}
    for i, tokens in enumerate(every):
        out[f"intermediate_normed.{i}"] = model.norm(tokens)
    for name in wanted(meta):
        if size := re.search(r"_(\d+)x(\d+)_interpolated", name):
            h, w = int(size[1]), int(size[2])
            fits = (v for k, v in inputs.items() if k != "x" and tuple(v.shape[-2:]) == (h, w))
            image = next(fits, None)
            image = x[..., :h, :w] if image is None else image
            last = model.norm(model.tokens(image)[-1])
            out[name] = last if name.startswith("tokens") else last[:, 0]
    return only(out, meta)


MEMBER = Oracle(
    matches=lambda meta: says(meta, "ssl4eo") and says(meta, "moco_v3", "dino", "mae") and not says(meta, "decur"),
    build=_build,
    run=_run,
    layout=lambda meta: LAYOUT,
    full={
        "vit_small_patch16_224_13ch": lambda: Ssl4eoViTConfig(size="moco-s16").build().state_dict(),
        "dino_vit_small_13ch": lambda: Ssl4eoViTConfig(size="dino-s16").build().state_dict(),
        "vit_base_patch16_224_13ch": lambda: Ssl4eoViTConfig(size="mae-b16").build().state_dict(),
        "vit_large_patch16_224_13ch": lambda: Ssl4eoViTConfig(size="mae-l16").build().state_dict(),
        "vit_huge_patch14_224_13ch": lambda: Ssl4eoViTConfig(size="mae-h14").build().state_dict(),
    },
)
