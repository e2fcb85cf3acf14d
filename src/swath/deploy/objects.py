"""Objects across tiles: each tile proposes boxes, one suppression over the whole scene decides.

A box counts where its centre lies in the tile's share of the scene, so halves seen from a neighbour do not compete;
what is left is suppressed greedily by score within a class, found through an index, in an order that no tiling changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from swath.core import UserError, Window


@dataclass(frozen=True, eq=False)
class Objects:
    """Boxes in pixels of the scene `xyxy` (N, 4), with scores, classes and, where there are any, outlines."""

    xyxy: NDArray[np.float64]
    score: NDArray[np.float64]
    label: NDArray[np.int64]
    outline: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        n = len(self.score)
        if self.xyxy.shape != (n, 4) or self.label.shape != (n,):
            raise UserError(f"{n} scores, boxes of {self.xyxy.shape}, classes of {self.label.shape}")

    def take(self, keep: NDArray[Any]) -> Objects:
        outline = None if self.outline is None else self.outline[keep]
        return Objects(self.xyxy[keep], self.score[keep], self.label[keep], outline)

    def __len__(self) -> int:
        return len(self.score)


def place(objects: Objects, tile: Window, share: Window) -> Objects:
    """A tile's objects (in its own pixels) in the scene's pixels, those whose centre lies in the tile's share."""
    moved = objects.xyxy + np.array([tile.col, tile.row, tile.col, tile.row])
    x, y = (moved[:, 0] + moved[:, 2]) / 2, (moved[:, 1] + moved[:, 3]) / 2
    r, c = share.slices
    keep = np.flatnonzero((y >= r.start) & (y < r.stop) & (x >= c.start) & (x < c.stop))
    outline = None
    if objects.outline is not None:
        outline = shapely.transform(objects.outline, lambda xy: xy + np.array([tile.col, tile.row]))
    return Objects(moved, objects.score, objects.label, outline).take(keep)


def join(parts: Sequence[Objects]) -> Objects:
    """Objects of many tiles as one set."""
    outlined = [p.outline for p in parts if p.outline is not None]
    return Objects(
        np.concatenate([p.xyxy for p in parts]) if parts else np.zeros((0, 4)),
        np.concatenate([p.score for p in parts]) if parts else np.zeros(0),
        np.concatenate([p.label for p in parts]) if parts else np.zeros(0, dtype=np.int64),
        np.concatenate(outlined) if parts and len(outlined) == len(parts) else None,
    )


WITHIN = 0.7
"""Of an object that lies so far inside a better one of its class nothing is told: it is a part of that one. A detector
that is sure of a house is half as sure of its halves, which overlap it too little for the other rule."""


def suppress(objects: Objects, iou: float = 0.5, within: float = WITHIN) -> Objects:
    """Greedy non-maximum suppression within each class; outlines decide where there are any, else boxes."""
    if not len(objects):
        return objects
    shapes = objects.outline
    if shapes is None:
        shapes = shapely.box(*objects.xyxy.T)
    order = np.lexsort((*objects.xyxy.T, objects.label, -objects.score))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    a, b = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    better = (rank[a] < rank[b]) & (objects.label[a] == objects.label[b])
    a, b = a[better], b[better]
    inner = shapely.area(shapely.intersection(shapes[a], shapes[b]))
    union = shapely.area(shapes[a]) + shapely.area(shapes[b]) - inner
    clash = (inner > iou * np.maximum(union, 1e-12)) | (inner > within * np.maximum(shapely.area(shapes[b]), 1e-12))
    a, b = a[clash], b[clash]
    dead = np.zeros(len(order), dtype=np.bool_)
    for i in np.argsort(rank[a], kind="stable"):
        if not dead[a[i]]:
            dead[b[i]] = True
    return objects.take(order[~dead[order]])
