"""Fixtures of TerraMind: merges, missing modalities, generation, coordinates, training losses, thinking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from swath.models.encoders.terramind import SHORT, SIZES, Example, Plan, TerraMindModel, full_plan
from swath.models.oracle import Meta, Oracle, Tensors, count_blocks, says

_ENCODER, _DECODER = "encoder_embeddings.", "decoder_embeddings."


def _plan(meta: Meta, weights: Tensors) -> Plan:
    """Sizes from the shapes; patch, image and heads from the config."""
    config = meta["config"]
    patch = int(config["patch"])
    pixels = {k.split(".")[1]: v.shape[1] // patch**2 for k, v in weights.items()
              if k.startswith(_ENCODER) and k.endswith(".proj.weight")}  # fmt: skip
    vocab = {k.split(".")[1]: v.shape[0] for k, v in weights.items()
             if k.startswith(_ENCODER) and k.endswith(".token_emb.weight")}  # fmt: skip
    targets = {k.split(".")[1]: v.shape[0] for k, v in weights.items()
               if k.startswith(_DECODER) and k.endswith(".token_emb.weight")}  # fmt: skip
    return Plan(
        dim=weights["encoder_norm.weight"].shape[0],
        depth=count_blocks(weights, "encoder."),
        heads=int(config["num_heads"]),
        gated="encoder.0.mlp.fc3.weight" in weights,
        decoder_depth=count_blocks(weights, "decoder."),
        patch=patch,
        image=int(config["img_size"]),
        mlp_ratio=float(config["mlp_ratio"]),
        pixels=pixels,
        vocab=vocab,
        targets=targets,
    )


def _run(module: nn.Module, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    model = cast(TerraMindModel, module)
    given = {SHORT[k]: v for k, v in inputs.items() if k in SHORT}
    raster = {k: given[SHORT[k]] for k in ("S2L2A", "S1RTC", "DEM", "LULC") if k in inputs}
    four = {SHORT[k]: v for k, v in raster.items()}

    def only(*names: str) -> dict[str, Tensor]:
        return {SHORT[n]: inputs[n] for n in names}

    out: dict[str, Tensor] = {f"vit.none.layer{i}": v for i, v in enumerate(_flat(model.encode(four, "none")))}
    for merge in ("mean", "max", "concat"):
        out[f"vit.{merge}.last"] = _flat(model.encode(four, merge))[-1]
    parts = cast("dict[str, Tensor]", model.encode(four, "dict")[-1])
    out |= {f"vit.dict.last.{k}": parts[SHORT[k]] for k in raster}
    pair = list(cast("dict[str, Tensor]", model.encode(only("S2L2A", "S1RTC"), "dict")[-1]).values())
    absent = torch.linspace(-1, 1, model.plan.dim).expand_as(pair[0])
    out["vit.concat_missing_DEM_LULC.last"] = torch.cat([*pair, absent, absent], -1)
    out["vit.s2only.last"] = _flat(model.encode(only("S2L2A")))[-1]
    out["vit.rgbonly.last"] = _flat(model.encode(only("RGB")))[-1]
    for name, value in inputs.items():
        if name.startswith("S2L2A_"):
            out[f"vit.s2only_{name.removeprefix('S2L2A_')}.last"] = _flat(model.encode({SHORT["S2L2A"]: value}))[-1]
    lulc, dem = SHORT["LULC"], "tok_dem@224"
    raster_order = "logits_in_raster_order"
    out[f"gen.lulc_given_s2.{raster_order}"] = model.logits(only("S2L2A"), lulc)
    out["gen.greedy.lulc_tokens"] = model.generate(only("S2L2A", "S1RTC"), [lulc])[lulc].flatten(1)
    made = model.generate(only("S2L2A", "S1RTC"), [lulc, dem])
    out["gen.greedy.dem_tokens_given_s2_s1_lulc"] = made[dem].flatten(1)
    out[f"gen.s1rtc_given_s2_dem.{raster_order}"] = model.logits(only("S2L2A", "DEM"), "tok_sen1rtc@224")
    with_coords = {**only("S2L2A"), "coords": inputs["coords_ids"]}
    out[f"gen.lulc_given_s2_coords.{raster_order}"] = model.logits(with_coords, lulc)
    out |= _coordinates(model, inputs["coords_ids"])
    thought = model.generate(only("S2L2A"), [lulc])
    out["tim_lulc.mean.last"] = _flat(model.encode({**only("S2L2A"), **thought}))[-1]
    return out | _training(model, inputs)


def _flat(layers: list[Tensor] | list[dict[str, Tensor]]) -> list[Tensor]:
    return cast("list[Tensor]", layers)


def _coordinates(model: TerraMindModel, ids: Tensor) -> dict[str, Tensor]:
    x, emb = model.encoder_embeddings["coords"](ids)
    decoder = model.target("coords")
    dec_x, dec_emb = decoder(ids)
    return {"coords.x": x, "coords.emb": emb, "coords.dec_x": dec_x, "coords.dec_emb": dec_emb,
            "coords.dec_logits_of_x": decoder.to_logits(dec_x)}  # fmt: skip


def _training(model: TerraMindModel, inputs: Tensors) -> dict[str, Tensor]:
    """Modalities stand in the order Sentinel-2, elevation, land cover (the reference shuffles them)."""
    names = [k.removeprefix("train.").removesuffix(".tensor") for k in inputs if k.endswith(".tensor")]
    names.sort(key=lambda n: (not n.startswith("untok"), n))
    examples: Mapping[str, Example] = {
        n: Example(
            inputs[f"train.{n}.tensor"],
            inputs[f"train.{n}.input_mask"].bool(),
            inputs[f"train.{n}.target_mask"].bool(),
            inputs[f"train.{n}.decoder_attention_mask"],
        )
        for n in names
    }
    losses = model.losses(examples)
    out = {"train.loss_mod": losses.pop("mod"), "train.loss_token": losses.pop("token")}
    return out | {f"train.loss.{k}": v for k, v in losses.items()}


def _full(size: str) -> Mapping[str, Tensor]:
    return TerraMindModel(full_plan(size)).state_dict()


def _sentinel2(size: str) -> Mapping[str, Tensor]:
    plan = SIZES[size]
    return TerraMindModel(Plan(plan.dim, plan.depth, plan.heads, plan.gated, pixels={SHORT["S2L2A"]: 12})).state_dict()


MEMBER = Oracle(
    matches=lambda meta: says(meta, "terramind") and not says(meta, "tokenizer"),
    build=lambda meta, weights: TerraMindModel(_plan(meta, weights)),
    run=_run,
    full={f"terramind_v1_{s}_encdec_allmods": (lambda s=s: _full(s)) for s in SIZES}
    | {f"terramind_v1_{s}_vit_S2L2A": (lambda s=s: _sentinel2(s)) for s in SIZES},
)
