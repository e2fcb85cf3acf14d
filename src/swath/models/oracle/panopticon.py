"""Fixtures of Panopticon."""

from __future__ import annotations

import re
from typing import cast

from torch import Tensor, nn

from swath.models.encoders.panopticon import Panopticon, PanopticonConfig, PanopticonShape
from swath.models.oracle import Meta, Oracle, Tensors, count_blocks, only, says


def _build(meta: Meta, weights: Tensors) -> nn.Module:
    c = meta["config"]
    kernel = weights["patch_embed.conv3d.conv3d.weight"]
    patch = kernel.shape[-1]
    shape = PanopticonShape(
        image=round((weights["pos_embed"].shape[1] - 1) ** 0.5) * patch,
        patch=patch,
        dim=weights["cls_token"].shape[-1],
        depth=count_blocks(weights, "blocks."),
        heads=int(c["num_heads"]),
        fusion=len(kernel),
        fusion_heads=int(c["chnfus_heads"]),
    )
    return PanopticonConfig(shape=shape).build()


def _run(module: nn.Module, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    model = cast(Panopticon, module)
    out: dict[str, Tensor] = {}
    for key, x in inputs.items():
        if not key.startswith("x_"):
            continue
        tag = key.removeprefix("x_")
        bands = inputs["chn_" + re.sub(r"\d+$", "", tag)].float()
        out[f"{tag}.patch_embed"] = model.patch_embed(x, bands)
        every = [model.norm(t) for t in model.tokens(x, bands)]
        for i, tokens in enumerate(every):
            out[f"{tag}.layer{i}.cls_normed"], out[f"{tag}.layer{i}.patch_normed"] = tokens[:, 0], tokens[:, 1:]
        out[f"{tag}.cls"] = every[-1][:, 0]
        hidden = inputs.get("spec_masks")
        if hidden is not None and hidden.shape == bands.shape:
            out[f"{tag}_mask.cls"] = model.norm(model.tokens(x, bands, hidden)[-1])[:, 0]
    return only(out, meta)


MEMBER = Oracle(
    matches=lambda meta: says(meta, "panopticon"),
    build=_build,
    run=_run,
    full={"panopticon_vitb14": lambda: PanopticonConfig().build().state_dict()},
)
