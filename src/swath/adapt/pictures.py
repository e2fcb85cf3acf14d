"""Chips as pictures: what the model saw, what is true, what it said. PNG files for the report."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swath.adapt.fields import CLASSES, Fields, as_mask
from swath.adapt.heads import Classes, Values
from swath.adapt.metrics import names_of
from swath.adapt.objects import Objects
from swath.adapt.prepare import Prepared
from swath.core.batch import Batch, Label, Layer
from swath.core.contracts import LabelSpec

Picture = NDArray[np.uint8]


def view(batch: Batch) -> Picture:
    """The finest layer's last date that shows anything, in true colour where it has one, stretched 2..98 %."""
    layer = max(batch.layers.values(), key=lambda v: (v.sensor.kind == "optical", v.shape[3]))
    shown = layer.valid[0].flatten(1).any(1).nonzero().flatten()
    t = int(shown[-1]) if len(shown) else 0
    x = layer.x[0, t][_colour(layer)].numpy()
    valid = layer.valid[0, t, 0].numpy()
    out = np.zeros((*x.shape[1:], 3), dtype=np.uint8)
    for i, plane in enumerate(np.broadcast_to(x, (3, *x.shape[1:]))):
        low, high = np.percentile(plane[valid], [2, 98]) if valid.any() else (0.0, 1.0)
        out[..., i] = (np.clip((plane - low) / max(float(high - low), 1e-9), 0, 1) * 255 * valid).astype(np.uint8)
    return out


def _colour(layer: Layer) -> list[int]:
    names = layer.sensor.names
    if {"red", "green", "blue"} <= set(names):
        return [names.index(n) for n in ("red", "green", "blue")]
    return [0]


def palette(label: LabelSpec) -> Picture:
    """The label's colours, or evenly spaced hues."""
    k = max(1, len(label.classes))
    if len(label.colours) == len(label.classes) and label.colours:
        return np.array([[int(c.lstrip("#")[i : i + 2], 16) for i in (0, 2, 4)] for c in label.colours], dtype=np.uint8)
    rows = [colorsys.hsv_to_rgb(i / k, 0.55 if i % 2 else 0.75, 0.55 + 0.4 * (i % 3) / 2) for i in range(k)]
    return (np.array(rows) * 255).astype(np.uint8)


def classes_picture(classes: Tensor, valid: Tensor | None, label: LabelSpec) -> Picture:
    """A class map; what is not valid is white."""
    out = palette(label)[classes.clamp(0, max(0, len(label.classes) - 1)).numpy()]
    if valid is not None:
        out[~valid.numpy()] = 255
    return out


def objects_picture(picture: Picture, boxes: Tensor, masks: Tensor | None, size: Sequence[float]) -> Picture:
    """Objects over what was seen, on the label's own grid: masks tinted, boxes outlined."""
    h, w = (int(v) for v in size)
    rows, columns = np.arange(h) * picture.shape[0] // h, np.arange(w) * picture.shape[1] // w
    out = (picture[rows[:, None], columns] * 0.75).astype(np.uint8)
    if masks is not None and len(masks):
        inside = masks.any(0).numpy()
        out[inside] = out[inside] // 2 + np.array([0, 90, 110], dtype=np.uint8)
    for x0, y0, x1, y1 in boxes.round().long().tolist():
        a, b, c, d = max(0, x0), max(0, y0), min(w, max(x1, x0 + 1)) - 1, min(h, max(y1, y0 + 1)) - 1
        if a <= c and b <= d:
            out[[b, d], a : c + 1] = out[b : d + 1, [a, c]] = (255, 210, 40)
    return out


def image_picture(value: Tensor, like: Tensor, bands: Sequence[str]) -> Picture:
    """An image (C, H, W) in true colour where it has one, stretched as `like` is."""
    pick = [bands.index(n) for n in ("red", "green", "blue")] if {"red", "green", "blue"} <= set(bands) else [0]
    out = np.zeros((*value.shape[1:], 3), dtype=np.uint8)
    for i in range(3):
        c = pick[i % len(pick)]
        low, high = np.percentile(like[c].numpy(), [2, 98])
        out[..., i] = (np.clip((value[c].numpy() - low) / max(float(high - low), 1e-9), 0, 1) * 255).astype(np.uint8)
    return out


def values_picture(values: Tensor, low: float, high: float) -> Picture:
    """A value map, dark (low) to yellow (high)."""
    u = np.clip((values.numpy() - low) / max(high - low, 1e-9), 0, 1)[..., None]
    a, b, c = np.array([30, 15, 70]), np.array([35, 140, 140]), np.array([250, 230, 40])
    return np.where(u < 0.5, a + (b - a) * 2 * u, b + (c - b) * (2 * u - 1)).astype(np.uint8)


def save(picture: Picture, path: Path, side: int = 160) -> None:
    """PNG, enlarged by whole pixels to about `side`."""
    from PIL import Image

    times = max(1, side // max(picture.shape[:2]))
    Image.fromarray(picture.repeat(times, 0).repeat(times, 1)).save(path)


@torch.no_grad()
def draw_chips(ready: Prepared, scores: Any, folder: Path, count: int) -> list[dict[str, Any]]:
    """The best and the worst samples of the test split, with their own scores."""
    if not hasattr(scores, "per_sample"):
        return []
    own = {k: v for k, v in scores.per_sample().items() if v == v}
    order = sorted(own, key=lambda k: -own[k])
    n = min(count, len(order) // 2)
    wanted = {k: "best" for k in order[:n]} | {k: "worst" for k in order[len(order) - n :]}
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for i in ready.splits.test:
        batch = ready.source.sample(i, ready.bands)
        name = names_of(batch)[0]
        if name in wanted:
            rows.append({"name": name, "rank": wanted.pop(name), "score": own[name], **_draw(ready, batch, folder, i)})
    return sorted(rows, key=lambda r: -float(r["score"]))


def _draw(ready: Prepared, batch: Batch, folder: Path, i: int) -> dict[str, Any]:
    task, label = ready.task, batch.labels[ready.label.name]
    told = task.predict(batch)
    files: dict[str, Any] = {"image": f"{i}-image.png"}
    save(view(batch), folder / files["image"])
    if isinstance(task, Classes) and task.dense:
        files |= {"truth": f"{i}-truth.png", "told": f"{i}-told.png"}
        save(classes_picture(label.value[0], label.valid[0], ready.label), folder / files["truth"])
        save(classes_picture(told["classes"][0], None, ready.label), folder / files["told"])
    elif isinstance(task, Values) and task.dense and label.kind == "map":
        files |= {"truth": f"{i}-truth.png", "told": f"{i}-told.png"}
        y = label.value[0, 0]
        low, high = float(y.min()), float(y.max())
        save(values_picture(y, low, high), folder / files["truth"])
        save(values_picture(told["values"][0, 0], low, high), folder / files["told"])
    elif isinstance(task, Fields):
        files |= {"truth": f"{i}-truth.png", "told": f"{i}-told.png"}
        three, mask = LabelSpec("", "mask", CLASSES, ("#404040", "#9acd6b", "#ffffff")), as_mask(label, task.border)
        save(classes_picture(mask.value[0], mask.valid[0], three), folder / files["truth"])
        save(classes_picture(told["classes"][0], None, three), folder / files["told"])
    elif isinstance(task, Objects):
        files |= {"truth": f"{i}-truth.png", "told": f"{i}-told.png"}
        size, objects = label.value[0].tolist(), label.objects[0]
        sure = told["scores"][0] >= 0.5
        save(objects_picture(view(batch), objects.xyxy, objects.masks, size), folder / files["truth"])
        masks = told["masks"][0][sure] if "masks" in told else None
        save(objects_picture(view(batch), told["boxes"][0][sure], masks, size), folder / files["told"])
    elif label.kind == "image":
        files |= {"truth": f"{i}-truth.png", "told": f"{i}-told.png"}
        for role, value in (("truth", label.value[0]), ("told", told["values"][0])):
            save(image_picture(value, label.value[0], ready.label.classes), folder / files[role])
    else:
        files["caption"] = _words(label, told, ready.label)
    return files


def _words(label: Label, told: Mapping[str, Tensor], spec: LabelSpec) -> str:
    """What is true and what was said of a whole chip."""
    if label.kind == "class":
        return f"{spec.classes[int(label.value[0])]} → {spec.classes[int(told['classes'][0])]}"
    if label.kind == "tags":
        rows = (label.value[0] > 0.5, told["tags"][0])
        names = [", ".join(c for c, v in zip(spec.classes, r.tolist(), strict=True) if v) or "nothing" for r in rows]
        return f"{names[0]} → {names[1]}"
    return f"{float(label.value[0]):.3g} → {float(told['values'][0]):.3g} {spec.unit}"
