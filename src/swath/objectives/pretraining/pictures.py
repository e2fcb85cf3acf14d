"""Pictures of a pretraining run: reconstructions, and dense features as colours before and after.

Features become red, green and blue by the first three principal components of all shown tokens together, so that a
colour means the same in every chip. Their effective rank (exp of the entropy of the singular values, RankMe,
https://arxiv.org/abs/2210.02885) tells a collapsed encoder from one that knows much.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swath.core import Batch, Sensor, generator
from swath.data.picture import Picture, blank, coloured, finest, limits, save, seen, stretch, three
from swath.objectives._objective import ObjectiveModule
from swath.objectives.pretraining.probe import dense

ROLES = ("input", "masked", "made")
HIDDEN = 235
SIDE = 192


def row_of_dates(picture: Tensor, sensor: Sensor | None, valid: Tensor | None = None, most: int = 3) -> list[Picture]:
    """(3, T, C, H, W) as input, masked and made, dates side by side; what is hidden is pale, what is missing lilac.

    What patches add to a grid that they do not divide is cut off: `valid` (T, 1, H, W) is as large as the layer."""
    if valid is not None:
        picture = picture[:, : len(valid), :, : valid.shape[2], : valid.shape[3]]
    x = picture[:, :most].float().cpu().numpy()
    hidden = (x[1] != x[0]).any(1)  # (T, H, W)
    there = np.ones_like(hidden) if valid is None else valid[:most, 0].cpu().numpy()
    x = x[:, :, three(() if sensor is None else sensor.names, x.shape[2])]
    low, high = limits(np.where(there[:, None], x[0], np.nan).transpose(1, 0, 2, 3), coloured(sensor))
    out: list[Picture] = []
    for i in range(len(ROLES)):
        dates = [stretch(part, low, high) for part in x[i]]
        if ROLES[i] == "masked":
            dates = [np.where(h[..., None], np.uint8(HIDDEN), d) for h, d in zip(hidden, dates, strict=True)]
        dates = [blank(d, t) for d, t in zip(dates, there, strict=True)]
        gap = np.full((dates[0].shape[0], 2, 3), 255, np.uint8)
        parts = [p for d in dates for p in (gap, d)][1:]
        out.append(np.concatenate(parts, 1))
    return out


def reconstructions(objective: ObjectiveModule, chips: Batch, folder: Path) -> list[dict[str, Any]]:
    """Draw what the objective paints; nothing where it paints nothing."""
    device = next((p.device for p in objective.parameters()), torch.device("cpu"))
    was = objective.training
    objective.eval()
    made = objective.pictures(chips.to(device), generator("pictures"))
    objective.train(was)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name, pictures in made.items():
        layer = chips.layers.get(name)
        for i, picture in enumerate(pictures):
            told = (None, None) if layer is None else (layer.sensor, layer.valid[i])
            drawn = row_of_dates(picture, *told)
            stem = f"{name.replace('/', '-').replace(', ', '-')}-{i}"
            files = {r: save(p, folder / f"{stem}-{r}.png", SIDE) for r, p in zip(ROLES, drawn, strict=True)}
            error = (picture[2] - picture[0]).square()[picture[1] != picture[0]]
            mse = float(error.mean()) if error.numel() else None
            rows.append({"sensor": name, "chip": i, "mse": mse, **files})
    return rows


def effective_rank(tokens: Tensor) -> float:
    """exp(entropy of the singular values) of centred tokens (n, D)."""
    s = torch.linalg.svdvals((tokens - tokens.mean(0)).double())
    share = s / s.sum().clamp_min(1e-12)
    return float(torch.exp(-(share * share.clamp_min(1e-12).log()).sum()))


def as_colours(maps: Tensor) -> tuple[list[Picture], float]:
    """Maps (B, D, h, w) by their first three components, and the share of variance these hold."""
    b, d, h, w = maps.shape
    tokens = maps.permute(0, 2, 3, 1).reshape(-1, d).double()
    tokens = tokens - tokens.mean(0)
    _, s, v = torch.linalg.svd(tokens, full_matrices=False)
    flip = torch.where(v.gather(1, v.abs().argmax(1, keepdim=True)) < 0, -1.0, 1.0)  # a component has no sign
    rgb = (tokens @ (v * flip)[:3].T).T.numpy()
    share = float(s[:3].square().sum() / s.square().sum().clamp_min(1e-12))
    low, high = limits(rgb)
    return [stretch(p, low, high) for p in rgb.reshape(3, b, h, w).transpose(1, 0, 2, 3)], share


def features(encoder: torch.nn.Module, start: Tensor, chips: Batch, folder: Path) -> dict[str, Any]:
    """Draw chips and their features at the start (maps given) and now."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = finest(chips).sensor.id
    maps = {"start": start, "end": dense(encoder, chips)}
    told: dict[str, Any] = {"sensor": shown, "chips": []}
    drawn = {k: as_colours(m) for k, m in maps.items()}
    for key, m in maps.items():
        tokens = m.permute(0, 2, 3, 1).reshape(-1, m.shape[1])
        told[key] = {"explained": drawn[key][1], "effective_rank": effective_rank(tokens)}
        told[key] |= {"width": m.shape[1], "cells": len(tokens)}
    for i in range(len(chips)):
        drawings = {"input": seen(chips[i].layers[shown]), **{k: d[0][i] for k, d in drawn.items()}}
        files = {k: save(p, folder / f"features-{i}-{k}.png", SIDE) for k, p in drawings.items()}
        told["chips"].append(files)
    return told


def draw_all(objective: ObjectiveModule, start: Tensor, chips: Batch, folder: Path) -> Mapping[str, Any]:
    """All pictures of a run, and what the record says of them."""
    return {
        "reconstructions": reconstructions(objective, chips, folder),
        "features": features(objective.encoder, start, chips, folder),
    }
