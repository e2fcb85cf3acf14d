"""Fixtures of TerraMind's tokenizers: encode, quantise, decode (ViT logits, or diffusion)."""

from __future__ import annotations

import re
from typing import cast

from torch import Tensor, nn

from swath.models.oracle import Meta, Oracle, Tensors, count_blocks, says, wanted
from swath.models.tokenizers.diffusion import Noise, UNetPlan
from swath.models.tokenizers.terramind import PLANS, VQVAE, DiVAE, TokenizerPlan, build_tokenizer, one_hot


def _heads(meta: Meta, dim: int) -> int:
    """Stated by the config or the reference; the published models have 64 features a head, shrunk ones four heads."""
    if "num_heads" in meta["config"]:
        return int(meta["config"]["num_heads"])
    said = re.search(r"heads(\d+)", str(meta.get("reference", "")))
    return int(said[1]) if said else (dim // 64 if dim >= 192 else 4)


def _unet(weights: Tensors, latent: int, channels: int) -> UNetPlan:
    """Levels, widths and attention as the numbered input blocks show them."""
    first = weights["decoder.input_blocks.0.0.weight"]
    patch = round(((first.shape[1] - latent) / channels) ** 0.5)
    widths, attend, counts = list[int](), list[bool](), list[int]()
    stage = 0
    for i in range(1, count_blocks(weights, "decoder.input_blocks.")):
        if f"decoder.input_blocks.{i}.0.op.weight" in weights:
            stage = 0
            continue
        if not stage:
            widths.append(weights[f"decoder.input_blocks.{i}.0.in_layers.2.weight"].shape[0])
            attend.append(f"decoder.input_blocks.{i}.1.qkv.weight" in weights)
        stage += 1
        counts.append(stage)
    return UNetPlan(channels, latent, tuple(widths), tuple(attend), max(counts), patch=patch)


def _build(meta: Meta, weights: Tensors) -> nn.Module:
    config = meta["config"]
    dim, channels, patch = weights["encoder.proj.weight"].shape[:3]
    levels = tuple(int(n) for n in str(config["codebook"]).split("-"))
    plan = TokenizerPlan(
        channels=channels,
        levels=levels,
        dim=dim,
        depth=count_blocks(weights, "encoder.blocks."),
        heads=_heads(meta, dim),
        decoder_depth=count_blocks(weights, "decoder.blocks."),
        image=weights["encoder.pos_emb"].shape[-1] * patch,
        patch=patch,
        unet=_unet(weights, len(levels), channels) if "decoder.time_embed.0.weight" in weights else None,
        noise=Noise(zero_terminal=bool(config.get("zero_terminal_snr", True))),
    )
    return build_tokenizer(plan)


def _run(module: nn.Module, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    if isinstance(module, VQVAE):
        classes = inputs["classes"]
        codes, ids = module.encode(classes)
        return {
            "encoder": module.encoder(one_hot(classes, module.plan.channels)),
            "quant": codes,
            "tokens": ids,
            "decoded_logits": module.decode(codes),
            "decoded_from_tokens": module.decode_ids(ids),
            "autoencode": module(classes),
        }
    model = cast(DiVAE, module)
    codes, ids = model.encode(inputs["x"])
    out = {"encoder": model.encoder(inputs["x"]), "latent": model.latent(inputs["x"]), "quant": codes, "tokens": ids}
    out |= {f"tokens_{k.removeprefix('x_')}": model.encode(v)[1] for k, v in inputs.items() if k.startswith("x_")}
    out["dequant_from_tokens"] = model.fsq.codes(ids)
    out["unet_single_step"] = model.decoder(inputs["noised"], inputs["t"], codes)
    schedule = model.plan.noise
    out["ddim.alphas_cumprod"] = schedule.kept()
    for name in wanted(meta):
        if found := re.fullmatch(r"ddim\.timesteps_(\d+)_trailing", name):
            steps = schedule.timesteps(int(found[1]))
            out[name] = inputs["t"].new_tensor(steps)
            out["ddim.step1.prev_sample"] = schedule.back(out["unet_single_step"], inputs["noised"], *steps[1:3])
        if found := re.fullmatch(r"decode_(\d+)steps", name):
            out[name] = model.decode(codes, inputs["noise"], int(found[1]))
    return out


MEMBER = Oracle(
    matches=lambda meta: says(meta, "terramind.tokenizer"),
    build=_build,
    run=_run,
    full={
        f"terramind_v1_tokenizer_{name}": (lambda name=name: build_tokenizer(name).state_dict())
        for name in PLANS
        if name != "s1grd"
    },
)
