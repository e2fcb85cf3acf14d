"""What the files of a folder's sample hold: its layers and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from swath.core.batch import Batch, Label, Layer
from swath.core.errors import UserError
from swath.core.grid import Grid
from swath.data.card import Card, LabelCard, LayerCard
from swath.data.decode import HIDDEN, Pixels, Storage, class_label, image_label, layer_of, map_label, mask_label
from swath.data.index import VECTORS, Asset, Item, lacks_clouds, per_key
from swath.data.labels import Coco, Table, laid_on, numbered_label, read_vector
from swath.data.names import day_of
from swath.data.place import where
from swath.data.raster import chip, grid_of, read_open

FRACTION = 3.0
"""Reflectance is below it, digital numbers are far above."""


class FolderReader:
    """Reads items of one folder."""

    def __init__(self, root: Path, card: Card, labels: Sequence[LabelCard]) -> None:
        self.root, self.card, self._label_cards = root, card, labels
        self._tables: dict[str, Any] = {}
        self._names: dict[str, tuple[tuple[str | None, ...], Path]] = {}
        self._whole: dict[str, tuple[bool, Path]] = {}

    def sample(self, item: Item, bands: Mapping[str, Sequence[str]] | None = None) -> Batch:
        """One key's layers and labels."""
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
        with chip(path) as data:
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
        with chip(path) as data:
            if storage.card.steps == 1 and storage.card.first == 0 and data.count != storage.card.channels:
                raise UserError(
                    f"the file has {data.count} bands and the card names {storage.card.channels}: "
                    f"{', '.join(storage.card.bands)}",
                    where=str(path),
                    remedy="name every band of the file in the card, in file order ('-' for one nobody reads)",
                )
            flat = read_open(data, [c for step in steps for c in step])
            found, nodata = grid_of(data), data.nodata
            named = tuple(getattr(data, "descriptions", ()))
        self._like_others(storage.card.id, path, named, flat)
        return flat.reshape(len(steps), -1, *flat.shape[1:]), found, storage.nodata(nodata)

    def _like_others(self, layer: str, path: Path, named: tuple[str | None, ...], raw: Pixels) -> None:
        """Refuse a file that names its bands in another order than others of its layer, or holds fractions where they
        hold whole numbers: both would be read, and be wrong."""
        if all(named) and named:
            names, first = self._names.setdefault(layer, (named, path))
            if named != names and sorted(map(str, named)) == sorted(map(str, names)):
                raise UserError(
                    f"its bands are named {', '.join(map(str, named))}; in {first.name} the order is "
                    f"{', '.join(map(str, names))}",
                    where=str(path),
                    remedy="bring the files to one order; `swath check` lists those that differ",
                )
        whole, first = self._whole.setdefault(layer, (raw.dtype.kind in "iu", path))
        if whole == (raw.dtype.kind in "iu"):
            return
        one, other = (path, first) if whole else (first, path)  # the one of floats, the one of whole numbers
        values = raw if whole else self._floats(one)
        known = values[np.isfinite(values)]
        if known.size and float(np.quantile(known, 0.99)) <= FRACTION and bool((known != known.round()).any()):
            raise UserError(
                f"it holds fractions (most below {float(np.quantile(known, 0.99)):.3g}), where {other.name} holds "
                "whole numbers: another unit",
                where=str(one),
                remedy="convert it as the others are; `swath check` lists those that differ",
            )

    @staticmethod
    def _floats(path: Path) -> Pixels:
        with chip(path) as data:
            return read_open(data)

    def _one_band_each(self, storage: Storage, assets: Sequence[Asset]) -> tuple[Pixels, Grid | None, float | None]:
        full = self.card.sensor(storage.card.sensor)
        paths = {full.band(a.band).name: self.root / a.path for a in assets}
        parts: list[Pixels] = []
        found, nodata = None, None
        for band in storage.sensor.bands:
            if band.name not in paths:
                raise UserError(f"the file of band {band.name} is missing", where=str(self.root / assets[0].path))
            with chip(paths[band.name]) as data:
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
        with chip(path) as data:
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
