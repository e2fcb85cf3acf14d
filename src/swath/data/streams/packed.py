"""Read a pack: a Source whose samples cost one read, and whose bands cost what they weigh."""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from swath.core.batch import Batch, Label, Layer, Where, collate
from swath.core.contracts import LabelSpec
from swath.core.errors import SwathError, SwathWarning, UserError
from swath.core.grid import Grid
from swath.core.sensor import Sensor
from swath.data.streams.codec import Pixels, crc, expand, widen
from swath.data.streams.direct import Target, outline
from swath.data.streams.files import Files, open_files
from swath.data.streams.form import (
    Form,
    LabelForm,
    LayerForm,
    Slot,
    boxes_of,
    empty_layer,
    label_from,
    read_form,
    sensor_from,
    slots,
)
from swath.data.streams.packing import CHUNK, FORMAT, SAMPLE

OnCorrupt = Literal["error", "skip"]
Verify = Literal["once", "always", "never"]


class Raw(NamedTuple):
    """A sample as stored: head, form, and arrays per (layer or label, what); a layer's bands are one array
    (bands, T, H, W). `lost` names what a corrupt chunk took."""

    head: dict[str, Any]
    form: Form
    arrays: dict[tuple[str, str], Pixels]
    lost: frozenset[str]


class _Plan(NamedTuple):
    """What to read of a form: the wanted chunks, and for each the array it goes to and where in it."""

    wanted: list[int]
    rows: Pixels
    arrays: tuple[tuple[tuple[str, str], tuple[int, ...], str], ...]
    places: tuple[tuple[Slot, tuple[str, str], int], ...]


def _shard(number: int) -> str:
    return f"shard-{number:05d}.bin"


class PackedSource:
    """A pack at a path or address. `verify`: a chunk's crc32 is compared when a process first reads it (`once`),
    at every read (`always`), or `never`.

    A corrupt chunk is an error that names it; with `on_corrupt="skip"` the layer or label it belongs to becomes
    invalid, with a warning.
    """

    def __init__(self, path: str, *, verify: Verify = "once", on_corrupt: OnCorrupt = "error") -> None:
        self.path, self.verify, self.on_corrupt = path, verify, on_corrupt
        self._files: Files = open_files(path)
        self._plans: dict[tuple[int, Any], _Plan] = {}
        self._seen: Any = None
        self._process = -1
        manifest = self._manifest()
        self.name, self.licence = str(manifest["name"]), str(manifest["licence"])
        self.sensors: tuple[Sensor, ...] = tuple(sensor_from(s) for s in manifest["sensors"])
        self.labels: Mapping[str, LabelSpec] = {k: label_from(v) for k, v in manifest["labels"].items()}
        self.codec, self._forms = str(manifest["codec"]), [str(t) for t in manifest["forms"]]
        self._split_names = [str(s) for s in manifest["splits"]]
        self._sensor = {s.id: s for s in self.sensors}
        self._bands = tuple((s.id, len(s.bands)) for s in self.sensors)
        self._digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()

    def _manifest(self) -> dict[str, Any]:
        where = f"{self.path}/pack.json"
        try:
            manifest = json.loads(self._files.whole("pack.json"))
        except ValueError as why:
            raise UserError(f"the manifest is not JSON: {why}", where=where) from why
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise UserError("the manifest is of another format", where=where, remedy=f"this Swath reads {FORMAT}")
        return manifest

    @property
    def fingerprint(self) -> str:
        """Hash of the manifest, which holds the fingerprint of the packed source."""
        return self._digest

    @cached_property
    def index(self) -> tuple[Any, Any]:
        """Samples and chunks, as NumPy tables."""
        found: list[Any] = []
        for name, dtype in (("samples.npy", SAMPLE), ("chunks.npy", CHUNK)):
            try:
                table = np.load(io.BytesIO(self._files.whole(name)), allow_pickle=False)
            except ValueError as why:
                raise UserError(f"the index cannot be read: {why}", where=f"{self.path}/{name}") from why
            if table.dtype != dtype:
                raise UserError("the index is of another format", where=f"{self.path}/{name}")
            found.append(table)
        return found[0], found[1]

    def __len__(self) -> int:
        return len(self.index[0])

    def __getstate__(self) -> dict[str, Any]:
        return {**{k: v for k, v in self.__dict__.items() if k != "index"}, "_seen": None, "_plans": {}}

    def splits(self) -> Mapping[str, Sequence[int]]:
        codes = self.index[0]["split"]
        return {name: np.flatnonzero(codes == k).tolist() for k, name in enumerate(self._split_names)}

    @property
    def lonlat(self) -> Pixels:
        """Places of all samples (N, 2), from the index alone."""
        return np.stack([self.index[0]["lon"], self.index[0]["lat"]], 1)

    def raw(self, index: int, bands: Mapping[str, Sequence[str]] | None = None) -> Raw:
        """The stored arrays of a sample, decompressed and verified, not yet in physical units."""
        samples, chunks = self.index
        row = samples[index]
        _, _, _, first, count, shard, number, _ = row.item()
        form = read_form(self._forms[number])
        plan = self._plan(number, form, bands)
        every = chunks[first : first + count].tolist()
        table = [every[i] for i in plan.wanted]
        pieces = self._files.read(_shard(shard), [(a, n) for a, n, _ in table])
        faults = self._faults(first, plan.rows, table, pieces)
        lost: set[str] = set()
        head = self._head(index, row, table[0], pieces[0], faults.get(0, ""))
        if head is None:
            head = {"n": None, "g": None, "t": {}}
            lost = {x.id for x in form.layers} | {y.name for y in form.labels}
        arrays: dict[tuple[str, str], Pixels] = {k: np.empty(shape, dtype) for k, shape, dtype in plan.arrays}
        for i, (slot, key, at) in enumerate(plan.places, 1):
            why = faults.get(i, "")
            if not why:
                try:
                    expand(pieces[i], arrays[key][at] if at >= 0 else arrays[key], self.codec)
                    continue
                except (ValueError, RuntimeError) as error:
                    why = str(error)
            band = f", band {self._sensor[slot.of].names[slot.band]}" if slot.band >= 0 else f", {slot.what}"
            self._corrupt(f"{slot.of}{band}", (index, row, head), table[i], why)
            lost.add(slot.of)
        return Raw(head, form, arrays, frozenset(lost))

    def _plan(self, number: int, form: Form, bands: Mapping[str, Sequence[str]] | None) -> _Plan:
        """Which chunks these bands need; kept, because every sample of a form needs the same."""
        asked = None if bands is None else tuple((k, tuple(v)) for k, v in bands.items())
        if (number, asked) not in self._plans:
            chosen = {s.id: list(range(len(s.bands))) for s in self.sensors}
            if bands is not None:
                chosen = {k: [self._sensor[k].index(n) for n in v] for k, v in bands.items() if k in self._sensor}
            places: list[tuple[int, Slot, tuple[str, str], int]] = []
            arrays: dict[tuple[str, str], tuple[tuple[int, ...], str]] = {}
            for i, slot in enumerate(slots(form, self._bands), 1):
                if slot.of in self._sensor and slot.band >= 0:
                    mine = chosen.get(slot.of, [])
                    if slot.band in mine:
                        arrays[slot.of, "bands"] = ((len(mine), *slot.shape), slot.dtype)
                        places.append((i, slot, (slot.of, "bands"), mine.index(slot.band)))
                elif slot.of not in self._sensor or slot.of in chosen:
                    arrays[slot.of, slot.what] = (slot.shape, slot.dtype)
                    places.append((i, slot, (slot.of, slot.what), -1))
            wanted = [0, *(p[0] for p in places)]
            self._plans[number, asked] = _Plan(
                wanted, np.array(wanted), tuple((k, *v) for k, v in arrays.items()), tuple(p[1:] for p in places)
            )
        return self._plans[number, asked]

    def _faults(self, first: int, wanted: Pixels, table: list[Any], pieces: list[Any]) -> dict[int, str]:
        """What is wrong with the bytes, by position. A chunk's checksum is taken when this process first reads it."""
        if self._seen is None or self._process != os.getpid():
            self._seen, self._process = np.zeros(len(self.index[1]), bool), os.getpid()
        rows = wanted + first
        fresh = self.verify == "always" or (self.verify == "once" and not self._seen[rows].all())
        faults: dict[int, str] = {}
        for i, (piece, (_, length, code)) in enumerate(zip(pieces, table, strict=True)):
            if len(piece) != length:
                faults[i] = f"{len(piece)} of {length} bytes are there"
            elif fresh and crc(piece) != code:
                faults[i] = "its checksum is wrong"
        if fresh and not faults:
            self._seen[rows] = True
        return faults

    def _corrupt(self, what: str, place: tuple[int, Any, dict[str, Any]], chunk: Any, why: str) -> None:
        index, row, head = place
        name = head.get("n") or int(row["key"])
        where = f"{self.path}/shard-{int(row['shard']):05d}.bin, bytes {chunk[0]}+{chunk[1]}"
        message = f"a corrupt chunk: {what} of sample {index} ({name}): {why}"
        if self.on_corrupt == "error":
            raise SwathError(message, where=where, remedy="copy the shard again, or read with on_corrupt='skip'")
        warnings.warn(SwathWarning(f"{message}; skipped ({where})"), stacklevel=2)

    def _head(self, index: int, row: Any, chunk: Any, data: Any, why: str) -> dict[str, Any] | None:
        if not why:
            try:
                return json.loads(bytes(data))
            except ValueError as error:
                why = str(error)
        self._corrupt("the head", (index, row, {}), chunk, why)
        return None

    def sample(self, index: int, bands: Mapping[str, Sequence[str]] | None = None) -> Batch:
        """The sample in physical units, equal to what the packed source gave."""
        return self.batch([index], bands)

    def batch(
        self,
        indices: Sequence[int],
        bands: Mapping[str, Sequence[str]] | None = None,
        take: Callable[..., Any] = np.empty,
    ) -> Batch:
        """Samples decoded straight into the arrays of one batch; `take(shape, dtype)` gives those arrays."""
        found = self._direct(indices, bands, take)
        return collate([self._careful(int(i), bands) for i in indices]) if found is None else found

    def _direct(
        self, indices: Sequence[int], bands: Mapping[str, Sequence[str]] | None, take: Callable[..., Any]
    ) -> Batch | None:
        """The batch where all samples have one outline and every chunk is sound, else None."""
        samples, chunks = self.index
        rows = samples[list(indices)]
        forms = {int(n): read_form(self._forms[n]) for n in set(rows["form"].tolist())}
        form = forms[int(rows[0]["form"])]
        if any(outline(f) != outline(form) for f in forms.values()) or any(y.kind == "boxes" for y in form.labels):
            return None
        if bands is not None and form.layers and not any(x.id in bands for x in form.layers):
            return None
        plans = {n: self._plan(n, f, bands) for n, f in forms.items()}
        chosen = {x.id: self._chosen(x.id, bands) for x in form.layers if bands is None or x.id in bands}
        target = Target(form, {k: len(v.bands) for k, v in chosen.items()}, len(rows), take)
        heads: list[dict[str, Any]] = []
        for k, (_, _, _, first, count, shard, number, _) in enumerate(rows.tolist()):
            plan = plans[number]
            every = chunks[first : first + count].tolist()
            table = [every[i] for i in plan.wanted]
            pieces = self._files.read(_shard(shard), [(a, n) for a, n, _ in table])
            if self._faults(first, plan.rows, table, pieces):
                return None
            try:
                heads.append(json.loads(bytes(pieces[0])))
                target.put(k, forms[number], plan.places, pieces[1:], self.codec)
            except (ValueError, RuntimeError):
                return None
        return target.batch(chosen, rows, heads)

    def _chosen(self, id_: str, bands: Mapping[str, Sequence[str]] | None) -> Sensor:
        return self._sensor[id_] if bands is None else self._sensor[id_].select(bands[id_])

    def _careful(self, index: int, bands: Mapping[str, Sequence[str]] | None) -> Batch:
        """One sample of any form, with what is corrupt said or skipped."""
        raw = self.raw(index, bands)
        layers = {
            x.id: self._layer(x, raw, None if bands is None else bands[x.id])
            for x in raw.form.layers
            if bands is None or x.id in bands
        }
        if not layers and raw.form.layers:
            raise UserError("none of the wanted layers is in this pack", where=self.path)
        labels = {y.name: _label(y, raw) for y in raw.form.labels}
        row, grid = self.index[0][index], raw.head["g"]
        where = Where(
            torch.tensor([int(row["key"])]),
            torch.tensor([[float(row["lon"]), float(row["lat"])]], dtype=torch.float64),
            (None if grid is None else Grid(grid[0], tuple(grid[1]), tuple(grid[2])),),
            () if raw.head["n"] is None else (raw.head["n"],),
        )
        return Batch(layers, where, labels)

    def _layer(self, form: LayerForm, raw: Raw, names: Sequence[str] | None) -> Layer:
        sensor = self._sensor[form.id]
        chosen = list(range(len(sensor.bands))) if names is None else [sensor.index(n) for n in names]
        sensor = sensor if names is None else sensor.select(names)
        days = raw.head["t"].get(form.id) if form.dated else None
        if form.id in raw.lost:
            return empty_layer(sensor, form, days or ([0] * form.steps if form.dated else None))
        stored = raw.arrays[form.id, "bands"]
        if form.scale or stored.shape[1] > 1:
            x = np.empty((form.steps, len(chosen), form.height, form.width), form.wide)
            for place, i in enumerate(chosen):
                widen(
                    stored[place],
                    form.scale[i] if form.scale else 1.0,
                    form.offset[i] if form.scale else 0.0,
                    x[:, place],
                )
        else:
            x = stored.reshape(form.steps, len(chosen), form.height, form.width)
        if form.all_valid:
            valid = np.ones((form.steps, form.height, form.width), bool)
        else:
            valid = raw.arrays[form.id, "valid"]
            x *= valid[:, None]
        times = None if days is None else torch.tensor([days], dtype=torch.int64)
        return Layer(sensor, torch.from_numpy(x)[None], torch.from_numpy(valid)[None, :, None], times)


def _label(form: LabelForm, raw: Raw) -> Label:
    kind: Any = form.kind
    if form.name in raw.lost:
        value, flags = np.zeros(form.shape, form.wide), np.zeros(form.valid_shape, bool)
        known: dict[str, Pixels] = {"xyxy": np.zeros((0, 4), np.float32), "classes": np.zeros(0, np.int64)}
    else:
        known = {what: a for (of, what), a in raw.arrays.items() if of == form.name}
        value = known["value"].astype(form.wide)
        flags = known.get("label valid", np.ones(form.valid_shape, bool))
    return Label(kind, torch.from_numpy(value)[None], torch.from_numpy(flags)[None], boxes_of(form, known))


def verify(path: str) -> list[str]:
    """Read every chunk of a pack; what is corrupt, in words (empty: the pack is sound)."""
    source = PackedSource(path, on_corrupt="error")
    found: list[str] = []
    for i in range(len(source)):
        try:
            source.raw(i)
        except SwathError as error:
            found.append(" ".join(error.lines()[:2]))
    return found
