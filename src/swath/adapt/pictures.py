"""Chips as pictures: what the model saw, what is true, what it said. PNG files for the report."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swath.adapt.fields import CLASSES, Fields, as_mask
from swath.adapt.heads import Classes, Values
from swath.adapt.metrics import names_of
from swath.adapt.objects import Objects
from swath.adapt.prepare import Prepared
from swath.core.batch import Batch, Label, Layer
from swath.core.contracts import LabelSpec
from swath.data.picture import Picture, finest, limits, save, seen, stretch, three

SIDE = 160


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
    chosen = three(bands, len(value))
    together = {"red", "green"} <= set(bands)
    return stretch(value.numpy()[chosen], *limits(like.numpy()[chosen], together))


def values_picture(values: Tensor, low: float, high: float) -> Picture:
    """A value map, dark (low) to yellow (high)."""
    u = np.clip((values.numpy() - low) / max(high - low, 1e-9), 0, 1)[..., None]
    a, b, c = np.array([30, 15, 70]), np.array([35, 140, 140]), np.array([250, 230, 40])
    return np.where(u < 0.5, a + (b - a) * 2 * u, b + (c - b) * (2 * u - 1)).astype(np.uint8)


@torch.no_grad()
def draw_chips(ready: Prepared, scores: Any, folder: Path, count: int) -> list[dict[str, Any]]:
    """The best and the worst samples of the test split, with their own scores."""
    if not hasattr(scores, "per_sample"):
        return []
    own = {k: v for k, v in scores.per_sample().items() if v == v}
    order = sorted(own, key=lambda k: -own[k])
    n = min(count, len(order) // 2)
    wanted = {k: "best" for k in order[: n or 1]} | {k: "worst" for k in order[len(order) - n :]}
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for i in ready.splits.test:
        batch = ready.source.sample(i, ready.bands)
        name = names_of(batch)[0]
        if name in wanted:
            row = {"name": name, "rank": wanted.pop(name), "score": own[name]}
            if scores.direction == "min":  # an error: the best is the smallest
                row["measure"] = f"{scores.primary} {-own[name]:.3g}"
            rows.append({**row, **_draw(ready, batch, folder, i)})
    return sorted(rows, key=lambda r: -float(r["score"]))


def _draw(ready: Prepared, batch: Batch, folder: Path, i: int) -> dict[str, Any]:
    told, label = ready.task.predict(batch), batch.labels[ready.label.name]
    drawn = {**_dates(finest(batch), ready.task.every_date), **_answers(ready, batch, told)}
    files: dict[str, Any] = {role: save(p, folder / f"{i}-{role}.png", SIDE) for role, p in drawn.items()}
    files |= _key(ready, label, told)
    return files if "told" in files else {**files, "caption": _words(label, told, ready.label)}


def _dates(layer: Layer, every: bool) -> dict[str, Picture]:
    """What was seen; of a change its first and its last date, stretched alike."""
    if not every or layer.shape[1] < 2:
        return {"image": seen(layer)}
    both = replace(layer, x=layer.x[:, [0, -1]], valid=layer.valid[:, [0, -1]], times=None)
    wide = replace(both, x=torch.cat([*both.x[0]], -1)[None, None], valid=torch.cat([*both.valid[0]], -1)[None, None])
    before, after = np.split(seen(wide), 2, axis=1)
    return {"image": before, "after": after}


def _key(ready: Prepared, label: Label, told: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the colours mean: of the classes that a chip shows, or from its lowest to its highest value."""
    task = ready.task
    if isinstance(task, Fields) or (isinstance(task, Classes) and task.dense):
        spec = FIELDS if isinstance(task, Fields) else ready.label
        truth = as_mask(label, task.border) if isinstance(task, Fields) else label
        shown = sorted({*truth.value[truth.valid].tolist(), *told["classes"].flatten().tolist()})
        colours = palette(spec)
        return {"colours": {spec.classes[c]: "#{:02x}{:02x}{:02x}".format(*colours[c]) for c in shown}}
    if isinstance(task, Values) and task.dense and label.kind == "map":
        low, high = _span(label)
        return {"span": [low, high, ready.label.unit]}
    return {}


def _span(label: Label) -> tuple[float, float]:
    """The lowest and the highest of a chip's values that are known."""
    known = label.value[0, 0][label.valid[0, 0]]
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)


FIELDS = LabelSpec("", "mask", CLASSES, ("#404040", "#9acd6b", "#ffffff"))


def _answers(ready: Prepared, batch: Batch, told: Mapping[str, Tensor]) -> dict[str, Picture]:
    """What is true and what was said, where these are pictures."""
    task, label = ready.task, batch.labels[ready.label.name]
    if isinstance(task, Classes) and task.dense:
        return {
            "truth": classes_picture(label.value[0], label.valid[0], ready.label),
            "told": classes_picture(told["classes"][0], None, ready.label),
        }
    if isinstance(task, Values) and task.dense and label.kind == "map":
        (low, high), known = _span(label), label.valid[0, 0].numpy()
        truth = values_picture(label.value[0, 0], low, high)
        truth[~known] = 255
        return {"truth": truth, "told": values_picture(told["values"][0, 0], low, high)}
    if isinstance(task, Fields):
        kinds, mask = FIELDS, as_mask(label, task.border)
        return {
            "truth": classes_picture(mask.value[0], mask.valid[0], kinds),
            "told": classes_picture(told["classes"][0], None, kinds),
        }
    if isinstance(task, Objects):
        size, objects, view = label.value[0].tolist(), label.objects[0], seen(finest(batch))
        sure = told["scores"][0] >= 0.5
        masks = told["masks"][0][sure] if "masks" in told else None
        return {
            "truth": objects_picture(view, objects.xyxy, objects.masks, size),
            "told": objects_picture(view, told["boxes"][0][sure], masks, size),
        }
    if label.kind == "image":
        like, bands = label.value[0], ready.label.classes
        return {"truth": image_picture(like, like, bands), "told": image_picture(told["values"][0], like, bands)}
    return {}


def _words(label: Label, told: Mapping[str, Tensor], spec: LabelSpec) -> str:
    """What is true and what was said of a whole chip."""
    if label.kind == "class":
        return f"{spec.classes[int(label.value[0])]} → {spec.classes[int(told['classes'][0])]}"
    if label.kind == "tags":
        rows = (label.value[0] > 0.5, told["tags"][0])
        names = [", ".join(c for c, v in zip(spec.classes, r.tolist(), strict=True) if v) or "nothing" for r in rows]
        return f"{names[0]} → {names[1]}"
    return f"{float(label.value[0]):.3g} → {float(told['values'][0]):.3g} {spec.unit}"
