"""A folder of rasters: `images/KEY.tif` with `masks/KEY.tif` needs no option; a card says everything else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from swath.core.batch import Batch, Label, Layer
from swath.core.contracts import LabelSpec
from swath.core.errors import UserError
from swath.core.grid import Grid
from swath.core.sensor import Sensor
from swath.data.card import Card, LabelCard, LayerCard, find_card, load_card
from swath.data.decode import HIDDEN, Pixels, Storage, class_label, image_label, layer_of, map_label, mask_label
from swath.data.index import VECTORS, Asset, Index, Item, build_index, lacks_clouds, no_sample, per_key, scan
from swath.data.labels import Coco, Table, laid_on, numbered_label, read_vector
from swath.data.names import day_of
from swath.data.place import where
from swath.data.propose import Hints, propose
from swath.data.raster import grid_of, opened, read_open


@dataclass(frozen=True)
class FolderConfig:
    """A folder. `card` is a file or a name (else `card.toml` in the folder, else what the files say of themselves).

    `sensor` and `bands` name what files without band names hold; `pattern` pairs files, e.g. `{site}_{date}.tif`.
    With `assume` a guess is taken where otherwise it would be refused: for looking at data, not for training.
    """

    kind: ClassVar[str] = "folder"
    path: str
    card: str = ""
    sensor: str = ""
    bands: tuple[str, ...] = ()
    pattern: str = ""
    labels: tuple[str, ...] = ()
    assume: bool = False

    def build(self) -> FolderSource:
        root = Path(self.path)
        if not root.is_dir():
            raise UserError("there is no such folder", where=self.path)
        files = scan(root)
        return FolderSource(root, self._card(root, files), self.labels, files)

    def _card(self, root: Path, files: list[str]) -> Card:
        if self.card:
            return self._patterned(find_card(self.card))
        if (root / "card.toml").is_file() and not self.pattern and not self.sensor:
            return load_card(root / "card.toml")
        found = propose(root, Hints(self.sensor, self.bands, self.pattern), files)
        if found.doubts and not self.assume:
            raise UserError(
                "the files do not say what they hold: " + "; ".join(found.doubts),
                where=self.path,
                remedy=f"write it down once with `swath init {self.path}`, or name --sensor and --bands",
            )
        return found.card

    def _patterned(self, card: Card) -> Card:
        """The card with this folder's own pattern, where the files are named otherwise than published."""
        if not self.pattern:
            return card
        if len(card.layers) != 1:
            raise UserError(
                f"the pattern could be of any of the card's {len(card.layers)} layers",
                where=self.card,
                remedy="write a card for this copy and give each layer its path",
            )
        return replace(card, layers=(replace(card.layers[0], path=self.pattern),))


class FolderSource:
    """Samples of a folder, one per key."""

    def __init__(self, root: Path, card: Card, labels: Sequence[str] = (), files: list[str] | None = None) -> None:
        self.root, self.card, self.name, self.licence = root, card, card.name, card.licence
        if not card.layers:
            raise UserError("the card declares no layer", where=card.place or card.name)
        self._label_cards = [x for x in card.labels if not labels or x.name in labels]
        missing = [n for n in labels if n not in [x.name for x in card.labels]]
        if missing:
            raise UserError(
                f"the card has no label '{missing[0]}'",
                where=card.place or card.name,
                remedy=f"it has: {', '.join(x.name for x in card.labels) or 'none'}",
            )
        self.sensors: tuple[Sensor, ...] = tuple(card.stored(x) for x in card.layers)
        self.labels: Mapping[str, LabelSpec] = {x.name: x.spec() for x in self._label_cards}
        self._files = scan(root) if files is None else files
        self._tables: dict[str, Any] = {}

    @cached_property
    def index(self) -> Index:
        """The paired files."""
        index = build_index(self.root, self.card, self._files)
        if not index.items:
            raise no_sample(self.card, index)
        return index

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the card and of every file's name, size and time."""
        digest = hashlib.sha256(self.card.digest.encode())
        for item in self.index.items:
            clouds = (a.clouds for a in item.images if a.clouds)
            for path in (*(a.path for a in item.images), *clouds, *item.labels.values()):
                stat = (self.root / path).stat()
                digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    @property
    def notes(self) -> tuple[str, ...]:
        """What did not pair, in words: it is left out."""
        pairs = (
            (self.index.images_without_label, "image", "label"),
            (self.index.labels_without_image, "label", "image"),
        )
        named = self.index.listed_only
        lost = (f"{len(named)} key(s) of the split lists have no image, for example {named[0]}",) if named else ()
        return lost + tuple(f"{len(p)} {a}(s) without {b} are left out, for example {p[0]}" for p, a, b in pairs if p)

    def __len__(self) -> int:
        return len(self.index.items)

    def splits(self) -> Mapping[str, Sequence[int]]:
        """Indices by split; samples without one are in `all`."""
        out: dict[str, list[int]] = {}
        for i, item in enumerate(self.index.items):
            out.setdefault(item.split or "all", []).append(i)
        return out

    def holds(self, index: int) -> set[str]:
        """The layers that a sample has files of."""
        return {a.layer for a in self.index.items[index].images}

    def sample(self, index: int, bands: Mapping[str, Sequence[str]] | None = None) -> Batch:
        """One key's layers and labels."""
        item = self.index.items[index]
        layers: dict[str, Layer] = {}
        grid: Grid | None = None
        shape: tuple[int, int] | None = None
        for card in self.card.layers:
            if bands is not None and card.id not in bands:
                continue
            assets = [a for a in item.images if a.layer == card.id]
            if not assets:
                continue
            layer, found = self._layer(card, assets, None if bands is None else bands[card.id])
            layers[card.id] = layer
            if shape is None or layer.shape[3] > shape[0]:
                grid, shape = found, (layer.shape[3], layer.shape[4])
        if not layers or shape is None:
            raise UserError(f"the sample '{item.key}' has none of the wanted layers", where=str(self.root))
        labels = {c.name: x for c in self._label_cards if (x := self._label(c, item, grid, shape)) is not None}
        return Batch(layers, where(item.key, grid), labels)

    def _layer(
        self, card: LayerCard, assets: Sequence[Asset], names: Sequence[str] | None
    ) -> tuple[Layer, Grid | None]:
        storage = Storage.of(self.card, card, names)
        by_date: dict[tuple[int, int | None], list[Asset]] = {}
        for asset in assets:
            by_date.setdefault((asset.step, asset.date), []).append(asset)
        if card.order and len(by_date) < len(card.order):
            here = {a.step for a in assets}
            lacks = next(w for i, w in enumerate(card.order) if i not in here)
            raise UserError(f"the step '{lacks}' is missing beside this file", where=str(self.root / assets[0].path))
        stacks: list[Pixels] = []
        clear: list[Pixels] = []
        grid: Grid | None = None
        nodata: float | None = None
        ordered = sorted(by_date, key=lambda d: (d[0], d[1] or 0))
        for day in ordered:
            stack, grid, nodata = self._stack(storage, by_date[day])
            if stacks and stack.shape != stacks[0].shape:
                raise UserError(
                    f"the size {stack.shape[2:]} differs from {stacks[0].shape[2:]} on another date",
                    where=str(self.root / by_date[day][0].path),
                )
            stacks.append(stack)
            if card.clouds:
                clear.append(self._clear(card, by_date[day][0], stack))
        times = [d for _, d in ordered if d is not None]
        if not times and card.dates:
            times = [day_of(d, self.card.place) for d in card.dates]
        stacked = np.concatenate(stacks) if len(stacks) > 1 else stacks[0]
        seen = np.concatenate(clear) if clear else None
        return layer_of(stacked, storage, nodata, times or None, seen), grid

    def _clear(self, card: LayerCard, asset: Asset, stack: Pixels) -> Pixels:
        """Where the cloud mask hides nothing, (T, 1, H, W) as the stack."""
        if not asset.clouds:
            lacks_clouds(self.root, asset.path, card.id, card.clouds)
        t, _, h, w = stack.shape
        path = self.root / asset.clouds
        with opened(path) as data:
            if data.count not in (1, t):
                raise UserError(f"a cloud mask of {data.count} bands for {t} dates", where=str(path))
            raw = np.isin(read_open(data), card.hides)
        hidden = adaptive_avg_pool2d(torch.from_numpy(raw.astype(np.float32))[:, None], (h, w)) >= HIDDEN
        return np.broadcast_to(~hidden.numpy(), (t, 1, h, w))

    def _stack(self, storage: Storage, assets: Sequence[Asset]) -> tuple[Pixels, Grid | None, float | None]:
        """The stored pixels (T, C, H, W) of one date."""
        if any(a.band for a in assets):
            return self._one_band_each(storage, assets)
        path = self.root / assets[0].path
        steps = storage.channels()
        with opened(path) as data:
            if storage.card.steps == 1 and storage.card.first == 0 and data.count != storage.card.channels:
                raise UserError(
                    f"the file has {data.count} bands and the card names {storage.card.channels}: "
                    f"{', '.join(storage.card.bands)}",
                    where=str(path),
                    remedy="name every band of the file in the card, in file order ('-' for one nobody reads)",
                )
            flat = read_open(data, [c for step in steps for c in step])
            found, nodata = grid_of(data), data.nodata
        return flat.reshape(len(steps), -1, *flat.shape[1:]), found, storage.nodata(nodata)

    def _one_band_each(self, storage: Storage, assets: Sequence[Asset]) -> tuple[Pixels, Grid | None, float | None]:
        full = self.card.sensor(storage.card.sensor)
        paths = {full.band(a.band).name: self.root / a.path for a in assets}
        parts: list[Pixels] = []
        found, nodata = None, None
        for band in storage.sensor.bands:
            if band.name not in paths:
                raise UserError(f"the file of band {band.name} is missing", where=str(self.root / assets[0].path))
            with opened(paths[band.name]) as data:
                parts.append(read_open(data, [0]))
                found, nodata = grid_of(data), data.nodata
            if parts[-1].shape != parts[0].shape:
                raise UserError(
                    f"band {band.name} has the size {parts[-1].shape[1:]}, another {parts[0].shape[1:]}",
                    where=str(paths[band.name]),
                    remedy="declare bands of another size as a layer of their own",
                )
        return np.concatenate(parts)[None], found, storage.nodata(nodata)

    def _label(self, card: LabelCard, item: Item, grid: Grid | None, shape: tuple[int, int]) -> Label | None:
        if not card.path:
            value = item.fields.get(card.column)
            return None if value is None else class_label(value, card, f"{self.root}, key {item.key}")
        if not per_key(card):
            return self._shared_label(card, item, grid, shape)
        relative = item.labels.get(card.name)
        if relative is None:
            return None
        path = self.root / relative
        if relative.endswith(VECTORS):
            return laid_on(read_vector(path), grid, card, str(path))
        with opened(path) as data:
            raw, nodata, own = read_open(data), data.nodata, grid_of(data)
        if card.kind == "image":
            return image_label(raw, card, nodata)
        if card.gsd is None and raw.shape[1:] != shape:
            raise UserError(
                f"the label has the size {raw.shape[1:]} and the image {shape}",
                where=str(path),
                remedy="give the label's card a gsd if it is meant to be coarser",
            )
        if card.gsd is None and own is not None and grid is not None and not _aligned(own, grid):
            raise UserError(
                f"the label lies elsewhere than its image: affine {own.affine} ({own.crs}) against "
                f"{grid.affine} ({grid.crs})",
                where=str(path),
                remedy="resample the label onto the image's grid, or correct its georeference",
            )
        if card.kind == "mask":
            if raw.shape[0] != 1:
                raise UserError(f"a mask has one band, this has {raw.shape[0]}", where=str(path))
            return mask_label(raw[0], card, str(path), nodata)
        if card.kind == "boxes":
            if raw.shape[0] != 1 or raw.dtype.kind == "f":
                raise UserError(
                    f"objects are numbered in one band of whole numbers; this has {raw.shape[0]} of {raw.dtype}",
                    where=str(path),
                )
            return numbered_label(raw[0], card, nodata)
        return map_label(raw, card, nodata)

    def _shared_label(self, card: LabelCard, item: Item, grid: Grid | None, shape: tuple[int, int]) -> Label | None:
        path = self.root / card.path
        if card.name not in self._tables:
            if card.kind == "boxes" and path.suffix == ".json":
                self._tables[card.name] = Coco(path, card)
            elif card.kind in ("mask", "map", "boxes"):
                self._tables[card.name] = read_vector(path)
            else:
                self._tables[card.name] = Table(path, card)
        held = self._tables[card.name]
        if isinstance(held, Coco):
            return held.label(item.key, shape)
        if isinstance(held, Table):
            return held.label(item.key)
        return laid_on(held, grid, card, f"{path}, key {item.key}")


def _aligned(a: Grid, b: Grid) -> bool:
    size = max(*b.gsd, 1e-12)
    if a.crs and b.crs and a.crs != b.crs:
        return False
    return all(abs(p - q) <= 0.01 * size for p, q in zip(a.affine, b.affine, strict=True))


MEMBER = FolderConfig
