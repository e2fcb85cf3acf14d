"""One cell: read the ground, cut the tiles, run the model, blend. The same function on every engine.

A cell gives its outputs where its own tiles decide alone, and weighted sums (float32) with a veto (uint8) in the four
strips that it shares with its neighbours; `finalise` turns complete sums into outputs, here and at assembly.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swath.core import Batch, Grid, Layer, Scene, SwathError, Where, Window, collate, seed_of
from swath.deploy.blend import Axis, fill
from swath.deploy.plan import Cell, Plan
from swath.deploy.predictor import Continuing, Predictor, planes

SCALE = 10_000
"""Probabilities, entropy and confidence are stored as uint16 with scale 1e-4; 65535 is nodata."""

Array = NDArray[Any]
Rect = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Ground:
    """What was read for a cell: tiles as batches of one (None: nothing seen), validity, what failed (see `Commit`), and
    the whole that tiles are views of, where it was read as one."""

    tiles: tuple[Batch | None, ...]
    valid: NDArray[np.bool_]
    holes: tuple[Rect, ...] = ()
    whole: Batch | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """A computed cell: arrays by name, how many tiles the model ran, and the windows that could not be read."""

    arrays: dict[str, Array]
    tiles: int
    holes: tuple[Rect, ...] = ()


def nodata_of(dtype: str) -> float:
    """The value that means nothing, by stored type."""
    return {"uint8": 255.0, "uint16": 65535.0, "float32": float("nan")}[dtype]


def read_cell(plan: Plan, cell: Cell, scene: Scene, holes: bool = False) -> Ground:
    """Read a cell in one piece; where that fails, tile by tile when holes are allowed, else say what failed."""
    windows = [plan.tile_window(r, c) for r, c in plan.tiles(cell)]
    try:
        whole = _read(plan, scene, cell.read)
        valid = _valid(plan, whole, cell.read)
        return Ground(tuple(cut(whole, cell.read, w, place_of(plan.grid, w)) for w in windows), valid, (), whole)
    except (SwathError, OSError, ValueError) as why:
        if not holes:
            raise unreadable(cell.read, why) from why
    tiles: list[Batch | None] = []
    lost: list[Window] = []
    valid = np.zeros(cell.read.shape, dtype=np.bool_)
    gaps: list[Rect] = []
    for w in windows:
        try:
            one, days = _read_what_can_be(plan, scene, w)
        except (SwathError, OSError, ValueError):
            tiles.append(None)
            lost.append(w)
            continue
        gaps += [(w.row, w.col, w.height, w.width, d) for d in days]
        tiles.append(cut(one, w, w, place_of(plan.grid, w)))
        valid[w.within(cell.read).slices] |= _valid(plan, one, w)
    for w in lost:
        valid[w.within(cell.read).slices] = False
    return Ground(tuple(tiles), valid, (*((w.row, w.col, w.height, w.width) for w in lost), *gaps))


def _read(plan: Plan, scene: Scene, window: Window) -> Batch:
    return _checked(plan, scene.read(window, wanted_of(plan, scene)))


def _read_what_can_be(plan: Plan, scene: Scene, window: Window) -> tuple[Batch, tuple[int, ...]]:
    """The window, and the days whose images could not be read where others can: those saw nothing."""
    try:
        return _read(plan, scene, window), ()
    except (SwathError, OSError, ValueError):
        from swath.deploy.inputs import read_days

        batch, lost = read_days(scene, window, wanted_of(plan, scene))
        return _checked(plan, batch), lost


def wanted_of(plan: Plan, scene: Scene) -> dict[str, tuple[str, ...]]:
    """The bands to read of the sensors that the scene has."""
    have = {s.id for s in scene.sensors}
    return {k: v for k, v in plan.spec.bands.items() if k in have}


def _checked(plan: Plan, batch: Batch) -> Batch:
    lacking = [i.sensor for i in plan.spec.inputs if i.required and i.sensor not in batch.layers]
    if lacking or not batch.layers:
        raise SwathError(f"there is no layer of {', '.join(lacking) or 'any sensor'}", where="scene")
    return batch


def unreadable(window: Window, why: Exception) -> SwathError:
    """A failed read, in words."""
    own = isinstance(why, SwathError)
    where = why.where if isinstance(why, SwathError) and why.where else "scene"
    return SwathError(
        f"the scene cannot be read: {why.what if own else why}",
        where=f"{where}, rows {window.row}..{window.stop[0]}, columns {window.col}..{window.stop[1]}",
        remedy="repair or fetch the file again, or pass --allow-holes to leave nodata there",
    )


def part_of(layer: Layer, read: Window, want: Window) -> Layer:
    """The piece of a layer (of any resolution, covering `read`) that covers `want`."""
    h, w = layer.shape[3:]
    place = want.within(read)
    r0, r1 = place.row * h // read.height, place.stop[0] * h // read.height
    c0, c1 = place.col * w // read.width, place.stop[1] * w // read.width
    return replace(layer, x=layer.x[..., r0:r1, c0:c1], valid=layer.valid[..., r0:r1, c0:c1])


def cut(whole: Batch, read: Window, part: Window, where: Where) -> Batch | None:
    """A part of what was read, as a sample of its own; None where nothing was seen."""
    layers = {k: part_of(v, read, part) for k, v in whole.layers.items()}
    if not any(bool(v.valid.any()) for v in layers.values()):
        return None
    return Batch(layers, where)


def place_of(grid: Grid, window: Window) -> Where:
    """Key, longitude and latitude, and grid of a window as one sample."""
    part = grid.crop(window)
    x, y = part.xy(window.height / 2, window.width / 2)
    key = seed_of(window.row, window.col, window.height, window.width)
    lonlat = torch.tensor([lonlat_of(grid.crs, x, y)], dtype=torch.float64)
    return Where(torch.tensor([key]), lonlat, (part,))


@lru_cache(maxsize=8)
def to_lonlat(crs: str) -> Any:
    """The transformer to longitude and latitude; None where the crs already is that."""
    from pyproj import CRS, Transformer

    own = CRS.from_user_input(crs)
    if own.is_geographic:
        return None
    geodetic = own.geodetic_crs
    return Transformer.from_crs(own, geodetic or "EPSG:4326", always_xy=True)


def lonlat_of(crs: str, x: float, y: float) -> tuple[float, float]:
    """Longitude and latitude of a place, NaN where the grid has no crs."""
    if not crs:
        return math.nan, math.nan
    change = to_lonlat(crs)
    return (x, y) if change is None else change.transform(x, y)


def _valid(plan: Plan, batch: Batch, read: Window) -> NDArray[np.bool_]:
    """Where the map may speak: every required sensor, and at least one, was seen on some date (a change: on all)."""
    out = seen_of(batch, read.shape)
    if plan.spec.every_date:
        steps = max((v.shape[1] for v in batch.layers.values()), default=1)
        for t in range(steps):
            moving = {k: _at(v, t) for k, v in batch.layers.items() if v.shape[1] == steps}
            out &= seen_of(Batch(moving, batch.where), read.shape)
    for item in plan.spec.inputs:
        if item.required:
            out &= seen_of(Batch({item.sensor: batch.layers[item.sensor]}, batch.where), read.shape)
    return out


def _at(layer: Layer, step: int) -> Layer:
    """One date of a layer."""
    times = None if layer.times is None else layer.times[:, step : step + 1]
    return replace(layer, x=layer.x[:, step : step + 1], valid=layer.valid[:, step : step + 1], times=times)


def seen_of(batch: Batch, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels of the grid that some sensor saw on some date."""
    out = np.zeros(shape, dtype=np.bool_)
    for layer in batch.layers.values():
        seen = layer.valid[0, :, 0].any(0).numpy()
        h, w = seen.shape
        if (h, w) != shape:
            rows, cols = np.arange(shape[0]) * h // shape[0], np.arange(shape[1]) * w // shape[1]
            seen = seen[rows[:, None], cols[None, :]]
        out |= seen
    return out


def run_cell(plan: Plan, cell: Cell, ground: Ground, predictor: Predictor) -> Outcome:
    """Predict the tiles of a cell and blend them."""
    rows, cols = plan.rows, plan.cols
    (top, bottom), (left, right) = rows.reach(cell.row), cols.reach(cell.col)
    total = torch.zeros((plan.spec.planes, bottom - top, right - left), dtype=torch.float32)
    todo = [(rc, t) for rc, t in zip(plan.tiles(cell), ground.tiles, strict=True) if t is not None]
    if plan.phase and todo:
        from swath.deploy.mosaic import answer

        answer(plan, cell, ground, predictor, total)
    for start in range(0, 0 if plan.phase else len(todo), plan.settings.batch):
        part = todo[start : start + plan.settings.batch]
        for (r, c), out in zip([rc for rc, _ in part], _predict(plan, part, predictor), strict=True):
            _add(total, out, (_span(rows, r, top, bottom), _span(cols, c, left, right)))
    valid = ground.valid[top - cell.read.row : bottom - cell.read.row, left - cell.read.col : right - cell.read.col]
    return Outcome(_split(plan, cell, total, ~valid), len(todo), ground.holes)


Placed = tuple[tuple[int, int], Batch]
"""A tile's row and column in the lattice, and what was read for it."""


@contextmanager
def together(samples: Sequence[Batch], device: str, precision: str) -> Generator[Batch]:
    """Samples, what is unseen filled, as one batch on a device, for a forward in a precision that learns nothing."""
    batch = collate([fill(s) for s in samples]).to(device)
    kind = torch.device(device).type
    with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16"):
        yield batch


Sides = tuple[bool, bool, bool, bool]
"""Whether the scene goes on above, below, left and right."""


@contextmanager
def told(plan: Plan, samples: Sequence[Batch], sides: Sequence[Sides], predictor: Predictor) -> Generator[Batch]:
    """Samples as the batch to ask a predictor for, which is told where the scene goes on."""
    settings = plan.settings
    on = torch.tensor(sides, device=settings.device)
    going = predictor.going_on(on) if isinstance(predictor, Continuing) else nullcontext()
    with together(samples, settings.device, settings.precision) as batch, going:
        yield batch


@contextmanager
def asking(plan: Plan, tiles: Sequence[Placed], predictor: Predictor) -> Generator[Batch]:
    """The same of tiles."""
    last = len(plan.rows.places) - 1, len(plan.cols.places) - 1
    sides = [(r > 0, r < last[0], c > 0, c < last[1]) for (r, c), _ in tiles]
    with told(plan, [t for _, t in tiles], sides, predictor) as batch:
        yield batch


def _predict(plan: Plan, tiles: Sequence[Placed], predictor: Predictor) -> Tensor:
    with asking(plan, tiles, predictor) as batch:
        given = predictor.predict(batch)
        return checked(plan, given, (len(batch), plan.settings.tile, plan.settings.tile), tiles[0][1].where)


def checked(plan: Plan, given: Mapping[str, Tensor], shape: tuple[int, int, int], where: Where) -> Tensor:
    """The planes of an answer, on the processor; what is not finite has no place in a map."""
    out = planes(plan.spec, given, shape).cpu()
    if not math.isfinite(float(out.sum())) and not bool(torch.isfinite(out).all()):
        bad = int((~torch.isfinite(out)).sum())
        raise SwathError(
            f"the model gave {bad} values that are not finite",
            where=f"{plan.spec.name}, tile at {where.lonlat[0].tolist()}",
            remedy="try --precision fp32; if it stays, the weights or the normalisation are wrong",
        )
    return out


def _span(axis: Axis, index: int, low: int, high: int) -> tuple[slice, slice, Tensor]:
    """Pixels of a cell's array, the same pixels of a tile, and their weights along one axis."""
    place = axis.places[index]
    start, stop = axis.support(index)
    start, stop = max(start, low), min(stop, high)
    weight = torch.from_numpy(axis.weights[index][start - place : stop - place].astype(np.float32))
    return slice(start - low, stop - low), slice(start - place, stop - place), weight


def _add(total: Tensor, out: Tensor, spans: tuple[tuple[slice, slice, Tensor], tuple[slice, slice, Tensor]]) -> None:
    (rows, tile_rows, wr), (cols, tile_cols, wc) = spans
    total[:, rows, cols].addcmul_(out[:, tile_rows, tile_cols], wr[:, None] * wc[None, :])


def _split(plan: Plan, cell: Cell, total: Tensor, veto: NDArray[np.bool_]) -> dict[str, Array]:
    """Finished outputs of what is the cell's own, and the four shared strips as sums."""
    (top, bottom), (left, right) = plan.rows.reach(cell.row), plan.cols.reach(cell.col)
    (r0, r1), (c0, c1) = plan.rows.own(cell.row), plan.cols.own(cell.col)
    own = (slice(r0 - top, r1 - top), slice(c0 - left, c1 - left))
    arrays: dict[str, Array] = dict(finalise(plan, total[:, own[0], own[1]], veto[own]))
    everything, inner = slice(0, right - left), slice(r0 - top, r1 - top)
    strips = {
        "top": (slice(0, r0 - top), everything),
        "bottom": (slice(r1 - top, bottom - top), everything),
        "left": (inner, slice(0, c0 - left)),
        "right": (inner, slice(c1 - left, right - left)),
    }
    for name, (rows, cols) in strips.items():
        if veto[rows, cols].size:
            arrays[f"{name}.sum"] = total[:, rows, cols].contiguous().numpy()
            arrays[f"{name}.veto"] = np.ascontiguousarray(veto[rows, cols]).view(np.uint8)
    return arrays


def finalise(plan: Plan, total: Tensor, veto: NDArray[np.bool_]) -> dict[str, Array]:
    """Outputs (bands, H, W) from complete weighted sums: one arithmetic for workers and assembly."""
    out: dict[str, Array] = {}
    for name, (dtype, _) in plan.layers.items():
        plane = _plane(plan, name, total).astype(dtype)
        plane[:, veto] = np.asarray(nodata_of(dtype)).astype(dtype)
        out[name] = plane
    return out


def _plane(plan: Plan, name: str, total: Tensor) -> Array:
    k = plan.spec.channels
    if name in plan.spec.extras:
        at = k + plan.spec.extras.index(name)
        return total[at : at + 1].numpy().copy()
    total = total[:k]
    match name:
        case "value":
            return total.numpy().copy()
        case "class":
            return _largest(total).numpy()
        case "proba":
            return _scaled(total)
        case "confidence":
            return _scaled(total.amax(0, keepdim=True))
        case "entropy":
            p = total.clamp(0, 1)
            nats = torch.special.entr(p).sum(0, keepdim=True)
            return _scaled(nats / math.log(max(2, plan.spec.channels)))
        case _:
            q = plan.spec.conformal or 0.0
            return (total >= 1.0 - q).sum(0, keepdim=True).clamp_min(1).numpy()


def _largest(p: Tensor) -> Tensor:
    """Index of the largest plane, the first among equals: plane by plane, many times faster than argmax over axis 0."""
    best = p[0].clone()
    index = torch.zeros_like(best, dtype=torch.int16)
    for k in range(1, len(p)):
        index.masked_fill_(p[k] > best, k)
        torch.maximum(best, p[k], out=best)
    return index[None]


def _scaled(p: Tensor) -> Array:
    return (p.clamp(0, 1) * SCALE).round().numpy()
