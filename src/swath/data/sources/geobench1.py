"""GEO-Bench v1: one HDF5 file a sample, one data set a band, and `<partition>_partition.json`.

A layer's `path` lists the data sets of its bands, separated by `|`; a date at the end of a name (`_2016-01-01`) is
the timestep's. The label is the data set `label`, or stands in the pickled attributes, which are read without
running anything.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from swath.core.batch import Batch, Label, Layer
from swath.core.contracts import LabelSpec
from swath.core.errors import UnknownName, UserError
from swath.core.sensor import Sensor
from swath.data.card import Card, LabelCard, LayerCard, find_card
from swath.data.cards import CARDS
from swath.data.decode import Storage, class_label, layer_of, map_label, mask_label, tags_label
from swath.data.inert import unpickle
from swath.data.names import day_of, split_called
from swath.data.place import where

_DATED = re.compile(r"^(?P<name>.+?)_(?P<date>\d{4}[-_]\d{2}[-_]\d{2})$")
SUFFIXES = (".hdf5", ".h5")


@dataclass(frozen=True)
class GeobenchConfig:
    """A folder of HDF5 samples. `partition` names which `<partition>_partition.json` splits it."""

    kind: ClassVar[str] = "geobench1"
    path: str
    card: str = ""
    partition: str = "default"
    labels: tuple[str, ...] = ()

    def build(self) -> GeobenchSource:
        root = Path(self.path)
        if not root.is_dir():
            raise UserError("there is no such folder", where=self.path)
        if self.card:
            card = find_card(self.card)
        elif (root / "card.toml").is_file():
            card = find_card(str(root))
        else:
            told = root.resolve().name.lower().replace("_", "-")
            name = next((n for n in (f"geobench1-{told}", f"geobench1-m-{told}") if n in CARDS), "")
            if not name:
                raise UserError(
                    "no card is known for this folder",
                    where=self.path,
                    remedy="call the folder as the data set is called ("
                    f"{', '.join(n.removeprefix('geobench1-') for n in CARDS.names() if n.startswith('geobench1-'))}), "
                    "name its card in the run file, or put a card.toml there",
                )
            card = CARDS.get(name)
        return GeobenchSource(root, card, self.partition, self.labels)


class GeobenchSource:
    """HDF5 samples in the order of their names."""

    def __init__(self, root: Path, card: Card, partition: str = "default", labels: Sequence[str] = ()) -> None:
        self.root, self.card, self.partition = root, card, partition
        self.name, self.licence = card.name, card.licence
        self.sensors: tuple[Sensor, ...] = tuple(card.stored(x) for x in card.layers)
        self._label_cards = [x for x in card.labels if not labels or x.name in labels]
        self.labels: Mapping[str, LabelSpec] = {x.name: x.spec() for x in self._label_cards}

    @cached_property
    def files(self) -> list[Path]:
        found = sorted(p for p in self.root.iterdir() if p.suffix in SUFFIXES)
        if not found:
            raise UserError("there is no HDF5 sample in this folder", where=str(self.root))
        return found

    @property
    def names(self) -> list[str]:
        return [p.stem for p in self.files]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the card, the partition and every file's name, size and time."""
        digest = hashlib.sha256(f"{self.card.digest}{self.splits()}".encode())
        for file in self.files:
            stat = file.stat()
            digest.update(f"{file.name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.files)

    def splits(self) -> Mapping[str, Sequence[int]]:
        """Indices by the partition file; `all` where there is none."""
        found = {p.name.removesuffix("_partition.json") for p in self.root.glob("*_partition.json")}
        if not found:
            return {"all": list(range(len(self)))}
        if self.partition not in found:
            raise UnknownName("partition", self.partition, found, where=str(self.root))
        path = self.root / f"{self.partition}_partition.json"
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8"))
            place = {n: i for i, n in enumerate(self.names)}
            out: dict[str, list[int]] = {}
            seen: dict[str, str] = {}
            for split, keys in cast("dict[str, list[str]]", data).items():
                for key in keys:
                    if seen.setdefault(key, split) != split:
                        raise UserError(f"'{key}' is in {seen[key]} and in {split}", where=str(path))
                    if key in place:
                        out.setdefault(split_called(split), []).append(place[key])
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as why:
            raise UserError(f"the partition cannot be read: {why}", where=str(path)) from why
        return out

    def sample(self, index: int, bands: Mapping[str, Sequence[str]] | None = None) -> Batch:
        """One file's layers and labels."""
        path = self.files[index]
        import h5py

        try:
            with h5py.File(path, "r") as file:
                layers = {
                    x.id: self._layer(file, x, None if bands is None else bands[x.id], path)
                    for x in self.card.layers
                    if bands is None or x.id in bands
                }
                labels = {x.name: _label(file, x, path) for x in self._label_cards}
        except (OSError, KeyError, RuntimeError) as why:
            raise UserError(f"the HDF5 file cannot be read: {str(why)[:160]}", where=str(path)) from why
        if not layers:
            raise UserError("the sample has none of the wanted layers", where=str(path))
        return Batch(layers, where(path.stem, None), labels)

    def _layer(self, file: Any, card: LayerCard, names: Sequence[str] | None, path: Path) -> Layer:
        storage = Storage.of(self.card, card, names)
        stored = [n.strip() for n in card.path.split("|")]
        if len(stored) != len(card.bands):
            raise UserError(f"{len(stored)} data sets are named for {len(card.bands)} bands", where=self.card.place)
        by_date: dict[str, dict[str, str]] = {}
        for key in file:
            m = _DATED.match(key)
            by_date.setdefault(m.group("date") if m else "", {})[m.group("name") if m else key] = key
        wanted = [stored[i] for i in storage.index]
        dates = sorted(d for d, held in by_date.items() if all(n in held for n in wanted))
        if not dates:
            raise UserError(
                f"the data sets of layer {card.id} are missing: {', '.join(n for n in wanted if n not in file)}",
                where=str(path),
                remedy=f"the file has: {', '.join(list(file)[:16])}",
            )
        stack = np.stack([np.stack([file[by_date[d][n]][()] for n in wanted]) for d in dates])
        if stack.ndim != 4:
            raise UserError(f"a band has the shape {stack.shape[2:]}, not (height, width)", where=str(path))
        times = [day_of(d.replace("_", "-"), str(path)) for d in dates if d]
        return layer_of(stack, storage, storage.nodata(None), times or None)


def _label(file: Any, card: LabelCard, path: Path) -> Label:
    name = card.path or "label"
    key = next((k for k in file if k == name or ((m := _DATED.match(k)) and m.group("name") == name)), None)
    if key is not None:
        raw = file[key][()]
        return mask_label(raw, card, str(path)) if card.kind == "mask" else map_label(raw[None], card)
    held = unpickle(file.attrs.get("pickle", b""), str(path))
    if not isinstance(held, dict) or "label" not in held:
        raise UserError("the file holds no label", where=str(path))
    value: Any = cast("dict[str, Any]", held)["label"]
    if card.kind == "tags":
        return tags_label(np.asarray(value).ravel().tolist(), card, str(path))
    if not isinstance(value, (int, np.integer, str)):
        raise UserError(f"the label is {value!r}, not a class", where=str(path))
    return class_label(int(value) if not isinstance(value, str) else value, card, str(path))


MEMBER = GeobenchConfig
