"""Read a pack: a Source whose samples cost one read, and whose bands cost what they weigh."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from swath.core.batch import Batch, Label, Layer, Where
from swath.core.contracts import LabelSpec
from swath.core.errors import SwathError, SwathWarning, UserError
from swath.core.grid import Grid
from swath.core.sensor import Sensor
from swath.data.streams.codec import Pixels, crc, expand, widen
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


class Raw(NamedTuple):
    """A sample as stored: its head, form, and arrays per (layer or label, what, band); None where corrupt."""

    head: dict[str, Any]
    form: Form
    arrays: dict[tuple[str, str, int], Pixels | None]


class PackedSource:
    """A pack at a path or address. `verify` compares every chunk that is read with its crc32.

    A corrupt chunk is an error that names it; with `on_corrupt="skip"` the layer or label it belongs to becomes
    invalid, with a warning.
    """

    def __init__(self, path: str, *, verify: bool = True, on_corrupt: OnCorrupt = "error") -> None:
        self.path, self.verify, self.on_corrupt = path, verify, on_corrupt
        self._files: Files = open_files(path)
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
        return {k: v for k, v in self.__dict__.items() if k != "index"}

    def splits(self) -> Mapping[str, Sequence[int]]:
        codes = self.index[0]["split"]
        return {name: np.flatnonzero(codes == k).tolist() for k, name in enumerate(self._split_names)}

    @property
    def lonlat(self) -> Pixels:
        """Places of all samples (N, 2), from the index alone."""
        return np.stack([self.index[0]["lon"], self.index[0]["lat"]], 1)

    def raw(self, index: int, bands: Mapping[str, Sequence[str]] | None = None) -> Raw:
        """The stored arrays of a sample, decompressed and verified, not yet in physical units."""
        row = self.index[0][index]
        form = read_form(self._forms[int(row["form"])])
        every = slots(form, self._bands)
        wanted = [0, *(i for i, slot in enumerate(every, 1) if self._wants(slot, bands))]
        first = int(row["first"])
        table = self.index[1][first : first + int(row["chunks"])]
        pieces = self._read(int(row["shard"]), table, wanted)
        head = self._head(index, row, table, pieces[0])
        arrays: dict[tuple[str, str, int], Pixels | None] = {}
        for place, data in zip(wanted[1:], pieces[1:], strict=True):
            slot = every[place - 1]
            arrays[slot.of, slot.what, slot.band] = self._array(slot, data, table[place], (index, row, head))
        return Raw(head, form, arrays)

    def _wants(self, slot: Slot, bands: Mapping[str, Sequence[str]] | None) -> bool:
        if bands is None or slot.of not in self._sensor:
            return True
        if slot.of not in bands:
            return False
        sensor = self._sensor[slot.of]
        return slot.what == "valid" or slot.band in [sensor.index(n) for n in bands[slot.of]]

    def _read(self, shard: int, table: Any, wanted: list[int]) -> list[Any]:
        """The bytes of the wanted chunks; neighbours come in one read."""
        spans = [(int(table["offset"][i]), int(table["length"][i])) for i in wanted]
        joined: list[list[int]] = []
        for offset, length in spans:  # chunks of a sample lie in order
            if joined and offset - (joined[-1][0] + joined[-1][1]) <= self._files.gap:
                joined[-1][1] = offset + length - joined[-1][0]
            else:
                joined.append([offset, length])
        blocks = self._files.read(f"shard-{shard:05d}.bin", [(a, n) for a, n in joined])
        out: list[Any] = []
        at = 0
        for offset, length in spans:
            while not joined[at][0] <= offset <= offset + length <= joined[at][0] + joined[at][1]:
                at += 1
            start = offset - joined[at][0]
            out.append(memoryview(blocks[at])[start : start + length])
        return out

    def _corrupt(self, what: str, place: tuple[int, Any, dict[str, Any]], chunk: Any, why: str) -> None:
        index, row, head = place
        name = head.get("n") or int(row["key"])
        where = f"{self.path}/shard-{int(row['shard']):05d}.bin, bytes {int(chunk['offset'])}+{int(chunk['length'])}"
        message = f"a corrupt chunk: {what} of sample {index} ({name}): {why}"
        if self.on_corrupt == "error":
            raise SwathError(message, where=where, remedy="copy the shard again, or read with on_corrupt='skip'")
        warnings.warn(SwathWarning(f"{message}; skipped ({where})"), stacklevel=2)

    def _sound(self, data: Any, chunk: Any) -> str:
        if len(data) != int(chunk["length"]):
            return f"{len(data)} of {int(chunk['length'])} bytes are there"
        return "its checksum is wrong" if self.verify and crc(data) != int(chunk["crc"]) else ""

    def _head(self, index: int, row: Any, table: Any, data: Any) -> dict[str, Any]:
        why = self._sound(data, table[0])
        if not why:
            try:
                return json.loads(bytes(data))
            except ValueError as error:
                why = str(error)
        self._corrupt("the head", (index, row, {}), table[0], why)
        return {"n": None, "g": None, "t": {}, "lost": True}

    def _array(self, slot: Slot, data: Any, chunk: Any, place: tuple[int, Any, dict[str, Any]]) -> Pixels | None:
        why = self._sound(data, chunk)
        if not why:
            out = np.empty(slot.shape, slot.dtype)
            try:
                expand(data, out, self.codec)
            except (ValueError, RuntimeError) as error:
                why = str(error)
            else:
                return out
        band = f", band {self._sensor[slot.of].names[slot.band]}" if slot.band >= 0 else f", {slot.what}"
        self._corrupt(f"{slot.of}{band}", place, chunk, why)
        return None

    def sample(self, index: int, bands: Mapping[str, Sequence[str]] | None = None) -> Batch:
        """The sample in physical units, equal to what the packed source gave."""
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
        arrays = [raw.arrays[form.id, "band", i] for i in chosen]
        flags = None if form.all_valid else raw.arrays[form.id, "valid", -1]
        days = raw.head["t"].get(form.id) if form.dated else None
        if any(a is None for a in arrays) or (flags is None and not form.all_valid) or "lost" in raw.head:
            return empty_layer(sensor, form, days or ([0] * form.steps if form.dated else None))
        x = np.empty((form.steps, len(chosen), form.height, form.width), form.wide)
        for place, (i, stored) in enumerate(zip(chosen, arrays, strict=True)):
            assert stored is not None
            if form.scale:
                widen(stored, form.scale[i], form.offset[i], x[:, place])
            else:
                x[:, place] = stored
        if flags is not None:
            x *= flags[:, None]
        valid = np.ones((form.steps, form.height, form.width), bool) if flags is None else flags
        times = None if days is None else torch.tensor([days], dtype=torch.int64)
        return Layer(sensor, torch.from_numpy(x)[None], torch.from_numpy(valid)[None, :, None], times)


def _label(form: LabelForm, raw: Raw) -> Label:
    parts = {what: a for (of, what, _), a in raw.arrays.items() if of == form.name}
    lost = any(a is None for a in parts.values()) or "lost" in raw.head
    known = {k: v for k, v in parts.items() if v is not None}
    value = np.zeros(form.shape, form.wide) if lost else known["value"].astype(form.wide)
    flags = known.get("label valid", np.ones(form.valid_shape, bool)) if not lost else np.zeros(form.valid_shape, bool)
    if lost and form.kind == "boxes":
        known = {"xyxy": np.zeros((0, 4), np.float32), "classes": np.zeros(0, np.int64)}
    kind: Any = form.kind
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
