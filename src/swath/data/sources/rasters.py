"""Large rasters without pre-chipping: windows over one or many scenes, labels from a vector layer or a raster.

Files that share a key (by the card's patterns) are one scene; each scene is cut into windows of `size` pixels. The
last window of a row or column is moved back inside, so that chips are whole. `areas` is a vector file whose polygons
say, in the column `split`, which split a window belongs to by its centre; windows in no polygon are left out. Without
areas labelled windows are dealt in whole blocks of ground, and what shows pixels of another split is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch

from swath.core.batch import Batch, Label
from swath.core.contracts import LabelSpec
from swath.core.errors import UserError
from swath.core.grid import Grid, Window
from swath.core.sensor import Sensor
from swath.data.card import Card, LabelCard, find_card, load_card
from swath.data.decode import map_label, mask_label
from swath.data.index import VECTORS, build_index, scan
from swath.data.labels import read_vector, vector_label
from swath.data.place import where
from swath.data.propose import Hints, propose
from swath.data.raster import RASTERS, grid_of, lattice, opened, take
from swath.data.scene import RasterScene, scene_of
from swath.data.splits import IMPORTANT, deal

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
FEW, MANY = 3, 12
"""Blocks of ground that are needed, and wanted, to deal them to splits."""


@dataclass(frozen=True)
class RastersConfig:
    """A folder of scenes or one raster. `stride` defaults to `size`; `warp` allows reprojection on the fly."""

    kind: ClassVar[str] = "rasters"
    path: str
    size: int = 256
    stride: int = 0
    card: str = ""
    sensor: str = ""
    bands: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    areas: str = ""
    warp: bool = False

    def build(self) -> RastersSource:
        if self.size < 1 or self.stride < 0:
            raise UserError(f"a window of {self.size} pixels every {self.stride} cannot be cut", where="rasters")
        path = Path(self.path)
        root = path if path.is_dir() else path.parent
        files = scan(root) if path.is_dir() else [path.name]
        if not path.exists():
            raise UserError("there is no such file or folder", where=self.path)
        return RastersSource(self, root, self._card(root, files), files)

    def _card(self, root: Path, files: list[str]) -> Card:
        if self.card:
            return find_card(self.card)
        if (root / "card.toml").is_file() and not self.sensor:
            return load_card(root / "card.toml")
        rasters = [f for f in files if f.lower().endswith(RASTERS)]
        found = propose(root, Hints(self.sensor, self.bands), rasters)
        if found.doubts:
            raise UserError(
                "the files do not say what they hold: " + "; ".join(found.doubts),
                where=self.path,
                remedy=found.remedy("give a card, or name the sensor and the bands"),
            )
        return found.card


@dataclass(frozen=True)
class Cut:
    """One window of one scene."""

    scene: int
    window: Window
    name: str
    split: str = ""


class RastersSource:
    """Windows as samples, scene by scene in row order."""

    def __init__(self, config: RastersConfig, root: Path, card: Card, files: list[str]) -> None:
        self.config, self.root, self.card = config, root, card
        self.name, self.licence = card.name, card.licence
        self.sensors: tuple[Sensor, ...] = tuple(card.stored(x) for x in card.layers)
        self._label_cards = [x for x in card.labels if not config.labels or x.name in config.labels]
        self.labels: Mapping[str, LabelSpec] = {x.name: x.spec() for x in self._label_cards}
        self._vectors: dict[str, Any] = {}
        index = build_index(root, replace(card, labels=()), files)
        if not index.items:
            raise UserError("no raster fits the card's layers", where=str(root))
        self._items = build_index(root, card, files)
        self._paths = {item.key: item.labels for item in self._items.items}
        self.scenes: list[RasterScene] = [
            scene_of(root, card, item.images, item.key, config.warp) for item in index.items
        ]

    @cached_property
    def cuts(self) -> list[Cut]:
        """Every window."""
        size, stride = self.config.size, self.config.stride or self.config.size
        out: list[Cut] = []
        for number, scene in enumerate(self.scenes):
            rows, cols = (starts(n, size, stride) for n in scene.grid.shape)
            for row in rows:
                for col in cols:
                    out.append(Cut(number, Window(row, col, size, size), f"{scene.name}/{row}/{col}"))
        return out if not self.config.areas else self._within(out)

    @property
    def names(self) -> list[str]:
        return [c.name for c in self.cuts]

    def _within(self, cuts: list[Cut]) -> list[Cut]:
        import geopandas
        from shapely import Point

        frame = read_vector(Path(self.config.areas))
        if "split" not in frame.columns:
            raise UserError("the areas have no column 'split'", where=self.config.areas)
        out: list[Cut] = []
        for number, scene in enumerate(self.scenes):
            mine = [c for c in cuts if c.scene == number]
            centres = [Point(*scene.grid.crop(c.window).xy(c.window.height / 2, c.window.width / 2)) for c in mine]
            points = geopandas.GeoDataFrame({"at": range(len(mine))}, geometry=centres, crs=scene.grid.crs)
            joined = geopandas.sjoin(points.to_crs(frame.crs), frame[["split", "geometry"]], predicate="within")
            for at, split in sorted(zip(joined["at"], joined["split"], strict=True)):
                if out and out[-1].name == mine[int(at)].name:
                    raise UserError(f"the window {out[-1].name} lies in two areas", where=self.config.areas)
                out.append(replace(mine[int(at)], split=str(split)))
        if not out:
            raise UserError("no window's centre lies in an area", where=self.config.areas)
        return out

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the scenes and the windows."""
        digest = hashlib.sha256(repr(self.config).encode())
        for scene in self.scenes:
            digest.update(scene.fingerprint.encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.cuts)

    def splits(self) -> Mapping[str, Sequence[int]]:
        """Indices by area, else by blocks of ground; `all` where nothing is labelled, or too little is there."""
        if not self.config.areas and self._blocks is not None:
            return self._blocks[0]
        out: dict[str, list[int]] = {}
        for i, cut in enumerate(self.cuts):
            out.setdefault(cut.split or "all", []).append(i)
        return out

    @property
    def split_rule(self) -> str:
        """How the splits were made, where it is for the source to say."""
        return "" if self.config.areas or self._blocks is None else self._blocks[1]

    @cached_property
    def _blocks(self) -> tuple[dict[str, list[int]], str] | None:
        """Windows by split in whole blocks of ground, and the rule; None where that cannot be."""
        cuts = self.cuts if self._label_cards else []
        grids = [self.scenes[c.scene].grid.crop(c.window) for c in cuts]
        planes = [g.crs or self.scenes[c.scene].name for g, c in zip(grids, cuts, strict=True)]
        ends = np.array([g.extent for g in grids], dtype=np.float64).reshape(-1, 4)
        middle, side = (ends[:, :2] + ends[:, 2:]) / 2, float(np.median(ends[:, 2] - ends[:, 0])) if cuts else 0.0
        for times in (16, 8, 4, 2, 1):
            block = side * times
            names = [f"{p}/{x // block}/{y // block}" for p, (x, y) in zip(planes, middle, strict=True)]
            if (found := len(set(names))) >= max(FEW, min(MANY, len(cuts) // 2)):
                parts = {k: v.tolist() for k, v in deal(names, SHARES, 0).items()}
                kept = _apart(parts, planes, ends)
                lost = len(cuts) - sum(map(len, kept.values()))
                told = f"; {lost} windows that show pixels of another split are left out" if lost else ""
                rule = f"{found} whole blocks of ground of {block:g} units of the crs a side{told}"
                return (kept, rule) if all(kept.values()) else None
        return None

    def sample(self, index: int, bands: Mapping[str, Sequence[str]] | None = None) -> Batch:
        """One window's layers and labels."""
        cut = self.cuts[index]
        scene = self.scenes[cut.scene]
        place = scene.grid.crop(cut.window)
        batch = scene.read(cut.window, bands)
        labels = {c.name: self._label(c, place, scene.name) for c in self._label_cards}
        return Batch(batch.layers, where(cut.name, place), labels)

    def _label(self, card: LabelCard, place: Grid, key: str) -> Label:
        path = self.root / self._paths.get(key, {}).get(card.name, card.path)
        if not path.is_file():
            raise UserError(f"the label '{card.name}' of scene '{key}' is missing", where=str(path))
        if path.suffix in VECTORS:
            if str(path) not in self._vectors:
                self._vectors[str(path)] = read_vector(path)
            frame = self._vectors[str(path)]
            if frame.crs is not None and place.crs and str(frame.crs) != place.crs:
                frame = self._vectors[str(path)] = frame.to_crs(place.crs)
            west, south, east, north = place.extent
            return vector_label(frame.cx[west:east, south:north], place, card, str(path))
        return _raster_label(path, card, place)


def _raster_label(path: Path, card: LabelCard, place: Grid) -> Label:
    with opened(path) as data:
        own = grid_of(data)
        if own is None or own.crs != place.crs:
            raise UserError("the label raster is not in the scene's crs", where=str(path))
        row, col = own.rowcol(*place.xy(0, 0))
        end_row, end_col = own.rowcol(*place.xy(*place.shape))
        rows, cols = lattice(row, end_row - row, place.shape[0]), lattice(col, end_col - col, place.shape[1])
        raw, inside = take(data, range(data.count), rows, cols)
        nodata = cast("float | None", data.nodata)
    seen = torch.from_numpy(inside)[None]
    if card.kind == "mask":
        if raw.shape[0] != 1:
            raise UserError(f"a mask has one band, this has {raw.shape[0]}", where=str(path))
        label = mask_label(raw[0], replace(card), str(path), nodata)
        return replace(label, valid=label.valid & seen)
    label = map_label(raw, card, nodata)
    return replace(label, valid=label.valid & seen[:, None])


def _apart(parts: Mapping[str, list[int]], planes: list[str], ends: Any) -> dict[str, list[int]]:
    """Parts without the windows that overlap one of a more important part."""
    import shapely

    inner = 1e-6 * (ends[:, 2:] - ends[:, :2])
    boxes = np.asarray(shapely.box(*(ends[:, :2] + inner).T, *(ends[:, 2:] - inner).T))
    kept: dict[str, list[int]] = {}
    for name in (*IMPORTANT, "train"):
        held = [i for rows in kept.values() for i in rows]
        mine = parts[name]
        hits = (
            shapely.STRtree(boxes[held]).query(boxes[mine], predicate="intersects") if held else np.empty((2, 0), int)
        )
        over = {mine[a] for a, b in hits.T.tolist() if planes[mine[a]] == planes[held[b]]}
        kept[name] = [i for i in mine if i not in over]
    return {name: kept[name] for name in parts}


def starts(n: int, size: int, stride: int) -> list[int]:
    """Where windows begin along an axis of n pixels: whole ones, the last moved back to end at the edge."""
    if n <= size:
        return [0]
    starts = list(range(0, n - size + 1, stride))
    return starts if starts[-1] + size == n else [*starts, n - size]


MEMBER = RastersConfig
