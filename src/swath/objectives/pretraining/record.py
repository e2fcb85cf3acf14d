"""The record of a pretraining: what decides its outcome kept apart (data, architecture, algorithm), and what it cost.

OUT/card.json     about the weights: travels with them
OUT/record.json   card, curves, probe and pictures of the run: what `report.html` is made of
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from swath.core import Source
from swath.core.config import plain
from swath.data.diversity import of_source
from swath.objectives._objective import ObjectiveModule
from swath.train import FitReport

LOOKED_AT = 128
DRAWN = 400


def diversity(source: Source, index: Sequence[int]) -> dict[str, Any]:
    """Continents, label shares and spectral entropy of evenly spread samples of what was learnt from."""
    step = max(1, -(-len(index) // LOOKED_AT))
    return plain(of_source(source, [int(i) for i in index[::step]]))


def card_of(
    objective: ObjectiveModule, settings: Mapping[str, Any], source: Source, report: FitReport, varied: Any
) -> dict[str, Any]:
    """Everything about the weights but their hash."""
    loop, energy, compute = settings["loop"], asdict(report.energy), dict(report.compute)
    joules = energy["kwh"] * 3.6e6
    spec: Any = objective.encoder
    return {
        "name": settings["name"],
        "encoder": settings["encoder"],
        "objective": settings["objective"],
        "weights_from": settings["weights"] or "random",
        "data": {
            **report.fingerprints["data"],
            "source": source.name,
            "fingerprint": report.fingerprints["data"]["source"],
            "licence": source.licence,
            "recipe": settings["data"],
            "sampling": {k: loop[k] for k in ("batch_size", "epochs", "steps", "seed")},
            "diversity": varied,
        },
        "sensors": settings["bands"] or {s.id: [b.name for b in s.bands] for s in source.sensors},
        "architecture": {
            "spec": spec.spec.name,
            "parameters": sum(p.numel() for p in objective.encoder.parameters()),
            "patch": spec.spec.patch,
            "depth": spec.spec.depth,
            "widths": list(spec.spec.widths),
        },
        "algorithm": {
            "objective": settings["objective"]["kind"],
            "batch_coupled": objective.batch_coupled,
            "parameters": sum(p.numel() for p in objective.parameters() if p.requires_grad),
        },
        "loop": loop,
        "steps": report.steps,
        "loss": report.loss,
        "skipped": report.skipped,
        "seconds": report.seconds,
        "compute": compute,
        "energy": energy,
        "joules_per_sample": joules / max(1, report.steps * loop["batch_size"]) if energy["methods"] else None,
        "parameters": sum(p.numel() for p in objective.encoder.parameters()),
        "environment": report.fingerprints["environment"],
        "code": report.fingerprints["code"],
    }


def curves(out: Path) -> list[dict[str, Any]]:
    """The run's lines of numbers, thinned to a few hundred; lines of a validation all stay."""
    path = out / "metrics.jsonl"
    rows = [json.loads(t) for t in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    steps = [r for r in rows if "loss" in r]
    every = max(1, len(steps) // DRAWN)
    return [r for r in rows if "loss" not in r] + steps[::every]


def lead() -> bool:
    """Whether this process writes the run's files."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
