"""The arrays of one batch, and chunks decoded straight into them: a band's float32 values are written once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from swath.core.batch import Batch, Label, Layer, Where
from swath.core.grid import Grid
from swath.core.sensor import Sensor
from swath.data.streams.codec import Pixels, expand, widen
from swath.data.streams.form import Form, LabelForm, LayerForm, Slot


def outline(form: Form) -> tuple[Any, ...]:
    """What samples must share to lie in the same arrays; how each is stored may differ."""
    layers = tuple((x.id, x.steps, x.height, x.width, x.wide, x.dated) for x in form.layers)
    return layers, tuple((y.name, y.kind, y.shape, y.wide, y.valid_shape) for y in form.labels)


class Target:
    """Room for `n` samples of one outline; `bands` says how many each wanted layer has."""

    def __init__(self, form: Form, bands: Mapping[str, int], n: int, take: Callable[..., Any]) -> None:
        self.layers: dict[str, tuple[LayerForm, Pixels, Pixels]] = {}
        self.labels: dict[str, tuple[LabelForm, Pixels, Pixels]] = {}
        self._scratch: dict[tuple[tuple[int, ...], str], Pixels] = {}
        for x in form.layers:
            if x.id in bands:
                values = take((n, x.steps, bands[x.id], x.height, x.width), x.wide)
                self.layers[x.id] = (x, values, take((n, x.steps, 1, x.height, x.width), bool))
        for y in form.labels:
            self.labels[y.name] = (y, take((n, *y.shape), y.wide), take((n, *y.valid_shape), bool))

    def put(
        self, k: int, form: Form, places: Sequence[tuple[Slot, Any, int]], pieces: Sequence[Any], codec: str
    ) -> None:
        """Decode the chunks of sample `k`, which is stored in this form."""
        stored = {x.id: x for x in form.layers if x.id in self.layers}
        for (slot, _, at), piece in zip(places, pieces, strict=True):
            if slot.what == "band":
                self._band(stored[slot.of], self.layers[slot.of][1][k, :, at], slot, piece, codec)
            elif slot.what == "valid":
                expand(piece, self.layers[slot.of][2][k, :, 0], codec)
            elif slot.what == "label valid":
                expand(piece, self.labels[slot.of][2][k : k + 1].reshape(slot.shape), codec)
            else:
                value = self.labels[slot.of][1]
                value[k] = self._decoded(slot, piece, codec)
        for name, (_, values, valid) in self.layers.items():
            if stored[name].all_valid:
                valid[k] = True
            else:
                values[k] *= valid[k]
        for y in form.labels:
            if y.all_valid:
                self.labels[y.name][2][k] = True

    def _decoded(self, slot: Slot, piece: Any, codec: str) -> Pixels:
        if (slot.shape, slot.dtype) not in self._scratch:
            self._scratch[slot.shape, slot.dtype] = np.empty(slot.shape, slot.dtype)
        stored = self._scratch[slot.shape, slot.dtype]
        expand(piece, stored, codec)
        return stored

    def _band(self, form: LayerForm, out: Pixels, slot: Slot, piece: Any, codec: str) -> None:
        if form.scale:
            widen(self._decoded(slot, piece, codec), form.scale[slot.band], form.offset[slot.band], out)
        elif form.steps == 1:
            expand(piece, out[0], codec)
        else:
            out[...] = self._decoded(slot, piece, codec)

    def batch(self, sensors: Mapping[str, Sensor], rows: Any, heads: Sequence[Mapping[str, Any]]) -> Batch:
        """What was put in, as a batch."""
        layers: dict[str, Layer] = {}
        for name, (form, values, valid) in self.layers.items():
            days = torch.tensor([h["t"][name] for h in heads], dtype=torch.int64) if form.dated else None
            layers[name] = Layer(sensors[name], torch.from_numpy(values), torch.from_numpy(valid), days)
        labels = {
            name: Label(_kind(form), torch.from_numpy(value), torch.from_numpy(flags))
            for name, (form, value, flags) in self.labels.items()
        }
        grids = tuple(None if g is None else Grid(g[0], tuple(g[1]), tuple(g[2])) for g in (h["g"] for h in heads))
        names = tuple("" if h["n"] is None else str(h["n"]) for h in heads)
        lonlat = torch.from_numpy(np.stack([rows["lon"], rows["lat"]], 1).astype(np.float64))
        keys = torch.from_numpy(rows["key"].astype(np.int64))
        return Batch(layers, Where(keys, lonlat, grids, names if any(names) else ()), labels)


def _kind(form: LabelForm) -> Any:
    return form.kind
