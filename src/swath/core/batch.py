"""Layer, Label and Batch: the one sample type of the house. A sample is a Batch with B = 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from swath.core.errors import UserError
from swath.core.grid import Grid
from swath.core.label_kinds import LabelKind
from swath.core.sensor import Sensor

_LABEL_DIMS: dict[str, int] = {"class": 1, "tags": 2, "mask": 3, "map": 4, "scalar": 1, "image": 4}
S = TypeVar("S", "Layer", "Label", "Where")


def _refuse(what: str, where: str) -> None:
    raise UserError(what, where=where)


@dataclass(frozen=True, eq=False)
class Layer:
    """One sensor's stack: `x (B, T, C, H, W)` in physical units, `valid` bool `(B, T, 1, H, W)`.

    `times` are int64 days since 1970-01-01, `(B, T)`, or None when the product has no date. Where a timestep is
    invalid everywhere (a padded or missing date) its x and its time mean nothing. Non-finite x is refused
    wherever `valid` holds, so a NaN can only be where nothing is claimed; use `Layer.of` to build from raw values.
    """

    sensor: Sensor
    x: Tensor
    valid: Tensor
    times: Tensor | None = None

    def __post_init__(self) -> None:
        where = f"layer {self.sensor.id}"
        if self.x.ndim != 5:
            _refuse(f"x must be (B, T, C, H, W); it has the shape {tuple(self.x.shape)}", where)
        b, t, c, h, w = self.x.shape
        if c != len(self.sensor.bands):
            _refuse(
                f"x has {c} channels for {len(self.sensor.bands)} bands: {', '.join(self.sensor.names)}",
                where,
            )
        if not self.x.is_floating_point():
            _refuse(f"x must be floating point in physical units, not {self.x.dtype}", where)
        if tuple(self.valid.shape) != (b, t, 1, h, w) or self.valid.dtype != torch.bool:
            _refuse(
                f"valid must be bool {(b, t, 1, h, w)}, not {self.valid.dtype} {tuple(self.valid.shape)}",
                where,
            )
        if self.times is not None and (tuple(self.times.shape) != (b, t) or self.times.dtype != torch.int64):
            _refuse(f"times must be int64 {(b, t)}, not {self.times.dtype} {tuple(self.times.shape)}", where)

    @classmethod
    def of(cls, sensor: Sensor, x: Tensor, valid: Tensor | None = None, times: Tensor | None = None) -> Layer:
        """A layer from values that may hold NaN or inf: those pixels become invalid, and x is zero there."""
        if x.ndim != 5:
            _refuse(f"x must be (B, T, C, H, W); it has the shape {tuple(x.shape)}", f"layer {sensor.id}")
        finite = torch.isfinite(x).all(dim=2, keepdim=True)
        valid = finite if valid is None else valid & finite
        return cls(sensor, torch.where(valid, x, torch.zeros((), dtype=x.dtype)), valid, times)

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        b, t, c, h, w = self.x.shape
        return b, t, c, h, w

    def select(self, names: Sequence[str]) -> Layer:
        """These bands in this order."""
        index = [self.sensor.index(n) for n in names]
        return replace(self, sensor=self.sensor.select(names), x=self.x[:, :, index])


@dataclass(frozen=True, eq=False)
class Boxes:
    """Objects of one sample: `xyxy` float (N, 4) in pixels, `classes` int64 (N,), `masks` bool (N, H, W) or None."""

    xyxy: Tensor
    classes: Tensor
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        n = len(self.classes)
        if tuple(self.xyxy.shape) != (n, 4) or (self.masks is not None and len(self.masks) != n):
            _refuse(f"{n} classes for boxes of shape {tuple(self.xyxy.shape)}", "boxes")


@dataclass(frozen=True, eq=False)
class Label:
    """What is to be known. `kind` fixes the shape:

    class (B,) int64 · tags (B, K) float · mask (B, H, W) int64 · map (B, K, H, W) float · scalar (B,) float ·
    image (B, C, H, W) float · boxes: `objects`, one Boxes a sample (value (B, 2) holds each sample's H, W).
    `valid` is bool of the value's shape (map and image: (B, 1, H, W)); an ignored pixel is invalid, not a number.
    """

    kind: LabelKind
    value: Tensor
    valid: Tensor
    objects: tuple[Boxes, ...] = ()

    def __post_init__(self) -> None:
        where = f"label of kind {self.kind}"
        if self.kind == "boxes":
            if len(self.objects) != len(self.value):
                _refuse(f"{len(self.objects)} sets of boxes for {len(self.value)} samples", where)
            return
        if self.value.ndim != _LABEL_DIMS[self.kind]:
            _refuse(f"value has {self.value.ndim} dimensions; {_LABEL_DIMS[self.kind]} are needed", where)
        if self.kind in ("class", "mask") and self.value.dtype != torch.int64:
            _refuse(f"value must be int64, not {self.value.dtype}", where)
        want = list(self.value.shape)
        if self.kind in ("map", "image"):
            want[1] = 1
        if list(self.valid.shape) != want or self.valid.dtype != torch.bool:
            _refuse(f"valid must be bool {tuple(want)}, not {self.valid.dtype} {tuple(self.valid.shape)}", where)

    def __len__(self) -> int:
        return len(self.value)


@dataclass(frozen=True, eq=False)
class Where:
    """Which samples: `key` int64 (B,), unique per data set; `lonlat` float64 (B, 2), NaN where unknown; grids."""

    key: Tensor
    lonlat: Tensor
    grids: tuple[Grid | None, ...] = ()
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        b = len(self.key)
        if self.key.dtype != torch.int64 or self.key.ndim != 1:
            _refuse(f"key must be int64 (B,), not {self.key.dtype} {tuple(self.key.shape)}", "where")
        if tuple(self.lonlat.shape) != (b, 2) or self.lonlat.dtype != torch.float64:
            _refuse(
                f"lonlat must be float64 ({b}, 2), not {self.lonlat.dtype} {tuple(self.lonlat.shape)}",
                "where",
            )
        for word, seq in (("grids", self.grids), ("names", self.names)):
            if seq and len(seq) != b:
                _refuse(f"{len(seq)} {word} for {b} samples", "where")

    @classmethod
    def unknown(cls, b: int) -> Where:
        """Samples 0..b-1 at unknown places."""
        return cls(torch.arange(b), torch.full((b, 2), float("nan"), dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class Batch:
    """Layers by sensor id, each at its own gsd; where the samples are; labels by name."""

    layers: Mapping[str, Layer]
    where: Where
    labels: Mapping[str, Label] = field(default_factory=dict[str, Label])

    def __post_init__(self) -> None:
        b = len(self.where.key)
        for name, part in [*self.layers.items(), *self.labels.items()]:
            n = len(part) if isinstance(part, Label) else part.x.shape[0]
            if n != b:
                _refuse(f"'{name}' holds {n} samples, the batch {b}", "batch")
        for name, layer in self.layers.items():
            if name != layer.sensor.id:
                _refuse(f"a layer of {layer.sensor.id} stands under the name '{name}'", "batch")

    def __len__(self) -> int:
        return len(self.where.key)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Batch:
        """A part of the samples (an int keeps B = 1)."""
        rows = torch.arange(len(self))[[index] if isinstance(index, int) else index]
        ids = [int(i) for i in rows]
        return Batch(
            {k: _take(v, rows, ids) for k, v in self.layers.items()},
            _take(self.where, rows, ids),
            {k: _take(v, rows, ids) for k, v in self.labels.items()},
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Apply to the pixel tensors (x, valid, label values): dates, keys and coordinates stay as they are."""
        layers = {k: replace(v, x=change(v.x), valid=change(v.valid)) for k, v in self.layers.items()}
        labels = {k: replace(v, value=change(v.value), valid=change(v.valid)) for k, v in self.labels.items()}
        return Batch(layers, self.where, labels)

    def to(self, device: torch.device | str) -> Batch:
        """Move everything to a device; no dtype ever changes here."""
        return Batch(
            {k: _each(v, lambda t: t.to(device, non_blocking=True)) for k, v in self.layers.items()},
            _each(self.where, lambda t: t.to(device, non_blocking=True)),
            {k: _each(v, lambda t: t.to(device, non_blocking=True)) for k, v in self.labels.items()},
        )


def _each(part: S, change: Callable[[Tensor], Tensor]) -> S:
    new: dict[str, Any] = {f.name: change(v) for f in fields(part) if isinstance(v := getattr(part, f.name), Tensor)}
    if isinstance(part, Label) and part.objects:
        new["objects"] = tuple(
            Boxes(change(o.xyxy), change(o.classes), None if o.masks is None else change(o.masks)) for o in part.objects
        )
    return replace(part, **new)


def _take(part: S, rows: Tensor, ids: list[int]) -> S:
    new: dict[str, Any] = {f.name: v[rows] for f in fields(part) if isinstance(v := getattr(part, f.name), Tensor)}
    if isinstance(part, Label) and part.objects:
        new["objects"] = tuple(part.objects[i] for i in ids)
    if isinstance(part, Where):
        new["grids"] = tuple(part.grids[i] for i in ids) if part.grids else ()
        new["names"] = tuple(part.names[i] for i in ids) if part.names else ()
    return replace(part, **new)


def _pad_time(layer: Layer, steps: int) -> Layer:
    b, t, c, h, w = layer.shape
    if t == steps:
        return layer
    x = torch.cat([layer.x, layer.x.new_zeros(b, steps - t, c, h, w)], 1)
    valid = torch.cat([layer.valid, layer.valid.new_zeros(b, steps - t, 1, h, w)], 1)
    times = None if layer.times is None else torch.cat([layer.times, layer.times.new_zeros(b, steps - t)], 1)
    return Layer(layer.sensor, x, valid, times)


def _missing(like: Layer, b: int) -> Layer:
    _, t, c, h, w = like.shape
    times = None if like.times is None else like.times.new_zeros(b, t)
    return Layer(like.sensor, like.x.new_zeros(b, t, c, h, w), like.valid.new_zeros(b, t, 1, h, w), times)


def collate(samples: Sequence[Batch]) -> Batch:
    """Concatenate. Shorter series are padded with invalid timesteps, an absent sensor becomes an invalid layer.

    Different sizes, bands or label kinds are refused: they would mean different things in one tensor.
    """
    if not samples:
        raise UserError("there is nothing to collate: the list of samples is empty")
    layers = {n: _join_layers(n, samples) for n in dict.fromkeys(n for s in samples for n in s.layers)}
    labels = {n: _join_labels(n, samples) for n in dict.fromkeys(n for s in samples for n in s.labels)}
    parts = [s.where for s in samples]
    where = Where(
        torch.cat([p.key for p in parts]),
        torch.cat([p.lonlat for p in parts]),
        tuple(g for p in parts for g in (p.grids or (None,) * len(p.key))) if any(p.grids for p in parts) else (),
        tuple(g for p in parts for g in (p.names or ("",) * len(p.key))) if any(p.names for p in parts) else (),
    )
    return Batch(layers, where, labels)


def _join_layers(name: str, samples: Sequence[Batch]) -> Layer:
    like = next(s.layers[name] for s in samples if name in s.layers)
    present = [s.layers[name] if name in s.layers else _missing(like, len(s)) for s in samples]
    for layer in present:
        if layer.sensor != like.sensor:
            _refuse(f"bands {layer.sensor.names} beside {like.sensor.names}", f"collate, layer {name}")
        if layer.shape[3:] != like.shape[3:]:
            _refuse(
                f"sizes {layer.shape[3:]} beside {like.shape[3:]}: crop or resample first",
                f"collate, layer {name}",
            )
        if (layer.times is None) != (like.times is None):
            _refuse("some samples have dates, others none", f"collate, layer {name}")
    steps = max(layer.shape[1] for layer in present)
    padded = [_pad_time(layer, steps) for layer in present]
    times = None if like.times is None else torch.cat([p.times for p in padded if p.times is not None])
    return Layer(like.sensor, torch.cat([p.x for p in padded]), torch.cat([p.valid for p in padded]), times)


def _join_labels(name: str, samples: Sequence[Batch]) -> Label:
    like = next(s.labels[name] for s in samples if name in s.labels)
    present: list[Label] = []
    for s in samples:
        label = s.labels.get(name)
        if label is None:
            value, valid = (v.new_zeros((len(s), *v.shape[1:])) for v in (like.value, like.valid))
            label = Label(like.kind, value, valid, (_no_objects(like),) * len(s) if like.kind == "boxes" else ())
        if label.kind != like.kind or label.value.shape[1:] != like.value.shape[1:]:
            _refuse(
                f"{label.kind} {tuple(label.value.shape[1:])} beside {like.kind} {tuple(like.value.shape[1:])}",
                f"collate, label {name}",
            )
        present.append(label)
    objects = tuple(o for p in present for o in p.objects)
    return Label(like.kind, torch.cat([p.value for p in present]), torch.cat([p.valid for p in present]), objects)


def _no_objects(like: Label) -> Boxes:
    one = like.objects[0]
    return Boxes(one.xyxy[:0], one.classes[:0], None if one.masks is None else one.masks[:0])
