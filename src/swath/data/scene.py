"""A scene read by windows of its own grid: many rasters, sensors and dates, memory bounded by the window.

The grid is that of the finest layer over the union of all files. Coarser layers come at their own resolution over
the same ground. Another crs or a shifted lattice is refused unless `warp` asks for reprojection, which uses bilinear
for quantities and nearest for classes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from swath.core.batch import Batch, Layer
from swath.core.contracts import Scene
from swath.core.errors import UserError
from swath.core.grid import Grid, Window
from swath.core.sensor import Sensor
from swath.data.card import Card, LayerCard, find_card, load_card
from swath.data.decode import HIDDEN, Pixels, Storage, layer_of
from swath.data.index import Asset, clouds_of, lacks_clouds, scan
from swath.data.names import Pattern, day_of
from swath.data.place import where
from swath.data.propose import Hints, propose
from swath.data.raster import RASTERS, grid_of, lattice, opened, take


@dataclass(frozen=True)
class Piece:
    """One raster of a layer: its place and date, and its cloud mask where the layer has such."""

    path: str
    grid: Grid
    date: int | None = None
    clouds: str = ""


@dataclass(frozen=True)
class Stack:
    """All rasters of one layer, and the grid they share."""

    card: LayerCard
    pieces: tuple[Piece, ...]
    grid: Grid
    warp: bool = False

    @property
    def dates(self) -> tuple[int | None, ...]:
        return tuple(sorted({p.date for p in self.pieces}, key=lambda d: d or 0))


def _on_lattice(a: Grid, b: Grid) -> bool:
    """Same crs and pixel size, and offset by whole pixels."""
    if a.crs != b.crs or any(abs(a.affine[i] - b.affine[i]) > 1e-9 + 1e-6 * abs(b.affine[i]) for i in (0, 1, 3, 4)):
        return False
    row, col = b.rowcol(a.affine[2], a.affine[5])
    return abs(row - round(row)) < 0.02 and abs(col - round(col)) < 0.02


def union(grids: Sequence[Grid]) -> Grid:
    """The smallest grid on the first one's lattice that holds them all."""
    first = grids[0]
    rows: list[float] = []
    cols: list[float] = []
    for grid in grids:
        for corner in ((0, 0), (0, grid.shape[1]), (grid.shape[0], 0), grid.shape):  # its own: it may be rotated
            r, c = first.rowcol(*grid.xy(*corner))
            rows.append(r)
            cols.append(c)
    r0, c0 = math.floor(min(rows) + 0.02), math.floor(min(cols) + 0.02)
    r1, c1 = math.ceil(max(rows) - 0.02), math.ceil(max(cols) - 0.02)
    return first.crop(Window(r0, c0, r1 - r0, c1 - c0))


class RasterScene:
    """Rasters read by windows. Pieces of one date form a mosaic: where two overlap the first one in order counts."""

    def __init__(self, card: Card, stacks: Sequence[Stack], name: str) -> None:
        if not stacks:
            raise UserError("there is nothing to read", where=name)
        self.card, self.stacks, self.name = card, tuple(stacks), name
        finest = min(stacks, key=lambda s: s.grid.gsd[0])
        grid = finest.grid
        for other in stacks:
            if other.grid.crs != grid.crs and not other.warp:
                raise UserError(
                    f"layer {other.card.id} is in {other.grid.crs[:40]}, layer {finest.card.id} in {grid.crs[:40]}",
                    where=name,
                    remedy="bring them to one crs, or ask for reprojection with warp",
                )
        self.grid: Grid = union([grid, *(s.grid for s in stacks if s is not finest and s.grid.crs == grid.crs)])
        self.sensors: tuple[Sensor, ...] = tuple(card.stored(s.card) for s in stacks)

    @property
    def days(self) -> tuple[int, ...]:
        """All dates of its files, in days since 1970."""
        return tuple(sorted({p.date for s in self.stacks for p in s.pieces if p.date is not None}))

    def on(self, days: Sequence[int]) -> RasterScene:
        """The same ground on these days only; files without a date stay."""
        kept = [replace(s, pieces=tuple(p for p in s.pieces if p.date is None or p.date in days)) for s in self.stacks]
        scene = RasterScene(self.card, [s for s in kept if s.pieces], self.name)
        scene.grid = self.grid
        return scene

    @property
    def fingerprint(self) -> str:
        """Hash of the card and of every file's name, size and time."""
        digest = hashlib.sha256(self.card.digest.encode())
        paths = (x for s in self.stacks for p in s.pieces for x in (p.path, p.clouds) if x)
        for path in paths:
            stat = Path(path).stat() if Path(path).exists() else None
            digest.update(f"{path}\0{stat and (stat.st_size, stat.st_mtime_ns)}\n".encode())
        return digest.hexdigest()

    def read(self, window: Window, bands: Mapping[str, Sequence[str]] | None = None) -> Batch:
        """Every layer over this window of the grid, B = 1; beyond the data it is invalid."""
        if window.area == 0:
            raise UserError(f"the window {window} is empty", where=self.name)
        layers: dict[str, Layer] = {}
        for stack in self.stacks:
            if bands is None or stack.card.id in bands:
                names = None if bands is None else bands[stack.card.id]
                layers[stack.card.id] = self._layer(stack, window, names)
        if not layers:
            raise UserError(f"the scene has none of {list(bands or {})}", where=self.name)
        place = self.grid.crop(window)
        return Batch(layers, where(f"{self.name}/{window.row}/{window.col}", place), {})

    def _target(self, stack: Stack, window: Window) -> Grid:
        """The window's ground at the layer's own resolution."""
        place = self.grid.crop(window)
        ratio_r, ratio_c = (s / f for s, f in zip(stack.grid.gsd[::-1], self.grid.gsd[::-1], strict=True))
        if stack.grid.crs != self.grid.crs:
            ratio_r = ratio_c = max(1.0, (stack.card.gsd or 0.0) / self.grid.gsd[0])
        shape = (max(1, round(window.height / ratio_r)), max(1, round(window.width / ratio_c)))
        return place.rescale(shape)

    def _layer(self, stack: Stack, window: Window, names: Sequence[str] | None) -> Layer:
        storage = Storage.of(self.card, stack.card, names)
        target = self._target(stack, window)
        steps = storage.channels()
        flat = [c for step in steps for c in step]
        dates = stack.dates
        out: list[Pixels] = []
        inside_all: list[NDArray[np.bool_]] = []
        nodata: float | None = storage.nodata(None)
        for day in dates:
            pixels: Pixels | None = None
            filled = np.zeros(target.shape, dtype=bool)
            for piece in (p for p in stack.pieces if p.date == day):
                part, inside, nodata = _read_piece(piece, flat, target, storage, stack.warp)
                fresh = inside & ~filled
                pixels = part if pixels is None else np.where(fresh[None], part, pixels)
                filled |= inside
                if filled.all():
                    break
            assert pixels is not None
            out.append(pixels.reshape(len(steps), -1, *target.shape))
            inside_all.append(np.tile(filled, (len(steps), 1, 1, 1)))
        times = [d for d in dates if d is not None]
        if not times and stack.card.dates:
            times = [day_of(d, self.card.place) for d in stack.card.dates]
        raw, seen = (v[0] if len(v) == 1 else np.concatenate(v) for v in (out, inside_all))
        return layer_of(raw, storage, nodata, times or None, seen)


def _read_piece(
    piece: Piece, channels: list[int], target: Grid, storage: Storage, warp: bool
) -> tuple[Pixels, NDArray[np.bool_], float | None]:
    """Pixels of one raster on the target grid, where it observed something, and the nodata value."""
    with opened(piece.path) as data:
        nodata = storage.nodata(data.nodata)
        if warp and not _same_axes(piece.grid, target):
            raw, inside = _warped(data, channels, target, storage)
        else:
            row, col = piece.grid.rowcol(*target.xy(0, 0))
            end_row, end_col = piece.grid.rowcol(*target.xy(*target.shape))
            rows = lattice(row, end_row - row, target.shape[0])
            cols = lattice(col, end_col - col, target.shape[1])
            raw, inside = take(data, channels, rows, cols)
    if nodata is not None and np.isfinite(nodata):
        inside = inside & (raw != nodata).all(axis=0)
    if raw.dtype.kind == "f":
        inside = inside & np.isfinite(raw).all(axis=0)
    return raw, inside & _clear(piece, target, storage.card) if piece.clouds else inside, nodata


def _clear(piece: Piece, target: Grid, card: LayerCard) -> NDArray[np.bool_]:
    """Where a piece's cloud mask hides nothing, on the target grid."""
    with opened(piece.clouds) as data:
        grid = grid_of(data) or piece.grid
        if grid.crs != target.crs:
            raise UserError(f"the cloud mask is in {grid.crs[:40]}, its image in {target.crs[:40]}", where=piece.clouds)
        fine = [max(1, round(t / g)) for t, g in zip(target.gsd[::-1], grid.gsd[::-1], strict=True)]
        (row, col), (end_row, end_col) = (grid.rowcol(*target.xy(*at)) for at in ((0, 0), target.shape))
        h, w = target.shape
        rows, cols = lattice(row, end_row - row, h * fine[0]), lattice(col, end_col - col, w * fine[1])
        raw, inside = take(data, [0], rows, cols)
    hidden = np.isin(raw[0], card.hides) & inside
    return hidden.reshape(h, fine[0], w, fine[1]).mean(axis=(1, 3)) < HIDDEN


def _same_axes(a: Grid, b: Grid) -> bool:
    same_sign = a.affine[0] * b.affine[0] > 0 and a.affine[4] * b.affine[4] > 0
    return a.crs == b.crs and a.affine[1] == a.affine[3] == b.affine[1] == b.affine[3] == 0 and same_sign


def _warped(data: Any, channels: list[int], target: Grid, storage: Storage) -> tuple[Pixels, NDArray[np.bool_]]:
    """Reprojected on the fly: nearest for classes, bilinear otherwise."""
    from rasterio.enums import Resampling
    from rasterio.transform import Affine
    from rasterio.vrt import WarpedVRT

    classes = storage.sensor.kind == "classes" or any(b.unit == "class" for b in storage.sensor.bands)
    method = Resampling.nearest if classes else Resampling.bilinear
    options: dict[str, Any] = {
        "crs": target.crs,
        "transform": Affine(*target.affine),
        "height": target.shape[0],
        "width": target.shape[1],
        "resampling": method,
        "add_alpha": data.nodata is None and not classes and data.dtypes[0] in ("uint8", "uint16"),
    }
    if data.nodata is None and storage.nodata(None) is not None:
        options |= {"src_nodata": storage.nodata(None), "nodata": storage.nodata(None), "add_alpha": False}
    with WarpedVRT(data, **options) as view:
        raw = view.read([c + 1 for c in channels])
        inside = view.dataset_mask() > 0
    return raw, inside


def _pieces(paths: Sequence[str], dates: Sequence[int | None]) -> list[Piece]:
    out: list[Piece] = []
    for path, day in zip(paths, dates, strict=True):
        with opened(path) as data:
            grid = grid_of(data)
            if grid is None:
                affine = (1.0, 0.0, 0.0, 0.0, -1.0, float(data.height))
                grid = Grid("", affine, (data.height, data.width))
        out.append(Piece(path, grid, day))
    return out


def _stack(card: LayerCard, pieces: list[Piece], warp: bool) -> Stack:
    first = pieces[0].grid
    off = [p for p in pieces if not _on_lattice(p.grid, first)]
    if off and not warp:
        raise UserError(
            f"its pixels lie on another lattice than those of {pieces[0].path}: {off[0].grid.affine} "
            f"({off[0].grid.crs[:20]}) against {first.affine} ({first.crs[:20]})",
            where=off[0].path,
            remedy="resample the files to one grid, or ask for it with warp",
        )
    grids = [p.grid for p in pieces if p.grid.crs == first.crs]
    return Stack(card, tuple(pieces), union(grids), warp)


@dataclass(frozen=True)
class SceneHints:
    """What the user says about rasters that do not say it themselves."""

    sensor: str = ""
    bands: tuple[str, ...] = ()
    pattern: str = ""
    warp: bool = False


def open_scene(
    ref: str | Path | Sequence[str | Path] | Any, card: str | Card | None = None, hints: SceneHints = SceneHints()
) -> Scene:
    """A Scene from a raster, several rasters (a mosaic, or dates by pattern), a folder, a VRT."""
    if hasattr(ref, "read") and hasattr(ref, "grid"):
        return cast(Scene, ref)
    paths = [str(p) for p in ref] if isinstance(ref, Sequence) and not isinstance(ref, str) else [str(ref)]
    root, files = _files(paths)
    if not files:
        raise UserError("there is no raster", where=", ".join(paths)[:200], remedy="give .tif, .jp2 or .vrt files")
    known = card if isinstance(card, Card) else find_card(card) if card else None
    if known is None and (root / "card.toml").is_file() and not hints.sensor:
        known = load_card(root / "card.toml")
    if known is None:
        known = _propose(root, files, hints)
    stacks: list[Stack] = []
    clouds = clouds_of(root, known) if any(x.clouds for x in known.layers) else {}
    for layer in known.layers:
        mine, dates = _choose(layer, files)
        if mine:
            pieces = _pieces([str(root / f) for f in mine], dates)
            if layer.clouds:
                pieces = [replace(p, clouds=str(root / clouds[f])) for p, f in zip(pieces, mine, strict=True)]
            stacks.append(_stack(layer, pieces, hints.warp))
    name = Path(paths[0]).stem if len(paths) == 1 else f"{Path(paths[0]).stem}+{len(paths) - 1}"
    if not stacks:
        raise UserError("no file fits the card's layers", where=str(root))
    return RasterScene(known, stacks, name)


def scene_of(root: Path, card: Card, assets: Sequence[Asset], name: str, warp: bool = False) -> RasterScene:
    """The scene of one key of a folder: its files by layer and date."""
    stacks: list[Stack] = []
    for layer in card.layers:
        mine = [a for a in assets if a.layer == layer.id]
        if mine:
            pieces = _pieces([str(root / a.path) for a in mine], [a.date for a in mine])
            if layer.clouds:
                told = [a.clouds or lacks_clouds(root, a.path, layer.id, layer.clouds) for a in mine]
                pieces = [replace(p, clouds=str(root / c)) for p, c in zip(pieces, told, strict=True)]
            stacks.append(_stack(layer, pieces, warp))
    return RasterScene(card, stacks, name)


def _files(paths: list[str]) -> tuple[Path, list[str]]:
    if len(paths) == 1 and Path(paths[0]).is_dir():
        root = Path(paths[0])
        return root, [f for f in scan(root) if f.lower().endswith(RASTERS)]
    if any("://" in p or p.startswith("/vsi") for p in paths):
        return Path("."), paths
    for path in paths:
        if not Path(path).is_file():
            raise UserError("there is no such raster", where=path)
    parents = {Path(p).resolve().parent for p in paths}
    if len(parents) == 1:
        return next(iter(parents)), [Path(p).name for p in paths]
    return Path("/"), [str(Path(p).resolve())[1:] for p in paths]


def _propose(root: Path, files: list[str], hints: SceneHints) -> Card:
    plain = Hints(hints.sensor, hints.bands, hints.pattern)
    names = [f for f in files if "://" not in f and not f.startswith("/vsi")]
    if len(names) != len(files):
        raise UserError("a remote raster needs a card", where=files[0], remedy="write one, or open a STAC item")
    folders = {f.rpartition("/")[0] for f in files}
    found = propose(root, plain, files)
    if found.doubts:
        raise UserError(
            "the files do not say what they hold: " + "; ".join(found.doubts),
            where=str(root / files[0]),
            remedy=found.remedy("give a card, or name the sensor and the bands"),
        )
    if len(folders) == 1 and not hints.pattern:
        return replace(found.card, layers=tuple(replace(x, path="") for x in found.card.layers))
    return found.card


def _choose(layer: LayerCard, files: list[str]) -> tuple[list[str], list[int | None]]:
    """The files of one layer and their dates."""
    if not layer.path:
        return files, [None] * len(files)
    mine: list[str] = []
    dates: list[int | None] = []
    if "{" not in layer.path:
        base = layer.path.strip("/")
        mine = [f for f in files if f == base or f.rpartition("/")[0] == base]
        return mine, [None] * len(mine)
    pattern = Pattern(layer.path)
    for file in files:
        found = pattern.match(file)
        if found is None or (found.get("sensor") and found.get("sensor") not in (layer.id, layer.sensor)):
            continue
        mine.append(file)
        dates.append(day_of(found.get("date"), file) if found.get("date") else None)
    return mine, dates
