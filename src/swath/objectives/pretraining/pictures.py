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
from numpy.typing import NDArray
from torch import Tensor

from swath.core import Batch, Layer, Sensor, generator
from swath.objectives._objective import ObjectiveModule
from swath.objectives.pretraining.probe import dense

Picture = NDArray[np.uint8]
ROLES = ("input", "masked", "made")
HIDDEN = 235
MISSING = (214, 204, 226)


def channels(count: int, sensor: Sensor | None) -> list[int]:
    """The three channels to show: true colour, else infrared in red, else what is there."""
    names = list(sensor.names) if sensor is not None and len(sensor.names) == count else []
    for wanted in (("red", "green", "blue"), ("nir", "red", "green"), ("nir08", "red", "green")):
        if set(wanted) <= set(names):
            return [names.index(n) for n in wanted]
    return [0, 1, 2] if count >= 3 else [0, 1, 1] if count == 2 else [0, 0, 0]


def stretch(x: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> Picture:
    """(3, H, W) as bytes (H, W, 3)."""
    y = (x - low[:, None, None]) / np.maximum(high - low, 1e-6)[:, None, None]
    return np.rint(np.clip(np.nan_to_num(y), 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)


def limits(x: NDArray[Any], together: bool = False) -> tuple[NDArray[Any], NDArray[Any]]:
    """The 2nd and 98th percentile of each of (3, ...) channels, what is NaN left out; `together` for all as one, so
    that a grey ground stays grey."""
    flat = x.reshape(1 if together else len(x), -1)
    if np.isnan(flat).all():
        return np.zeros(len(x)), np.ones(len(x))
    low, high = (np.broadcast_to(np.nanpercentile(flat, q, axis=1), len(x)) for q in (2, 98))
    return low, high


def save(picture: Picture, path: Path, side: int = 192) -> str:
    """PNG, enlarged by whole pixels to about `side`; its name."""
    from PIL import Image

    times = max(1, side // picture.shape[0])
    Image.fromarray(picture.repeat(times, 0).repeat(times, 1)).save(path)
    return path.name


def coloured(sensor: Sensor | None) -> bool:
    """Whether three channels are one picture's colours, and so have one stretch."""
    return sensor is not None and sensor.kind == "optical"


def seen(layer: Layer) -> Picture:
    """A layer's first date that shows anything (B = 1)."""
    some = layer.valid[0].flatten(1).any(1).nonzero().flatten()
    t = int(some[0]) if len(some) else 0
    x = layer.x[0, t].float().numpy()[channels(layer.shape[2], layer.sensor)]
    there = layer.valid[0, t, 0].numpy()
    return blank(stretch(x, *limits(np.where(there, x, np.nan), coloured(layer.sensor))), there)


def blank(picture: Picture, there: NDArray[Any]) -> Picture:
    """Where nothing was measured, a colour that is neither the ground's nor the mask's."""
    return np.where(there[..., None], picture, np.array(MISSING, np.uint8))


def row_of_dates(picture: Tensor, sensor: Sensor | None, valid: Tensor | None = None, most: int = 3) -> list[Picture]:
    """(3, T, C, H, W) as input, masked and made, dates side by side; what is hidden is pale, what is missing lilac."""
    x = picture[:, :most].float().cpu().numpy()
    hidden = (x[1] != x[0]).any(1)  # (T, H, W)
    fits = valid is not None and tuple(valid[:most, 0].shape) == hidden.shape
    there = valid[:most, 0].cpu().numpy() if valid is not None and fits else np.ones_like(hidden)
    x = x[:, :, channels(x.shape[2], sensor)]
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
            files = {r: save(p, folder / f"{stem}-{r}.png") for r, p in zip(ROLES, drawn, strict=True)}
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
    finest = max(chips.layers.values(), key=lambda v: (v.sensor.kind == "optical", v.shape[3]))
    maps = {"start": start, "end": dense(encoder, chips)}
    told: dict[str, Any] = {"sensor": finest.sensor.id, "chips": []}
    drawn = {k: as_colours(m) for k, m in maps.items()}
    for key, m in maps.items():
        tokens = m.permute(0, 2, 3, 1).reshape(-1, m.shape[1])
        told[key] = {"explained": drawn[key][1], "effective_rank": effective_rank(tokens)}
        told[key] |= {"width": m.shape[1], "cells": len(tokens)}
    for i in range(len(chips)):
        files = {"input": save(seen(chips[i].layers[finest.sensor.id]), folder / f"features-{i}-input.png")}
        files |= {k: save(d[0][i], folder / f"features-{i}-{k}.png") for k, d in drawn.items()}
        told["chips"].append(files)
    return told


def draw_all(objective: ObjectiveModule, start: Tensor, chips: Batch, folder: Path) -> Mapping[str, Any]:
    """All pictures of a run, and what the record says of them."""
    return {
        "reconstructions": reconstructions(objective, chips, folder),
        "features": features(objective.encoder, start, chips, folder),
    }
