"""From words on a command line to a plan: suite or plan file, encoders, tunings, places of data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swath.bench.plan import Plan
from swath.bench.suites import SUITES
from swath.core.config import load, override, parse
from swath.core.errors import UserError


@dataclass(frozen=True)
class Asked:
    """What was named; empty means the suite's own comparison."""

    encoders: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    tunings: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    data: tuple[str, ...] = ()


def plan_of(suite: str, asked: Asked, base: Mapping[str, Any], sets: Sequence[str]) -> Plan:
    """A plan file as it stands, or a plan for the suite."""
    if suite.endswith((".yaml", ".yml")):
        return load(suite, Plan, sets)
    known = SUITES.get(suite)
    encoders = _encoders(asked) or list(known.compare.get("encoders", ()))
    tunings = list(asked.tunings) or list(known.compare.get("tunings", ("linear",)))
    if not encoders:
        raise UserError(f"which encoders shall {suite} compare?", remedy="--encoder swath-vit/tiny --encoder dofa/base")
    raw = {**base, "suite": suite, "encoders": encoders, "tunings": tunings, "datasets": list(asked.only)}
    raw["data"] = dict(_place(d) for d in asked.data)
    return parse(override(raw, sets), Plan, where="bench run")


def _encoders(asked: Asked) -> list[dict[str, Any]]:
    if len(asked.weights) > len(asked.encoders):
        raise UserError(f"{len(asked.weights)} weights for {len(asked.encoders)} encoders")
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(asked.encoders):
        kind, _, size = name.partition("/")
        row: dict[str, Any] = {"encoder": {"kind": kind, "size": size} if size else {"kind": kind}}
        if i < len(asked.weights) and asked.weights[i]:
            row["weights"] = asked.weights[i]
        rows.append(row)
    return rows


def _place(text: str) -> tuple[str, str]:
    name, found, path = text.partition("=")
    if not found or not Path(path).exists():
        raise UserError(f"'{text}' is not ID=PATH of something that exists", where="--data")
    return name, path
