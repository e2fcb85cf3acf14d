"""Tortilla and TACO files as samples (GEO-Bench-2 among them): one sample a row, leaves chosen by the card.

A layer's `path` picks leaves: `s2` (an id, * stands for anything), `#0` (by position, negative from the end),
`modality=planet` (by metadata), several separated by commas as timesteps, or an id with `{step}`, named by `order`.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from swath.core.batch import Batch, Boxes, Label, Layer
from swath.core.contracts import LabelSpec
from swath.core.errors import UserError
from swath.core.grid import Grid
from swath.core.sensor import Sensor
from swath.data.card import Card, LabelCard, LayerCard, find_card
from swath.data.cards import CARDS
from swath.data.decode import Pixels, Storage, class_label, layer_of, map_label, mask_label, scalar_label, tags_label
from swath.data.labels import boxes_label
from swath.data.names import day_of, days_of, split_called
from swath.data.place import where
from swath.data.raster import grid_of, opened, read_open
from swath.data.tortilla import Entry, arrays, blob, entries, gdal_path, hdf5, leaves, parts, split_of

_STEP = "{step}"


@dataclass(frozen=True)
class TortillaConfig:
    """A tortilla file, one part of several, or a folder of them. Without a card the file's name says which one."""

    kind: ClassVar[str] = "tortilla"
    path: str
    card: str = ""
    labels: tuple[str, ...] = ()

    def build(self) -> TortillaSource:
        path = Path(self.path)
        files = parts(path)
        if not self.card and path.is_dir() and (path / "card.toml").is_file():
            return TortillaSource(files, find_card(str(path)), self.labels)
        return TortillaSource(files, find_card(self.card) if self.card else card_by_name(files[0]), self.labels)


def card_by_name(file: Path) -> Card:
    """The shipped card of a GEO-Bench-2 file such as `geobench_benv2.tortilla` or `benv2.tortilla`."""
    stem = re.sub(r"(\.\d+\.part)?\.(tortilla|taco)$", "", file.name)
    name = "geobench2-" + stem.removeprefix("geobench_").replace("_", "-")
    if name in CARDS:
        return CARDS.get(name)
    raise UserError(
        "no card is known for this file, so its bands and units are not known",
        where=str(file),
        remedy="look with `swath data show`, then write a card.toml beside it and name it",
    )


class TortillaSource:
    """Samples of tortilla files in the order of their ids."""

    def __init__(self, files: Sequence[Path], card: Card, labels: Sequence[str] = ()) -> None:
        self.files, self.card, self.name, self.licence = tuple(files), card, card.name, card.licence
        self.sensors: tuple[Sensor, ...] = tuple(card.stored(x) for x in card.layers)
        self._label_cards = [x for x in card.labels if not labels or x.name in labels]
        self.labels: Mapping[str, LabelSpec] = {x.name: x.spec() for x in self._label_cards}

    @cached_property
    def rows(self) -> list[Entry]:
        """The samples."""
        found = sorted((e for f in self.files for e in entries(f)), key=lambda e: e.id)
        for a, b in pairwise(found):
            if a.id == b.id:
                raise UserError(f"two samples are called '{a.id}'", where=f"{a.where} and {b.where}")
        if not found:
            raise UserError("there is no sample in it", where=str(self.files[0]))
        return found

    @property
    def names(self) -> list[str]:
        return [e.id for e in self.rows]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the card and of every file's name, size and time."""
        digest = hashlib.sha256(self.card.digest.encode())
        for file in self.files:
            stat = file.stat()
            digest.update(f"{file.name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def splits(self) -> Mapping[str, Sequence[int]]:
        """Indices by the split each row names."""
        out: dict[str, list[int]] = {}
        for i, row in enumerate(self._split_rows()):
            name = self.card.splits.names.get(row) or split_called(row) or "all"
            out.setdefault(name, []).append(i)
        return out

    def _split_rows(self) -> list[str]:
        if any(r.split for r in self.rows):
            return [r.split for r in self.rows]
        return [split_of(r, list(leaves(r))) for r in self.rows]

    def sample(self, index: int, bands: Mapping[str, Sequence[str]] | None = None) -> Batch:
        """One row's layers and labels."""
        row = self.rows[index]
        found = list(leaves(row))
        layers: dict[str, Layer] = {}
        grid: Grid | None = None
        for card in self.card.layers:
            if bands is not None and card.id not in bands:
                continue
            got = self._layer(card, row, found, None if bands is None else bands[card.id])
            if got is None:
                continue
            layers[card.id], place = got
            if place is not None and (grid is None or place.gsd[0] < grid.gsd[0]):
                grid = place
        if not layers:
            raise UserError("the sample has none of the wanted layers", where=row.where)
        size = max((x.shape[3:] for x in layers.values()), key=lambda s: s[0] * s[1])
        labels = {c.name: _label(c, row, found, size) for c in self._label_cards}
        return Batch(layers, where(row.id, grid, _place(row, found, grid)), labels)

    def _layer(
        self, card: LayerCard, row: Entry, found: list[Entry], names: Sequence[str] | None
    ) -> tuple[Layer, Grid | None] | None:
        storage = Storage.of(self.card, card, names)
        chosen = choose(card.path, found, card.order)
        present = [leaf for leaf in chosen if leaf is not None]
        if not present:
            if card.optional:
                return None
            raise UserError(
                f"no leaf fits '{card.path}' of layer {card.id}",
                where=row.where,
                remedy=f"the sample has: {', '.join(x.id for x in found[:12])}",
            )
        grid: Grid | None = None
        nodata = storage.nodata(None)
        stacks: list[Pixels | None] = []
        for leaf in chosen:
            if leaf is None:
                stacks.append(None)
                continue
            stack, place, nodata = _pixels(leaf, storage)
            grid = grid or place
            stacks.append(stack)
        first = next(s for s in stacks if s is not None)
        whole = np.concatenate([np.zeros_like(first) if s is None else s for s in stacks])
        layer = layer_of(whole, storage, nodata, self._dates(card, chosen, whole.shape[0]))
        if any(s is None for s in stacks):
            there = np.repeat([s is not None for s in stacks], first.shape[0])
            valid = layer.valid & torch.from_numpy(there)[None, :, None, None, None]
            layer = Layer.of(layer.sensor, layer.x, valid, layer.times)
        return layer, grid

    def _dates(self, card: LayerCard, chosen: Sequence[Entry | None], steps: int) -> list[int] | None:
        if card.dates:
            return [day_of(d, self.card.place) for d in card.dates]
        if not card.dates_from:
            return None
        out: list[int] = []
        for leaf in chosen:
            held = None if leaf is None else leaf.meta.get(card.dates_from)
            for value in held if isinstance(held, (list, tuple)) else [held]:
                if value is None or leaf is None:
                    return None
                out.append(days_of(value, leaf.where))
        if len(out) != steps:
            raise UserError(f"{len(out)} dates for {steps} timesteps of layer {card.id}", where=str(self.files[0]))
        return out


def choose(path: str, found: Sequence[Entry], order: Sequence[str] = ()) -> list[Entry | None]:
    """The leaves that a layer's path picks; None for a step of `order` that is not there."""
    out: list[Entry | None] = []
    for one in (p.strip() for p in path.split(",")):
        text = one.split("[")[0]
        if _STEP in text:
            for step in order:
                wanted = text.replace(_STEP, step)
                out.append(next((x for x in found if fnmatchcase(x.id, wanted)), None))
        elif re.fullmatch(r"#-?\d+", text):
            at = int(text[1:])
            if -len(found) <= at < len(found):
                out.append(found[at])
        elif "=" in text:
            column, _, value = text.partition("=")
            out.extend(x for x in found if str(x.meta.get(column)) == value)
        else:
            out.extend(x for x in found if fnmatchcase(x.id, text))
    return out


def _pixels(leaf: Entry, storage: Storage) -> tuple[Pixels, Grid | None, float | None]:
    """Stored pixels (T, C, H, W) of a leaf."""
    steps = storage.channels()
    flat = [c for step in steps for c in step]
    if leaf.raster:
        with opened(gdal_path(leaf)) as data:
            raw = read_open(data, flat)
            return raw.reshape(len(steps), -1, *raw.shape[1:]), grid_of(data), storage.nodata(data.nodata)
    raw = _one_array(leaf)
    if raw.ndim == 3:
        raw = raw[None]
    if raw.ndim != 4 or raw.shape[1] < storage.card.channels:
        raise UserError(
            f"an array of shape {raw.shape} cannot hold {storage.card.channels} bands as (T, C, H, W)",
            where=leaf.where,
        )
    return raw[:, flat], None, storage.nodata(None)


def _one_array(leaf: Entry) -> Pixels:
    held = arrays(leaf)
    if len(held) != 1:
        raise UserError(f"the leaf holds {len(held)} arrays: {', '.join(held) or 'none'}", where=leaf.where)
    return next(iter(held.values()))


def _place(row: Entry, found: Sequence[Entry], grid: Grid | None) -> tuple[float, float] | None:
    """Longitude and latitude: of the metadata, else of the raster, else of the centroid."""
    for entry in (row, *found[:1]):
        lon, lat = entry.meta.get("lon"), entry.meta.get("lat")
        if isinstance(lon, float) and isinstance(lat, float):
            return lon, lat
    if grid is not None:
        return None
    text = str(row.meta.get("stac:centroid") or "")
    m = re.fullmatch(r"POINT \((-?[\d.]+) (-?[\d.]+)\)", text)
    return (float(m.group(1)), float(m.group(2))) if m else None


def _label(card: LabelCard, row: Entry, found: Sequence[Entry], size: tuple[int, int]) -> Label:
    if not card.path:
        return _from_metadata(card, row)
    chosen = [x for x in choose(card.path, found) if x is not None]
    if not chosen:
        raise UserError(f"no leaf fits the label '{card.path}'", where=row.where)
    leaf = chosen[0]
    if card.kind == "boxes":
        return _boxes(card, chosen, size)
    raw = next(iter(arrays(leaf).values())) if leaf.raster else _one_array(leaf)
    m = re.search(r"\[(\d+)\]$", card.path)
    if m and raw.ndim == 3:
        raw = raw[int(m.group(1))]
    if card.kind == "mask":
        return mask_label(raw[0] if raw.ndim == 3 and raw.shape[0] == 1 else raw, card, leaf.where)
    return map_label(raw if raw.ndim == 3 else raw[None], card)


def _from_metadata(card: LabelCard, row: Entry) -> Label:
    if card.column not in row.meta:
        raise UserError(
            f"the rows have no column '{card.column}'",
            where=row.where,
            remedy=f"columns: {', '.join(row.meta)}",
        )
    value = row.meta[card.column]
    if card.kind == "tags":
        return tags_label(value if isinstance(value, list) else [value], card, row.where)
    if card.kind == "class":
        return class_label(value, card, row.where)
    return scalar_label(value, card)


def _boxes(card: LabelCard, chosen: Sequence[Entry], size: tuple[int, int]) -> Label:
    """Boxes of a GeoParquet table, of a JSON attribute of an HDF5 leaf, or of instance and class maps."""
    leaf = chosen[0]
    if leaf.format.upper() in ("GEOPARQUET", "PARQUET"):
        return boxes_label(_table_boxes(leaf, card), size)
    held, attributes = hdf5(blob(leaf), leaf.where)
    if held:
        kinds = _one_array(chosen[1]) if len(chosen) > 1 else None
        return _instances(next(iter(held.values())), kinds, card, leaf.where)
    try:
        data: Any = json.loads(attributes["annotation"])
        listed = data.get("boxes", data.get("sample_annotations"))
        found: list[tuple[list[float], int]] = []
        for one in listed:
            x, y, w, h = (float(v) for v in one["bbox"])
            corners = [x, y, w, h] if one.get("bbox_mode") == "xyxy" else [x, y, x + w, y + h]
            found.append((corners, _kind(int(one["category_id"]), card, leaf.where)))
        polygons = [one.get("mask") for one in listed]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as why:
        raise UserError(f"the annotation cannot be read: {type(why).__name__} {why}", where=leaf.where) from why
    masks = torch.from_numpy(_burnt(polygons, size)) if polygons and all(polygons) else None
    return boxes_label(found, size, masks)


def _kind(value: int, card: LabelCard, place: str) -> int:
    legend = card.legend
    if value not in legend:
        raise UserError(f"category {value} is not in the legend {sorted(legend)} of '{card.name}'", where=place)
    return legend[value]


def _burnt(polygons: Sequence[Any], size: tuple[int, int]) -> Pixels:
    from rasterio.features import rasterize

    out = np.zeros((len(polygons), *size), dtype=bool)
    for i, rings in enumerate(polygons):
        shapes: list[Any] = []
        for ring in rings:
            points = [[ring[k], ring[k + 1]] for k in range(0, len(ring) - 1, 2)]
            shapes.append({"type": "Polygon", "coordinates": [[*points, points[0]]]})
        out[i] = np.asarray(rasterize(shapes, out_shape=size, dtype="uint8")) > 0
    return out


def _table_boxes(leaf: Entry, card: LabelCard) -> list[tuple[list[float], int]]:
    from pyarrow import parquet

    try:
        rows: list[dict[str, Any]] = parquet.read_table(io.BytesIO(blob(leaf))).to_pylist()
        out: list[tuple[list[float], int]] = []
        for row in rows:
            name = row[card.column or "label"]
            if name is None:  # an object that nobody could tell
                name = next((c for c in card.classes if c.lower().startswith("unknown")), name)
            if name not in card.classes:
                raise UserError(f"'{name}' is no class of '{card.name}'", where=leaf.where)
            corners = [float(row[k]) for k in ("xmin", "ymin", "xmax", "ymax")]
            out.append((corners, card.classes.index(name)))
    except UserError:
        raise
    except Exception as why:
        raise UserError(f"the table of boxes cannot be read: {str(why)[:160]}", where=leaf.where) from why
    return out


def _instances(ids: Pixels, kinds: Pixels | None, card: LabelCard, place: str) -> Label:
    """One object per instance id; its class is the most frequent one under it."""
    if ids.ndim != 2 or kinds is None:
        raise UserError("instances need an id map (H, W) and a class map", where=place)
    flat = kinds if kinds.ndim == 2 else kinds[0]
    boxes: list[list[int]] = []
    classes: list[int] = []
    masks: list[Pixels] = []
    for one in np.unique(ids[ids != 0]):
        here = ids == one
        values, counts = np.unique(flat[here], return_counts=True)
        value = int(values[counts.argmax()])
        if float(value) in card.ignore:
            continue
        rows, cols = np.flatnonzero(here.any(axis=1)), np.flatnonzero(here.any(axis=0))
        boxes.append([int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1])
        classes.append(_kind(value, card, place))
        masks.append(here)
    stacked = torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, *ids.shape, dtype=torch.bool)
    xyxy = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    objects = Boxes(xyxy, torch.tensor(classes, dtype=torch.int64), stacked)
    return Label("boxes", torch.tensor([list(ids.shape)]), torch.ones(1, 2, dtype=torch.bool), (objects,))


MEMBER = TortillaConfig
