"""Fixtures of OlmoEarth: whole forwards at several patches and resolutions, and the masked training forward."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from swath.models.encoders.olmoearth import BASE_GSD, SIZES, LatentMIM, OlmoTrunk, Plan
from swath.models.oracle import Meta, Oracle, Tensors, count_blocks, says, wanted

_SETS = "encoder.patch_embeddings.per_modality_embeddings."


def _bandsets(weights: Tensors) -> dict[str, tuple[int, ...]]:
    """Channels per band set, from the first map of each."""
    found: dict[str, dict[int, int]] = {}
    for key, value in weights.items():
        if not key.startswith(_SETS) or not key.endswith((".pixel_proj.0.weight", ".proj.weight")):
            continue
        name, part = key.removeprefix(_SETS).split(".")[:2]
        sets = found.setdefault(name, {})
        if value.ndim == 4 or ".pixel_proj." in key:
            sets[int(part.split("__")[1])] = value.shape[1]
    return {k: tuple(v[i] for i in sorted(v)) for k, v in found.items()}


def _value(config: Mapping[str, Any], key: str, default: Any) -> Any:
    try:
        return ast.literal_eval(str(config.get(key, default)))
    except (ValueError, SyntaxError):
        return config.get(key, default)


def _build(meta: Meta, weights: Tensors) -> nn.Module:
    encoder, decoder = meta["config"]["encoder"], meta["config"]["decoder"]
    bandsets = _bandsets(weights)
    order = [k for k in meta["modalities"] if k in bandsets]
    hidden = next((v.shape[0] for k, v in weights.items() if k.endswith("pixel_proj.0.weight")), 0)
    return LatentMIM(
        Plan(
            dim=weights["encoder.norm.weight"].shape[0],
            depth=count_blocks(weights, "encoder.blocks."),
            heads=int(_value(encoder, "num_heads", 0)),
            bandsets={k: bandsets[k] for k in order},
            hidden=hidden,
            rope=any(k.endswith("rope_mixed_freqs") for k in weights),
            decoder_dim=weights["decoder.norm.weight"].shape[0],
            decoder_depth=count_blocks(weights, "decoder.blocks."),
            decoder_heads=int(_value(decoder, "num_heads", 0)),
            ratio=float(_value(encoder, "mlp_ratio", 4.0)),
            day_scale=float(_value(encoder, "rope_temporal_coordinate_scale", 1.0)),
        )
    )


def _run(module: nn.Module, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    model = cast(LatentMIM, module)
    names = [k for k in model.plan.bandsets if k in inputs]
    stamps = inputs["timestamps"]
    dates = dict.fromkeys(names, stamps)
    given = {k: inputs[k] for k in names}
    out: dict[str, Tensor] = {}
    for name in wanted(meta):
        if found := re.fullmatch(r"(all|s2)_fast_p(\d+)(?:_res(\d+))?\.(\w+)", name):
            if name in out:
                continue
            patch, gsd = int(found[2]), float(found[3] or BASE_GSD)
            part = given if found[1] == "all" else {"sentinel2_l2a": given["sentinel2_l2a"]}
            grids = _whole(model.encoder, part, dates, patch, gsd)
            stem = name.rsplit(".", 1)[0]
            out |= {f"{stem}.{k}": v for k, v in grids.items()} if found[1] == "all" else {name: grids["sentinel2_l2a"]}
    patch = _patch(meta, inputs, names)
    state = {k: inputs[f"{k}_mask"][:, ::patch, ::patch] for k in names}
    latent, pooled, decoded = model.masked(given, state, dates, patch)
    out["mim.pooled"] = pooled
    targets = model.target_encoder.patches(given, patch)
    for k in names:
        out |= {f"mim.latent.{k}": latent[k], f"mim.latent_mask.{k}": state[k], f"mim.decoded.{k}": decoded[k]}
        out[f"mim.target_exit0.{k}"] = targets[k]
    return out


def _patch(meta: Meta, inputs: Tensors, names: list[str]) -> int:
    """The patch of the masked forward: pixels over tokens of its stored shape."""
    stats = meta.get("output_stats", {}).get(f"mim.latent.{names[0]}")
    return inputs[names[0]].shape[1] // int(stats["shape"][1]) if stats else 4


def _whole(trunk: OlmoTrunk, given: Tensors, dates: Tensors, patch: int, gsd: float) -> dict[str, Tensor]:
    seq = trunk.sequence(trunk.patches(given, patch), dates, gsd * patch / BASE_GSD)
    return seq.split(trunk.norm(trunk.run(seq)[-1]))


def _full(size: str) -> Mapping[str, Tensor]:
    return LatentMIM(SIZES[size]).state_dict()


MEMBER = Oracle(
    matches=lambda meta: says(meta, "olmoearth"),
    build=_build,
    run=_run,
    full={f"OlmoEarth-{s}": (lambda s=s: _full(s)) for s in SIZES if s != "tiny"},
)
