"""Stored numbers to physical ones: x = convert(stored * scale + offset), with `valid` where something was observed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swath.core.batch import Label, Layer
from swath.core.errors import UserError
from swath.core.sensor import Sensor
from swath.core.units import convert
from swath.data.card import Card, LabelCard, LayerCard

Pixels = NDArray[Any]
HIDDEN = 0.25
"""Share of a pixel that clouds may cover before it counts as not observed."""


@dataclass(frozen=True)
class Storage:
    """How one layer is stored: `sensor` has the bands to read, `index` where each stands among the card's bands."""

    sensor: Sensor
    card: LayerCard
    index: tuple[int, ...]

    @classmethod
    def of(cls, card: Card, layer: LayerCard, names: Sequence[str] | None = None) -> Storage:
        """For all bands of the layer, or these in this order. Every sample asks, so answers are kept."""
        key = (id(card), id(layer), None if names is None else tuple(names))
        kept = _KEPT.get(key)
        if kept is None or kept[0] is not card or kept[1].card is not layer:
            if len(_KEPT) >= MOST_KEPT:
                _KEPT.clear()
            kept = _KEPT[key] = (card, cls._made(card, layer, names))
        return kept[1]

    @classmethod
    def _made(cls, card: Card, layer: LayerCard, names: Sequence[str] | None) -> Storage:
        sensor = card.stored(layer)
        if names is not None:
            sensor = sensor.select(names)
        full = card.sensor(layer.sensor)
        place = {full.band(b).name: i for i, b in enumerate(layer.bands) if b != "-"}
        return cls(sensor, layer, tuple(place[b.name] for b in sensor.bands))

    def channels(self) -> list[list[int]]:
        """Stored channels (0-based) per timestep."""
        return self.card.positions(self.index)

    def nodata(self, found: float | None) -> float | None:
        """The value that means `nothing observed`: the card's, else the file's, else the sensor's."""
        if self.card.nodata is not None:
            return self.card.nodata
        return found if found is not None else self.sensor.nodata


_KEPT: dict[tuple[int, int, tuple[str, ...] | None], tuple[Card, Storage]] = {}
"""Held with its card: an id is only unique while its object lives."""
MOST_KEPT = 256


def observed(raw: Pixels, nodata: float | None) -> Pixels:
    """Where every band along axis -3 holds a number that is not nodata; keeps that axis as 1."""
    good = np.ones(raw.shape, dtype=bool) if raw.dtype.kind in "iub" else np.isfinite(raw)
    if nodata is not None and np.isfinite(nodata):
        good &= raw != nodata
    return np.asarray(good.all(axis=-3, keepdims=True))


def physical(raw: Pixels, storage: Storage, nodata: float | None) -> tuple[Tensor, Tensor]:
    """Stored pixels (..., C, H, W) as float32 in the bands' own units, and valid (..., 1, H, W)."""
    card, bands = storage.card, storage.sensor.bands
    own = card.scale is None and card.offset is None and not card.unit
    shape = (len(bands), 1, 1)
    if own:
        scale = np.array([b.scale for b in bands], dtype=np.float64).reshape(shape)
        offset = np.array([b.offset for b in bands], dtype=np.float64).reshape(shape)
    else:
        scale = np.full(shape, 1.0 if card.scale is None else card.scale)
        offset = np.full(shape, card.offset or 0.0)
    valid = observed(raw, nodata)
    with np.errstate(all="ignore"):
        if np.all(scale == 1.0) and np.all(offset == 0.0):
            x = raw.astype(np.float32)
        else:
            x = raw * scale.astype(np.float32)
            x += offset.astype(np.float32)
            x = x.astype(np.float32, copy=False)
    tensor = torch.from_numpy(np.ascontiguousarray(x))
    if card.unit:
        for i, band in enumerate(bands):
            if band.unit != card.unit:
                where = f"layer {storage.sensor.id}, band {band.name}"
                tensor[..., i, :, :] = convert(tensor[..., i, :, :], card.unit, band.unit, where=where)
    return tensor, torch.from_numpy(np.ascontiguousarray(valid))


def layer_of(
    stack: Pixels,
    storage: Storage,
    nodata: float | None,
    times: Sequence[int] | None = None,
    seen: Pixels | None = None,
) -> Layer:
    """A Layer (B = 1) from stored pixels (T, C, H, W), `seen` (T, 1, H, W) or not; `times` in days since the epoch."""
    x, valid = physical(stack, storage, nodata)
    if seen is not None:
        valid &= torch.from_numpy(seen)
    days = None if times is None else torch.tensor([list(times)], dtype=torch.int64)
    if bool(valid.all()) and math.isfinite(float(x.sum())):  # nothing to hide: no further copy
        return Layer(storage.sensor, x[None], valid[None], days)
    return Layer.of(storage.sensor, x[None], valid[None], days)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{v:g}" for v in values[:6]) + (", ..." if len(values) > 6 else "")


def _present(values: Pixels) -> list[int]:
    """The distinct whole numbers, sorted; counting a few small ones is several times faster than sorting them all."""
    if values.size and values.min() >= 0 and values.max() < 1 << 16:
        return np.flatnonzero(np.bincount(values.ravel())).tolist()
    return np.unique(values).tolist()


def mask_label(raw: Pixels, card: LabelCard, where: str, nodata: float | None = None) -> Label:
    """A class raster (H, W) as a mask. A value that is neither in the legend nor ignored is refused by name."""
    if raw.ndim != 2:
        raise UserError(f"a mask has one band, this has the shape {raw.shape}", where=where)
    if raw.dtype.kind == "f":
        whole = np.isfinite(raw)
        if not np.array_equal(np.where(whole, raw, 0), np.round(np.where(whole, raw, 0))):
            raise UserError(
                "a mask holds classes, but there are fractions in it",
                where=where,
                remedy=f'say kind = "map" for the label {card.name} if its values are quantities',
            )
        ignored = ~whole
        values = np.where(whole, raw, 0).astype(np.int64)
    else:
        ignored, values = np.zeros(raw.shape, dtype=bool), raw.astype(np.int64)
    for ignore in card.ignore:
        ignored |= values == int(ignore)
    legend = card.legend
    if nodata is not None and np.isfinite(nodata) and int(nodata) not in legend:
        ignored |= values == int(nodata)
    out = values
    if legend:
        unknown = [v for v in _present(values[~ignored] if ignored.any() else values) if v not in legend]
        if unknown:
            raise UserError(
                f"the label holds {_listed(unknown)}, which the legend of '{card.name}' does not know "
                f"(it has {_listed(sorted(legend))})",
                where=where,
                remedy="add the value to the card's classes or values, or to `ignore`",
            )
        if card.values:
            out = np.zeros_like(values)
            for stored, index in legend.items():
                out[values == stored] = index
    out = np.where(ignored, 0, out)
    return Label("mask", torch.from_numpy(out)[None], torch.from_numpy(~ignored)[None])


def map_label(raw: Pixels, card: LabelCard, nodata: float | None = None) -> Label:
    """A quantity raster (K, H, W) as a map in the label's unit; nodata, ignored and non-finite are invalid."""
    x = raw.astype(np.float64)
    good = np.isfinite(x)
    for value in (*card.ignore, *(() if nodata is None else (nodata,))):
        good &= x != value
    x = np.where(good, x * card.scale + card.offset, 0.0).astype(np.float32)
    valid = good.all(axis=0, keepdims=True)
    return Label("map", torch.from_numpy(x)[None], torch.from_numpy(valid)[None])


def image_label(raw: Pixels, card: LabelCard, nodata: float | None = None) -> Label:
    """An image (K, H, W) on a grid of its own, in the label's unit; a pixel counts where all its bands are known."""
    found = map_label(raw, card, nodata)
    return Label("image", found.value, found.valid)


def class_label(value: object, card: LabelCard, where: str) -> Label:
    """One class by name, or by stored value."""
    index: int | None = None
    if isinstance(value, str) and value in card.classes:
        index = card.classes.index(value)
    elif not isinstance(value, str) or value.lstrip("-").isdigit():
        number = int(float(str(value)))
        if float(number) in card.ignore:
            return Label("class", torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool))
        index = card.legend.get(number) if card.legend else number
    if index is None:
        raise UserError(
            f"the label holds '{value}', which is none of the {len(card.classes)} classes of '{card.name}'",
            where=where,
            remedy=f"known: {', '.join(card.classes[:12])}",
        )
    return Label("class", torch.tensor([index]), torch.ones(1, dtype=torch.bool))


def tags_label(values: Sequence[object], card: LabelCard, where: str) -> Label:
    """Several classes by name or index; or a 0/1 vector as long as the classes."""
    n = len(card.classes)
    x = torch.zeros(1, n)
    listed = list(values)
    numbers = bool(listed) and all(not isinstance(v, str) for v in listed)
    if numbers and len(listed) == n and set(listed) <= {0, 1}:
        x[0] = torch.tensor([float(str(int(bool(v)))) for v in listed])
    else:
        for value in listed:
            x[0, int(class_label(value, card, where).value[0])] = 1.0
    return Label("tags", x, torch.ones(1, n, dtype=torch.bool))


def scalar_label(value: float | None, card: LabelCard) -> Label:
    """One number; None, NaN and ignored values are invalid."""
    good = value is not None and bool(np.isfinite(value)) and value not in card.ignore
    x = (value or 0.0) * card.scale + card.offset if good else 0.0
    return Label("scalar", torch.tensor([x], dtype=torch.float32), torch.tensor([good]))
