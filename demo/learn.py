"""Chapter two: pretraining without labels. Reconstructions, and what the features know that random weights do not."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from demo import pictures as pic
from swath.core import collate, generator
from swath.core.config import parse
from swath.data.sources.world import WorldConfig
from swath.models import build_encoder
from swath.objectives.pretraining import PretrainRun, pretrain
from swath.objectives.pretraining.probe import linear, pooled
from swath.report import figures as f
from swath.report import page as p

BANDS = ("blue", "green", "red", "rededge071", "nir", "swir16", "swir22")
DATES = ("03-20", "05-20", "07-20", "09-20")
ENCODER = {"kind": "swath-vit", "size": "tiny", "patch": 8}
SEEDS = (0, 1)
STEPS = 250


def run_of(out: Path, seed: int) -> PretrainRun:
    """Masked reconstruction on another planet than the one that is probed and mapped."""
    data = {
        "kind": "world",
        "seed": 11,
        "sensors": {"sentinel2-l2a": list(BANDS)},
        "chips": {"train": 384},
        "size": 32,
        "near": "cropland",
        "dates": list(DATES),
        "clouds": 0.3,
    }
    loop = {
        "steps": STEPS,
        "batch_size": 32,
        "lr": 1.5e-3,
        "warmup": 0.1,
        "betas": [0.9, 0.95],
        "seed": seed,
        "precision": "bf16",
        "save_every": 100,
        "progress": False,
    }
    objective = {"kind": "mae", "width": 128, "depth": 2, "heads": 4}
    raw = {
        "name": f"mae-{seed}",
        "data": data,
        "encoder": ENCODER,
        "objective": objective,
        "loop": loop,
        "out": str(out / f"pretrain-{seed}"),
    }
    return parse(raw, PretrainRun)


def probe_data():
    """Chips of a crop each, on the home planet: half to learn from, half to be judged on."""
    config = WorldConfig(
        sensors={"sentinel2-l2a": BANDS},
        labels=("crop",),
        chips={"train": 160, "test": 200},
        size=32,
        near="cropland",
        dates=DATES,
        clouds=0.3,
    )
    source = config.build()
    parts = {k: collate([source.sample(i) for i in v]) for k, v in source.splits().items()}
    keep = {k: b[b.labels["crop"].valid.nonzero()[:, 0]] for k, b in parts.items()}
    return keep["train"], keep["test"]


def score(encoder, train, test) -> float:
    return linear(
        (pooled(encoder, train), train.labels["crop"].value), (pooled(encoder, test), test.labels["crop"].value)
    )


def chapter(page: p.Page, out: Path) -> Path:
    """Add the chapter; returns the weights of the first seed."""
    began = time.monotonic()
    train, test = probe_data()
    raw = score(build_encoder({"kind": "pixels", "bands": list(BANDS), "steps": 4}), train, test)
    random, learned, curves, kwh = [], [], {}, 0.0
    weights = None
    for seed in SEEDS:
        torch.manual_seed(100 + seed)
        random.append(score(build_encoder(ENCODER), train, test))
        run = run_of(out, seed)
        done = pretrain(run)
        weights = weights or done.weights
        encoder = build_encoder(ENCODER, weights=done.weights)
        learned.append(score(encoder, train, test))
        kwh += done.report.energy.kwh
        lines = (Path(run.out) / "metrics.jsonl").read_text().splitlines()
        curves[f"seed {seed}"] = _curve(lines)
        if seed == SEEDS[0]:
            reconstruction = _pictures(done.objective, run)
    gain = [100 * (b - a) for a, b in zip(random, learned, strict=True)]
    page.section("Learning without labels")
    page.add(
        p.text(
            f"swath-vit-tiny ({sum(q.numel() for q in encoder.parameters()) / 1e6:.1f} million parameters) sees four dates of "
            "Sentinel-2 on another simulated planet; three quarters of its tokens are hidden and it fills them in. A linear "
            "probe then reads the crop of a field from its frozen features: crops differ in when they grow, so this needs time."
        )
    )
    page.add(
        p.facts(
            {
                "random weights": " / ".join(f"{100 * v:.1f} %" for v in random),
                "after pretraining": " / ".join(f"{100 * v:.1f} %" for v in learned),
                "gain, points, both seeds": " / ".join(f"{g:+.1f}" for g in gain),
                "raw pixels, same probe": f"{100 * raw:.1f} %",
                "energy (estimate)": f"{1000 * kwh:.1f} Wh",
            }
        )
    )
    page.add(p.gallery(reconstruction, 300))
    page.add(p.figure(f.curves(curves, f.Axes("step", "loss"), "pretraining loss"), "Loss on hidden tokens."))
    page.add(
        p.text(
            f"Linear probe on {len(train)} chips, judged on {len(test)} others; two pretraining seeds of {STEPS} steps. "
            f"This chapter took {time.monotonic() - began:.0f} s.",
            "note",
        )
    )
    return weights


def _curve(lines):
    import json

    rows = [json.loads(line) for line in lines if line.strip()]
    return [(r["step"], r["loss"]) for r in rows if "loss" in r and "step" in r]


def _pictures(objective, run):
    source = run.data.build()
    batch = collate([source.sample(i) for i in range(3)])
    shown = objective.eval().pictures(batch, generator(0, "demo"))["sentinel2-l2a"]
    order = [BANDS.index(n) for n in ("red", "green", "blue")]
    cells = []
    for name, row in zip(("input", "what it saw", "reconstruction"), range(3), strict=True):
        strips = []
        for b in range(3):
            rgb = [shown[b, row, t, order].permute(1, 2, 0).float().numpy() * 0.2 + 0.2 for t in range(4)]
            strips.append(
                np.concatenate(
                    [np.pad(np.clip(v * 3.0, 0, 1) ** 0.8, ((1, 1), (1, 1), (0, 0)), constant_values=1) for v in rgb], 1
                )
            )
        cells.append(
            p.figure(p.image(pic.picture_of(np.concatenate(strips), 3), name), f"{name}: three places, four dates")
        )
    return cells
