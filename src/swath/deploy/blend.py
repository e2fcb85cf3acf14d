"""Where tiles lie and how they are blended, one axis at a time.

Tiles of one size are spread evenly over an axis, anchored at the scene's first pixel, so that their places depend on
the scene alone. Tile i has the raw weight r_i(x) = rise(x) * fall(x), straight ramps over what it shares with its
neighbours after `halo` pixels are thrown away (three eighths of the overlap where it is too small for that; as much,
but no more than twelve pixels, in any case, where padded convolutions err most), and w_i(x) = r_i(x) / sum_j r_j(x):
the weights of a pixel sum to one. What a seam adds to a step between pixels is the ramp's slope times how far the tiles
differ, so the straight ramp adds least; what a tile errs falls steeply with the distance from its edge, so a ramp must
not be long. `benchmarks/map_seams.py` measures it.

Where a cell's features are joined before anything is made of them (`mosaic`), tiles share little inside a cell and more
where two cells meet, and cells lie on an absolute lattice: see `in_cells`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swath.core import Batch, Layer, UserError

MARGIN = 12
"""Most pixels at a tile's inner edge that are left out for the sake of padded convolutions alone."""

COSTS = 1.2
"""Pixels computed per output pixel at the defaults, at most, of a large scene."""

JOIN = 32
"""Pixels that two cells of joined features share: `MARGIN` on either side and a short ramp between."""

Groups = tuple[tuple[int, int], ...]


def starts(length: int, tile: int, overlap: int, align: int = 1) -> tuple[int, ...]:
    """First pixels of the tiles over `length` pixels, `overlap` or more shared by neighbours, multiples of `align`."""
    if length < 1 or tile < 1:
        raise UserError(f"cannot lay tiles of {tile} over {length} pixels")
    if not 0 <= overlap < tile:
        raise UserError(
            f"tiles of {tile} pixels cannot overlap by {overlap}",
            where="--overlap",
            remedy=f"choose 0 to {tile - 1}",
        )
    if tile % align:
        raise UserError(f"a tile of {tile} is no multiple of {align}", where="--tile", remedy=f"choose k x {align}")
    if length <= tile:
        return (0,)
    step = (tile - overlap) // align * align
    if step < 1:
        raise UserError(
            f"an overlap of {overlap} leaves no step of {align} pixels between tiles of {tile}", where="--overlap"
        )
    last = math.ceil((length - tile) / align) * align
    gaps = math.ceil(last / step)
    return tuple(i * last // gaps // align * align for i in range(gaps + 1))


def in_cells(
    length: int, tile: int, overlap: int, cell: int, lattice: tuple[int, int]
) -> tuple[tuple[int, ...], Groups]:
    """First pixels of tiles whose features are joined cell by cell, and each cell's first and last tile.

    `lattice` is the multiple on which tiles start and the one on which cells start and end. Every cell but the last
    spans the same ground: what tiles that share `overlap` allow, or less, as far as `COSTS` bears it. Two cells share
    about `JOIN` pixels, or the overlap if that is more; what is left is shared evenly by the tiles within.
    """
    align, phase = lattice
    if length <= tile:
        return (0,), ((0, 1),)
    step = (tile - overlap) // align * align
    if not 0 <= overlap <= tile - phase or tile % phase or phase % align:
        raise UserError(f"cells of tiles of {tile} pixels cannot lie on {align} and {phase}", where="--overlap")
    shared = min(tile - phase, max(1, round(JOIN / phase), math.ceil((tile - step) / phase)) * phase)
    count = max(2, math.ceil(tile / step), round(cell / step), math.ceil((2 * shared - tile) / step) + 1)
    most = (count - 1) * step
    span = min(math.ceil(count * tile / math.sqrt(COSTS) / phase), (most + tile - shared) // phase) * phase
    last = math.ceil((length - tile) / phase) * phase
    begins = [c * span for c in range(math.ceil(max(0, last - most) / span))]
    ends = [b + span - tile + shared for b in begins]
    begins, ends = [*begins, min(len(begins) * span, last)], [*ends, last]
    places: list[int] = []
    groups: list[tuple[int, int]] = []
    for begin, end in zip(begins, ends, strict=True):
        gaps = math.ceil((end - begin) / step)
        groups.append((len(places), len(places) + gaps + 1))
        places += [begin + (i * (end - begin) // gaps // align * align if gaps else 0) for i in range(gaps + 1)]
    return tuple(places), tuple(groups)


def ramps(places: tuple[int, ...], tile: int, halo: int = 0, margin: int = MARGIN) -> tuple[NDArray[np.float64], ...]:
    """The weight of each tile along its own pixels."""
    raw: list[NDArray[np.float64]] = []
    for i, place in enumerate(places):
        one = np.ones(tile)
        if i:
            one *= _rise(tile, places[i - 1] + tile - place, halo, margin)
        if i + 1 < len(places):
            one *= _rise(tile, place + tile - places[i + 1], halo, margin)[::-1]
        raw.append(one)
    total = np.zeros(places[-1] + tile)
    for place, one in zip(places, raw, strict=True):
        total[place : place + tile] += one
    return tuple(one / total[place : place + tile] for place, one in zip(places, raw, strict=True))


def _rise(tile: int, shared: int, halo: int, margin: int) -> NDArray[np.float64]:
    part = shared * 3 // 8
    cut = max(halo, min(margin, part)) if shared >= 2 * halo + 2 else part
    return np.clip((np.arange(tile) - cut + 0.5) / max(shared - 2 * cut, 1), 0.0, 1.0)


@dataclass(frozen=True)
class Zone:
    """Pixels `start..stop` of an axis whose value comes from the tiles of these cells: one, or two that share it."""

    start: int
    stop: int
    cells: tuple[int, ...]

    @property
    def shared(self) -> bool:
        return len(self.cells) > 1


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of the lattice: tile places and weights, tiles grouped into cells, and the zones they make."""

    length: int
    tile: int
    places: tuple[int, ...]
    weights: tuple[NDArray[np.float64], ...]
    groups: Groups

    @classmethod
    def of(
        cls, length: int, tile: int, overlap: int, *, halo: int = 0, align: int = 1, cell: int = 1024, phase: int = 0
    ) -> Axis:
        """Lay tiles over an axis; a cell spans about `cell` pixels, and never meets its second neighbour. With `phase`
        cells start on its multiples: see `in_cells`."""
        if phase:
            places, groups = in_cells(length, tile, overlap, cell, (align, phase))
            return cls(length, tile, places, ramps(places, tile, halo), groups)
        places = starts(length, tile, overlap, align)
        step = min((b - a for a, b in pairwise(places)), default=tile)
        count = max(math.ceil(tile / step), round(cell / step), 1)
        n = len(places)
        groups = [(i, min(i + count, n)) for i in range(0, n, count)]
        return cls(length, tile, places, ramps(places, tile, halo), tuple(groups))

    def support(self, index: int) -> tuple[int, int]:
        """Pixels where this tile's weight is above zero, inside the scene."""
        some = np.flatnonzero(self.weights[index] > 0)
        place = self.places[index]
        return place + int(some[0]), min(place + int(some[-1]) + 1, self.length)

    def reach(self, cell: int) -> tuple[int, int]:
        """Pixels to which this cell's tiles contribute."""
        first, stop = self.groups[cell]
        return self.support(first)[0], self.support(stop - 1)[1]

    def own(self, cell: int) -> tuple[int, int]:
        """Pixels to which this cell's tiles alone contribute."""
        low, high = self.reach(cell)
        if cell:
            low = self.reach(cell - 1)[1]
        if cell + 1 < len(self.groups):
            high = self.reach(cell + 1)[0]
        return low, high

    def weight(self, cell: int) -> NDArray[np.float64]:
        """What this cell's tiles weigh together, over its reach."""
        first, stop = self.groups[cell]
        low, high = self.reach(cell)
        out = np.zeros(high - low)
        for i in range(first, stop):
            a, b = (max(low, min(high, v)) for v in self.support(i))
            out[a - low : b - low] += self.weights[i][a - self.places[i] : b - self.places[i]]
        return out

    def zones(self) -> list[Zone]:
        """The whole axis in order: what one cell knows alone, and what two must add up."""
        out: list[Zone] = []
        for c in range(len(self.groups)):
            low, high = self.own(c)
            out.append(Zone(low, high, (c,)))
            if c + 1 < len(self.groups):
                out.append(Zone(high, self.reach(c)[1], (c, c + 1)))
        return [z for z in out if z.stop > z.start]


def fill(batch: Batch) -> Batch:
    """Pixels that no date has seen take the value mirrored at the nearest seen pixel, so a model meets no cliff.

    A pixel seen on some dates only keeps its gaps: those are what `valid` is for. What is filled is `valid` for the
    model; the map's own validity was taken before and never hears of it.
    """
    layers = {k: v if bool(v.valid.all()) else _fill(v) for k, v in batch.layers.items()}
    return Batch(layers, batch.where, batch.labels)


def _fill(layer: Layer) -> Layer:
    x, valid = layer.x.clone(), layer.valid.clone()
    for b in range(x.shape[0]):
        seen = layer.valid[b, :, 0].any(0)
        if bool(seen.all()) or not bool(seen.any()):
            continue
        rows, cols, from_r, from_c = _mirror(seen)
        x[b][:, :, rows, cols] = layer.x[b][:, :, from_r, from_c]
        valid[b][:, :, rows, cols] = layer.valid[b][:, :, from_r, from_c]
    return Layer(layer.sensor, x, valid, layer.times)


def _mirror(seen: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unseen pixels, and for each the seen pixel it copies: the mirror image, or the nearest where that is unseen."""
    from scipy.ndimage import distance_transform_edt

    mask = seen.numpy()
    near: Any = distance_transform_edt(~mask, return_distances=False, return_indices=True)
    rows, cols = np.nonzero(~mask)
    near_r, near_c = near[0][rows, cols], near[1][rows, cols]
    flip_r, flip_c = 2 * near_r - rows, 2 * near_c - cols
    inside = (flip_r >= 0) & (flip_r < mask.shape[0]) & (flip_c >= 0) & (flip_c < mask.shape[1])
    good = inside.copy()
    good[inside] = mask[flip_r[inside], flip_c[inside]]
    from_r, from_c = np.where(good, flip_r, near_r), np.where(good, flip_c, near_c)
    r, c, fr, fc = (torch.from_numpy(np.ascontiguousarray(v, dtype=np.int64)) for v in (rows, cols, from_r, from_c))
    return r, c, fr, fc
