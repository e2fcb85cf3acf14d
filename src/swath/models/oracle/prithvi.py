"""Fixtures of Prithvi-EO 1.0 and 2.0, with and without coordinates."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from swath.models.encoders.prithvi import FLAT, Prithvi, PrithviConfig, PrithviShape, untubes
from swath.models.loading import Layout
from swath.models.oracle import Meta, Oracle, Tensors, only, says, wanted


def _shape(meta: Meta) -> PrithviShape:
    c = meta["config"]
    return PrithviShape(
        image=int(c["img_size"]),
        frames=int(c["num_frames"]),
        patch=tuple(c["patch_size"]),
        bands=int(c["in_chans"]),
        dim=int(c["embed_dim"]),
        depth=int(c["depth"]),
        heads=int(c["num_heads"]),
        decoder_dim=int(c["decoder_embed_dim"]),
        decoder_depth=int(c["decoder_depth"]),
        decoder_heads=int(c["decoder_num_heads"]),
        mlp_ratio=float(c["mlp_ratio"]),
        coords=tuple(c.get("coords_encoding") or ()),
        learn_scale=bool(c.get("coords_scale_learn", False)),
    )


def _build(meta: Meta, weights: Tensors) -> nn.Module:
    return PrithviConfig(shape=_shape(meta), decoder=any("decoder" in k for k in weights)).build()


def _run(module: nn.Module, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    model = cast(Prithvi, module)
    x, dates, places = inputs["x"], inputs.get("temporal_coords"), inputs.get("location_coords")

    def last(image: Tensor, d: Tensor | None, p: Tensor | None) -> Tensor:
        return model.encoder.run(model.encoder.embed(image, d, p)[0])[-1]

    tokens, grid = model.encoder.embed(x, dates, places)
    every = model.encoder.run(tokens)
    out = {f"features.{i}": f for i, f in enumerate(every)}
    b, _, d = every[-1].shape
    flat = every[-1][:, 1:].reshape(b, *grid, d).permute(0, 1, 4, 2, 3)
    out["image_features.-1"] = flat.reshape(b, grid[0] * d, *grid[1:])
    out["features_last_no_coords"] = last(x, None, None)
    out["features_last_time_only"] = last(x, dates, None)
    if model.shape.patch[0] == 1:  # a tube of several frames has no model of one
        first = None if dates is None else dates[:, :1]
        out["single_frame.features_last"] = last(x[:, :, :1], first, places)
    for name in wanted(meta):
        if crop := re.fullmatch(r"features_last_(\d+)x(\d+)", name):
            h, w = int(crop[1]), int(crop[2])
            out[name] = last(x[..., :h, :w], dates, places)
    mae = model.reconstruct(x, inputs["noise"], float(meta["config"].get("mask_ratio", 0.75)), dates, places)
    patch = model.shape.patch
    volume = patch[0] * patch[1] * patch[2]
    out["mae.latent"], out["mae.ids_restore"], out["mae.mask_tokens"] = mae["latent"], mae["ids_restore"], mae["mask"]
    out["mae.pred"] = untubes(mae["pred"], patch, grid)
    out["mae.mask"] = untubes(mae["mask"][..., None].expand(-1, -1, volume), patch, grid)[:, 0]
    standardise = bool(meta["config"].get("norm_pix_loss", False))
    out["mae.loss"] = model.loss(x, mae["pred"], mae["mask"], standardise)
    out["mae.loss_norm_pix"] = model.loss(x, mae["pred"], mae["mask"], True)
    return only(out, meta)


def _full(size: str) -> Callable[[], Tensors]:
    return lambda: PrithviConfig(size=size, decoder=True).build().state_dict()


_FULL = {
    "prithvi_eo_tiny_mae": "v1-tiny",
    "prithvi_eo_v1_100_mae": "v1-100",
    "prithvi_eo_v2_tiny_tl_mae": "v2-tiny-tl",
    "prithvi_eo_v2_100_mae": "v2-100",
    "prithvi_eo_v2_100_tl_mae": "v2-100-tl",
    "prithvi_eo_v2_300_mae": "v2-300",
    "prithvi_eo_v2_300_tl_mae": "v2-300-tl",
    "prithvi_eo_v2_600_mae": "v2-600",
    "prithvi_eo_v2_600_tl_mae": "v2-600-tl",
}

MEMBER = Oracle(
    matches=lambda meta: says(meta, "prithvi"),
    build=_build,
    run=_run,
    layout=lambda meta: Layout(recomputed=("*pos_embed",), sort=FLAT),
    full={name: _full(size) for name, size in _FULL.items()},
)
