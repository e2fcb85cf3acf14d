"""The form of a sample: which arrays it has, in which order its chunks lie. Most samples of a source share one form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from swath.core.batch import Batch, Boxes, Label, Layer
from swath.core.contracts import LabelSpec
from swath.core.errors import UserError
from swath.core.sensor import Band, Sensor
from swath.data.streams.codec import Pixels, shrink, smallest


@dataclass(frozen=True)
class LayerForm:
    """A layer's arrays: its bands (C of them, T x H x W each), and `valid` where not all is valid."""

    id: str
    steps: int
    height: int
    width: int
    dtype: str
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    all_valid: bool
    dated: bool
    wide: str


@dataclass(frozen=True)
class LabelForm:
    """A label's arrays: value, `valid` where not all is valid, and for boxes xyxy, classes and masks."""

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    wide: str
    valid_shape: tuple[int, ...]
    all_valid: bool
    boxes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Form:
    """Layers and labels in order."""

    layers: tuple[LayerForm, ...]
    labels: tuple[LabelForm, ...]

    def text(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))


@dataclass(frozen=True)
class Slot:
    """One chunk: of which layer or label, what of it, and its array's shape and type."""

    of: str
    what: str
    shape: tuple[int, ...]
    dtype: str
    band: int = -1


@lru_cache(maxsize=4096)
def read_form(text: str) -> Form:
    """A form from its text."""
    data = json.loads(text)
    return Form(
        tuple(LayerForm(**_tuples(x, ("scale", "offset"))) for x in data["layers"]),
        tuple(LabelForm(**_tuples(x, ("shape", "valid_shape", "boxes"))) for x in data["labels"]),
    )


def _tuples(data: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {k: tuple(v) if k in names else v for k, v in data.items()}


@lru_cache(maxsize=4096)
def slots(form: Form, bands: tuple[tuple[str, int], ...]) -> tuple[Slot, ...]:
    """The chunks of a form after the head; `bands` says how many each sensor has."""
    count, out = dict(bands), list[Slot]()
    for x in form.layers:
        size = (x.steps, x.height, x.width)
        if not x.all_valid:
            out.append(Slot(x.id, "valid", size, "bool"))
        out += [Slot(x.id, "band", size, x.dtype, i) for i in range(count[x.id])]
    for y in form.labels:
        out.append(Slot(y.name, "value", y.shape, y.dtype))
        if not y.all_valid:
            out.append(Slot(y.name, "label valid", y.valid_shape, "bool"))
        if y.boxes:
            out += [Slot(y.name, "xyxy", (y.boxes[0], 4), "float32"), Slot(y.name, "classes", (y.boxes[0],), "int64")]
            if len(y.boxes) == 3:
                out.append(Slot(y.name, "masks", y.boxes, "bool"))
    return tuple(out)


def take_apart(batch: Batch, sensors: Mapping[str, Sensor]) -> tuple[dict[str, Any], Form, list[Pixels]]:
    """A sample (B = 1) as head, form and arrays in the order of the form's slots."""
    arrays: list[Pixels] = []
    layers: list[LayerForm] = []
    times: dict[str, list[int]] = {}
    for id_, layer in batch.layers.items():
        if layer.sensor.names != sensors[id_].names:
            raise UserError(f"the bands {layer.sensor.names} are not the source's {sensors[id_].names}", where=id_)
        _, t, c, h, w = layer.shape
        x = layer.x[0].numpy().transpose(1, 0, 2, 3)
        valid = layer.valid[0, :, 0].numpy()
        kept, how = shrink(x, valid[None], [(b.scale, b.offset) for b in layer.sensor.bands])
        whole = bool(valid.all())
        if not whole:
            arrays.append(valid)
        arrays += [kept[i] for i in range(c)]
        if layer.times is not None:
            times[id_] = layer.times[0].tolist()
        layers.append(
            LayerForm(id_, t, h, w, how.dtype, how.scale, how.offset, whole, layer.times is not None, str(x.dtype))
        )
    labels: list[LabelForm] = []
    for name, label in batch.labels.items():
        labels.append(_label_form(name, label, arrays))
    where = batch.where
    grid = where.grids[0] if where.grids else None
    head = {
        "n": where.names[0] if where.names else None,
        "g": None if grid is None else [grid.crs, list(grid.affine), list(grid.shape)],
        "t": times,
    }
    return head, Form(tuple(layers), tuple(labels)), arrays


def _label_form(name: str, label: Label, arrays: list[Pixels]) -> LabelForm:
    value, valid = label.value[0].numpy(), label.valid[0].numpy()
    kind = smallest(value) if value.dtype.kind in "iu" else str(value.dtype)
    arrays.append(np.asarray(value).astype(kind))
    whole = bool(valid.all())
    if not whole:
        arrays.append(np.asarray(valid))
    boxes: tuple[int, ...] = ()
    if label.kind == "boxes":
        one = label.objects[0]
        arrays += [one.xyxy.numpy().astype(np.float32), one.classes.numpy().astype(np.int64)]
        boxes = (len(one.classes),)
        if one.masks is not None:
            arrays.append(one.masks.numpy())
            boxes = (int(one.masks.shape[0]), int(one.masks.shape[1]), int(one.masks.shape[2]))
    return LabelForm(name, label.kind, value.shape, kind, str(value.dtype), valid.shape, whole, boxes)


def boxes_of(form: LabelForm, parts: Mapping[str, Pixels]) -> tuple[Boxes, ...]:
    """The objects of a label; () for other kinds."""
    if form.kind != "boxes":
        return ()
    masks = torch.from_numpy(parts["masks"]) if "masks" in parts else None
    return (Boxes(torch.from_numpy(parts["xyxy"]), torch.from_numpy(parts["classes"]), masks),)


def sensor_plain(sensor: Sensor) -> dict[str, Any]:
    """A sensor as JSON (infinite bounds as null)."""
    data = asdict(sensor)
    for band in data["bands"]:
        band["low"] = None if band["low"] == -np.inf else band["low"]
        band["high"] = None if band["high"] == np.inf else band["high"]
    return data


def sensor_from(data: Mapping[str, Any]) -> Sensor:
    """Undo `sensor_plain`."""
    bands: list[Band] = []
    for b in data["bands"]:
        known: dict[str, Any] = {**b, "aliases": tuple(b["aliases"])}
        known["low"] = -np.inf if known["low"] is None else known["low"]
        known["high"] = np.inf if known["high"] is None else known["high"]
        bands.append(Band(**known))
    classes = tuple((int(k), str(v)) for k, v in data["classes"])
    whole: dict[str, Any] = {**data, "bands": tuple(bands), "classes": classes}
    return Sensor(**whole)


def label_from(data: Mapping[str, Any]) -> LabelSpec:
    """A label's specification from JSON."""
    whole: dict[str, Any] = {**data, "classes": tuple(data["classes"]), "colours": tuple(data["colours"])}
    return LabelSpec(**whole)


def empty_layer(sensor: Sensor, form: LayerForm, times: Sequence[int] | None) -> Layer:
    """A layer of which nothing is known."""
    shape = (1, form.steps, len(sensor.bands), form.height, form.width)
    valid = torch.zeros((1, form.steps, 1, form.height, form.width), dtype=torch.bool)
    days = None if times is None else torch.tensor([list(times)], dtype=torch.int64)
    return Layer(sensor, torch.zeros(shape), valid, days)
