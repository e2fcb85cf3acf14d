"""Fixtures of Galileo, among them the published nano weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import cast

from torch import Tensor, nn

from swath.models.encoders._galileo_decoder import GalileoDecoder
from swath.models.encoders.galileo import (
    Galileo,
    GalileoConfig,
    GalileoShape,
    average,
    per_patch,
    thin,
)
from swath.models.loading import Layout
from swath.models.oracle import Meta, Oracle, Tensors, count_blocks, only, says, wanted

KINDS = ("space_time", "space", "time", "static")


def _build(meta: Meta, weights: Tensors) -> nn.Module:
    c = meta["config"]
    shape = GalileoShape(
        dim=len(weights["norm.bias"]),
        depth=count_blocks({k.replace(".backbone", ""): v for k, v in weights.items()}, "blocks."),
        heads=int(c["num_heads"]),
        ratio=float(c.get("mlp_ratio", 4)),
        patch=int(c["max_patch_size"]),
        steps=int(c.get("max_sequence_length", 24)),
    )
    return GalileoConfig(shape=shape).build()


def _settings(case: str, text: str, base: int) -> tuple[int, float, int | None]:
    """Patch, metres per pixel and last block, from the case's own words."""
    patch = re.search(r"patch (\d+)", text) or re.search(r"_p(\d+)", case)
    gsd = re.search(r"(\d+) m\b", text) or re.search(r"_res(\d+)", case)
    leave = re.search(r"exit_after=(\d+)", text) or re.search(r"_exit(\d+)", case)
    return int(patch[1]) if patch else base, float(gsd[1]) if gsd else 10.0, int(leave[1]) if leave else None


def _run(module: nn.Module, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    model = cast(Galileo, module)
    said = cast(Mapping[str, str], meta.get("cases", {}))
    names = dict.fromkeys([*said, *(n.rsplit(".", 1)[0] for n in wanted(meta))])
    out: dict[str, Tensor] = {}
    for case in names:
        patch, gsd, until = _settings(case, said.get(case, ""), model.shape.patch)
        source = case if f"{case}.space_time_x" in inputs else _source(case, inputs)
        x = [inputs[f"{source}.{k}_x"] for k in KINDS]
        mask = [inputs[f"{source}.{k}_mask"] for k in KINDS]
        tokens = model.embed(x, mask, inputs[f"{source}.months"], patch, gsd)
        small = [thin(m, patch) if i < 2 else m for i, m in enumerate(mask)]
        last = model.run(tokens, [m > 0 for m in small], until)[-1]
        for kind, own, masked in zip(KINDS, last, small, strict=True):
            out[f"{case}.tokens_{kind}"], out[f"{case}.mask_{kind}"] = own, masked
        out[f"{case}.avg_embedding"] = average(last, small)
        out[f"{case}.avg_per_patch"] = per_patch(last, small)
    return only(out, meta)


def _source(case: str, inputs: Tensors) -> str:
    """A case without inputs of its own is a variant of the one whose name begins it."""
    tags = [k.removesuffix(".months") for k in inputs if k.endswith(".months")]
    return max((t for t in tags if case.startswith(t)), key=len)


def _full(size: str) -> Callable[[], Tensors]:
    return lambda: GalileoConfig(size=size).build().state_dict()


MEMBER = Oracle(
    matches=lambda meta: says(meta, "galileo"),
    build=_build,
    run=_run,
    layout=lambda meta: Layout(rename=((".backbone", ""),)),
    full={
        "nano_encoder": _full("nano"),
        "nano_encoder_official_raw": _full("nano"),
        "tiny_encoder": _full("tiny"),
        "base_encoder": _full("base"),
        "nano_decoder_official": lambda: GalileoDecoder(GalileoConfig.sizes["nano"]).state_dict(),
    },
)
