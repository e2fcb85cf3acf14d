"""A cell's features as one map, from which answers are made in a few large blocks: seams have nowhere to stand.

An answer errs near the edges of what it is made from, for there a decoder's convolutions see zeros (or a guess, see
`edges`): so a map's seams lie where its tiles end. The encoder needs tiles, its attention sees them whole; what stands
on it does not. Tile i's features f_i, with straight ramps w_i over what tiles share, make the cell's

    F(u) = sum_i w_i(u) f_i(u) / sum_i w_i(u)

and blocks of F, each with `Plan.margin` pixels more on every side that are thrown away, are answered one by one. Where
a block ends its neighbour has the same features. Only where two units of work meet do their answers blend, deep inside
both (`blend.in_cells`). What is computed, and in which order sums run, depends on plan and cell alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swath.core import Batch, Features, Layer, SwathError, UserError, Where, Window
from swath.deploy.blend import Axis, ramps
from swath.deploy.compute import Ground, checked, cut, part_of, place_of, together, told
from swath.deploy.plan import Cell, Plan
from swath.deploy.predictor import Predictor, Stepwise

BLOCK = 528
"""Pixels of a block's side, about: half a unit of work, four tiles' memory, no more margins than tiles had overlaps."""


@dataclass(frozen=True)
class Span:
    """One axis of a block: pixels that are answered, those that are kept, and whether the scene goes on at its ends."""

    start: int
    stop: int
    keep: tuple[int, int]
    beyond: tuple[bool, bool]


def blocks(axis: Axis, cell: int, phase: int, margin: int) -> list[Span]:
    """The blocks of a cell along an axis, on multiples of `phase` from where its features begin."""
    first, stop = axis.groups[cell]
    start, end = axis.places[first], axis.places[stop - 1] + axis.tile
    low, high = axis.reach(cell)
    count = max(1, round((end - start) / BLOCK))
    ends = [start + (end - start) * i // count // phase * phase for i in range(count)] + [end]
    out: list[Span] = []
    for a, b in pairwise(ends):
        keep = max(a, low), min(b, high)
        if keep[0] < keep[1]:
            wide = max(start, a - margin), min(end, b + margin)
            beyond = first > 0 or wide[0] > start, stop < len(axis.places) or wide[1] < end
            out.append(Span(*wide, keep, beyond))
    return out


def answer(plan: Plan, cell: Cell, ground: Ground, predictor: Predictor, total: Tensor) -> None:
    """Write a cell's weighted answers into its sums."""
    if not isinstance(predictor, Stepwise):
        raise UserError("it declares a stride and cannot be asked in two steps", where=plan.spec.name)
    whole = _whole(plan, cell, ground) if ground.whole is None else ground.whole
    axes = ((plan.rows, cell.row), (plan.cols, cell.col))
    down, along = (torch.from_numpy(axis.weight(i).astype(np.float32)) for axis, i in axes)
    top, left = (axis.reach(i)[0] for axis, i in axes)
    found = _features(plan, cell, ground, predictor)
    for r, c in product(*(blocks(axis, i, plan.phase, plan.margin) for axis, i in axes)):
        window = Window(r.start, c.start, r.stop - r.start, c.stop - c.start)
        sample = cut(whole, cell.read, window, place_of(plan.grid, window))
        if sample is None:
            continue
        with told(plan, [sample], [(*r.beyond, *c.beyond)], predictor) as batch:
            features = found.part(window.within(cell.read))
            out = checked(plan, predictor.answer(features, batch), (1, *window.shape), sample.where)[0]
        (r0, r1), (c0, c1) = r.keep, c.keep
        kept = out[:, r0 - r.start : r1 - r.start, c0 - c.start : c1 - c.start]
        weight = down[r0 - top : r1 - top, None] * along[None, c0 - left : c1 - left]
        torch.mul(kept, weight, out=total[:, r0 - top : r1 - top, c0 - left : c1 - left])
        del out, kept, features  # they are large, and the next block needs its own


@dataclass(frozen=True, eq=False)
class _Joined:
    """Features of a whole cell (1, D, H, W), in the type in which tiles gave theirs."""

    maps: tuple[Tensor, ...]
    like: Features
    stride: int

    def part(self, place: Window) -> Features:
        """Those of a window of the cell."""
        (top, left), (bottom, right) = (place.row, place.col), place.stop
        s = self.stride
        maps = tuple(
            m[:, :, top // s : bottom // s, left // s : right // s].to(own.dtype)
            for m, own in zip(self.maps, self.like.maps, strict=True)
        )
        return Features(maps, torch.full_like(self.like.pooled[:1], math.nan), self.like.strides)


@torch.inference_mode()
def _features(plan: Plan, cell: Cell, ground: Ground, predictor: Stepwise) -> _Joined:
    stride, settings = plan.spec.stride, plan.settings
    n, (height, width) = settings.tile // stride, (v // stride for v in cell.read.shape)
    (top, _), (left, _) = plan.rows.groups[cell.row], plan.cols.groups[cell.col]
    down, along = _ramps(plan.rows, cell.row, stride), _ramps(plan.cols, cell.col, stride)
    todo = [(rc, t) for rc, t in zip(plan.tiles(cell), ground.tiles, strict=True) if t is not None]
    cover = torch.zeros(height, width)
    maps: tuple[Tensor, ...] = ()
    like: Features | None = None
    for start in range(0, len(todo), settings.batch):
        part = todo[start : start + settings.batch]
        with together([t for _, t in part], settings.device, settings.precision) as batch:
            like = predictor.features(batch)
        if not maps:
            maps = tuple(m.new_zeros((1, m.shape[1], height, width), dtype=torch.float32) for m in like.maps)
        for i, ((row, col), _) in enumerate(part):
            place = plan.tile_window(row, col).within(cell.read)
            r, c = place.row // stride, place.col // stride
            at = slice(r, r + n), slice(c, c + n)
            weight = down[row - top][:, None] * along[col - left][None]
            cover[at] += weight
            weight = weight.to(settings.device)
            for whole, own in zip(maps, like.maps, strict=True):
                if own.shape[-2:] != weight.shape:
                    raise SwathError(
                        f"its features of a tile are {tuple(own.shape[-2:])}, not {tuple(weight.shape)}, though it "
                        f"declares cells of {stride} pixels",
                        where=plan.spec.name,
                    )
                whole[0][:, *at].addcmul_(own[i].float(), weight)
    assert like is not None
    if len(todo) < len(ground.tiles):
        _complete(maps, cover)
    return _Joined(maps, like, stride)


def _ramps(axis: Axis, cell: int, stride: int) -> list[Tensor]:
    """Weights of a cell's tiles over their features, straight over all that they share."""
    first, stop = axis.groups[cell]
    places = tuple(p // stride for p in axis.places[first:stop])
    return [torch.from_numpy(w.astype(np.float32)) for w in ramps(places, axis.tile // stride, margin=0)]


def _complete(maps: Sequence[Tensor], cover: Tensor) -> None:
    """Where tiles are missing (nothing was seen there), the others' features alone, and beyond them the nearest."""
    from scipy.ndimage import distance_transform_edt

    near: Any = distance_transform_edt(cover.numpy() <= 0, return_distances=False, return_indices=True)
    rows, cols = (torch.from_numpy(v.astype(np.int64)) for v in near)
    for m in maps:
        m.div_(cover.clamp_min(torch.finfo(torch.float32).tiny).to(m.device))
        m.copy_(m[:, :, rows, cols])


def _whole(plan: Plan, cell: Cell, ground: Ground) -> Batch:
    """The ground of a cell that was read tile by tile: each where it is seen."""
    layers: dict[str, Layer] = {}
    for (row, col), tile in zip(plan.tiles(cell), ground.tiles, strict=True):
        window = plan.tile_window(row, col)
        for name, own in () if tile is None else tile.layers.items():
            if name not in layers:
                h, w = (v * n // t for v, n, t in zip(cell.read.shape, own.shape[3:], window.shape, strict=True))
                blank, unseen = own.x.new_zeros((*own.shape[:3], h, w)), own.valid.new_zeros((*own.shape[:2], 1, h, w))
                layers[name] = replace(own, x=blank, valid=unseen)
            at = part_of(layers[name], cell.read, window)
            at.x.copy_(torch.where(own.valid, own.x, at.x))
            at.valid.logical_or_(own.valid)
    return Batch(layers, Where.unknown(1))
