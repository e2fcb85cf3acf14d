"""Fixtures of DeCUR: the radar and the optical ResNet side by side, and the loss on given embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from swath.models.encoders.ssl4eo_resnet import SENTINEL1, SENTINEL2, SIZES, Plan, ResNetEncoder
from swath.models.layers.decorrelation import barlow_twins, correlation, decur
from swath.models.loading import Layout
from swath.models.oracle import Meta, Oracle, Tensors, says

BRANCHES = {"s1": "backbone_1", "s2": "backbone_2"}


def _plan(weights: Tensors, branch: str, radar: bool) -> Plan:
    blocks, widths = list[int](), list[int]()
    for stage in range(1, 5):
        part = f"{branch}.layer{stage}."
        blocks.append(1 + max(int(k.removeprefix(part).split(".")[0]) for k in weights if k.startswith(part)))
        widths.append(weights[f"{part}0.conv1.weight"].shape[0])
    bands = weights[f"{branch}.conv1.weight"].shape[1]
    return Plan(SENTINEL1 if radar else SENTINEL2, tuple(blocks), tuple(widths), bands)


def _build(meta: Meta, weights: Tensors) -> nn.Module:
    own = {k.removeprefix("module."): v for k, v in weights.items()}
    return nn.ModuleDict({b: ResNetEncoder(_plan(own, b, s == "s1")) for s, b in BRANCHES.items()})


def _run(module: nn.Module, meta: Meta, inputs: Tensors) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for sensor, branch in BRANCHES.items():
        maps = cast(ResNetEncoder, cast(nn.ModuleDict, module)[branch]).pyramid(inputs[sensor])
        out |= {f"{sensor}.layer{i}": m for i, m in enumerate(maps, 1)}
        out[f"{sensor}.pooled"] = maps[-1].mean((2, 3))
    facts = meta["loss_args"]
    weight, common = float(facts["lambd"]), int(facts["dim_common"])
    # the reference divides by the batch of four processes, however many there are
    count = 4.0 * float(facts["batch_size"])
    z1, z2, z3, z4 = (inputs[f"z{i}"] for i in range(1, 5))
    losses = {
        "cross": decur(correlation(z1, z2, count), common, weight),
        "single1": barlow_twins(correlation(z1, z3, count), weight),
        "single2": barlow_twins(correlation(z2, z4, count), weight),
    }
    return out | {f"decur_loss.{k}.{i}": v for k, terms in losses.items() for i, v in enumerate(terms)}


def _full(size: str) -> Mapping[str, Tensor]:
    return ResNetEncoder(SIZES[size]).state_dict()


MEMBER = Oracle(
    matches=lambda meta: says(meta, "decur"),
    build=_build,
    run=_run,
    layout=lambda meta: Layout(strip=("module.",)),
    full={
        "resnet50_13ch": lambda: _full("sentinel2-rn50"),
        "resnet50_2ch": lambda: _full("sentinel1-rn50"),
    },
)
