"""Parity: run a reference's fixture through our encoder, compare, and list the keys of full-size models."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from swath.core import UnknownName, UserError
from swath.models.loading import Proof, load_state, open_state
from swath.models.oracle import ORACLES, Oracle

ATOL, RTOL = 3e-5, 1e-4
NEGATIVE = "WRONG"


MUST_DIFFER = "must differ"
"""The note of a row whose stored output is a known mistake."""


@dataclass(frozen=True)
class Row:
    """One compared output; `ratio` is the largest of |ours - theirs| / (atol + rtol |theirs|): at most 1 passes."""

    oracle: str
    output: str
    ratio: float
    worst: float
    ok: bool
    note: str = ""


def read_meta(folder: Path) -> dict[str, Any]:
    """What a fixture's meta.json says."""
    file = folder / "meta.json"
    if not file.is_file():
        raise UserError("there is no meta.json", where=str(folder), remedy="give the folder of one fixture")
    return json.loads(file.read_text(encoding="utf-8"))


def find_oracle(meta: Mapping[str, Any], where: str = "") -> tuple[str, Oracle]:
    """The family whose fixture this is, by what its meta says."""
    found = [(n, o) for n, o in ORACLES if o.matches(meta)]
    if len(found) != 1:
        which = ", ".join(n for n, _ in found) or "none"
        raise UserError(
            f"the fixture should be of one family and is of: {which}",
            where=where,
            remedy=f"its reference is '{meta.get('reference')}'; known families: {', '.join(ORACLES.names())}",
        )
    return found[0]


def build_oracle(folder: str | Path) -> tuple[Oracle, nn.Module, dict[str, Any], Proof]:
    """The module that a fixture describes, with its weights loaded and the proof of it."""
    place = Path(folder)
    meta = read_meta(place)
    _, oracle = find_oracle(meta, str(place))
    state = {k: v.float() if v.is_floating_point() else v for k, v in open_state(place / "weights.safetensors").items()}
    layout = oracle.layout(meta)
    module = oracle.build(meta, state)
    proof = load_state(module, state, layout=layout, source=str(place / "weights.safetensors"))
    return oracle, module.eval(), meta, proof


def run_oracle(folder: str | Path) -> tuple[dict[str, Tensor], Proof]:
    """All outputs of a fixture, under its own names, and the load proof."""
    oracle, module, meta, proof = build_oracle(folder)
    inputs = open_state(Path(folder) / "inputs.safetensors")
    with torch.no_grad():
        outputs = oracle.run(module, meta, inputs)
    return {k: v.detach().contiguous().clone() for k, v in outputs.items()}, proof


def write_outputs(outputs: Mapping[str, Tensor], path: str | Path) -> None:
    """Write tensors to a safetensors file in one move."""
    from safetensors.torch import save_file

    file = Path(path)
    part = file.with_name(file.name + ".part")
    save_file(dict(outputs), str(part))
    os.replace(part, file)


def compare(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], name: str) -> list[Row]:
    """One row per expected output. A fixture's deliberate mistakes (`WRONG...`) must not be met."""
    rows: list[Row] = []
    for key, want in theirs.items():
        got = ours.get(key)
        negative = NEGATIVE in key
        if got is None:
            note = "not given, as it should be" if negative else "absent"
            rows.append(Row(name, key, 0.0 if negative else float("inf"), float("nan"), negative, note))
            continue
        if got.shape != want.shape:
            note = f"shape {tuple(got.shape)}, not {tuple(want.shape)}"
            rows.append(Row(name, key, float("inf"), float("nan"), False, note))
            continue
        gap = (got.double() - want.double()).abs()
        same = (got == want) | (got.isnan() & want.isnan()) if got.is_floating_point() else got == want
        gap = torch.where(same, torch.zeros_like(gap), gap)
        ratio = float((gap / (ATOL + RTOL * want.double().abs())).max()) if gap.numel() else 0.0
        ok = (ratio > 1) if negative else ratio <= 1
        rows.append(
            Row(name, key, ratio, float(gap.max()) if gap.numel() else 0.0, ok, MUST_DIFFER if negative else "")
        )
    return rows


def compare_modules(oracle: Oracle, module: nn.Module, listed: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Where our layers differ from modules.json in type, epsilon, kernel, stride, padding, groups or activation."""
    own = dict(module.named_modules())
    wrong: list[str] = []
    for name, want in listed.items():
        layer = own.get(oracle.names(name))
        if layer is None:
            wrong.append(f"{name}: absent")
            continue
        have = describe(layer)
        for key, value in want.items():
            if key in have and have[key] != value:
                wrong.append(f"{name}: {key} is {have[key]}, not {value}")
    return wrong


def describe(layer: nn.Module) -> dict[str, Any]:
    """A layer in the terms of modules.json."""
    facts: dict[str, Any] = {}
    if (eps := getattr(layer, "eps", None)) is not None:
        facts["eps"] = eps
    if isinstance(layer, nn.GELU):
        facts["approximate"] = layer.approximate
    for key, attribute in (("k", "kernel_size"), ("s", "stride"), ("p", "padding")):
        value = getattr(layer, attribute, None)
        if value is not None:
            facts[key] = list(value) if isinstance(value, tuple) else value
    if (groups := getattr(layer, "groups", None)) is not None:
        facts["g"] = groups
    return facts


def verify(folder: str | Path) -> list[Row]:
    """Run a fixture and compare its outputs and its layers."""
    place = Path(folder)
    rows = compare(run_oracle(place)[0], open_state(place / "outputs.safetensors"), place.name)
    listed = place / "modules.json"
    if listed.is_file():
        oracle, module, _, _ = build_oracle(place)
        wrong = compare_modules(oracle, module, json.loads(listed.read_text(encoding="utf-8")))
        rows.append(Row(place.name, "(layers)", float(len(wrong)), 0.0, not wrong, "; ".join(wrong[:3])))
    return rows


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """The rows of one fixture as one."""
    return {
        "oracle": rows[0].oracle,
        "outputs": len(rows),
        "passed": sum(r.ok for r in rows),
        "worst ratio": f"{max((r.ratio for r in rows if r.note != MUST_DIFFER), default=0.0):.3g}",
        "failed": "; ".join(f"{r.output} {r.note}".strip() for r in rows if not r.ok)[:200],
    }


def full_names() -> dict[str, Oracle]:
    """Every full-size model whose keys are known."""
    return {name: oracle for _, oracle in ORACLES for name in oracle.full}


def full_keys(name: str) -> list[str]:
    """Sorted `key:shape` lines of a full-size model, on the meta device."""
    known = full_names()
    if name not in known:
        raise UnknownName("full-size model", name, known)
    with torch.device("meta"):
        state = known[name].full[name]()
    return sorted(f"{k}:{shape_text(v)}" for k, v in state.items())


def shape_text(value: Tensor) -> str:
    """`(64,3,16,16)`, `(64,)`, `()`."""
    sizes = list(value.shape)
    return "(" + ",".join(str(s) for s in sizes) + (",)" if len(sizes) == 1 else ")")
