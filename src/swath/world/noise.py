"""Counter-based noise on an absolute lattice: every value is a pure function of (seed, place).

A field of wavelength L has hashed values in [-1, 1] at the nodes k*L and a cubic B-spline between them,
f(u) = sum_k b(u - k) v_k, so any window of any size at any place sees the same smooth surface, without a seam.
Sums run in a fixed order with element-wise operations only (no BLAS), so results are bit-identical however a
scene is cut into windows or spread over processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from swath.core import Grid
from swath.core.rng import seed_of

Plane: TypeAlias = NDArray[Any]
CRS = "EPSG:6933"
_UNIT_STD = np.float32(3.613)  # 1 / std of a 2-D cubic B-spline of uniform values: sqrt(3) * 315 / 151
_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Frame:
    """A rectangle of the absolute pixel lattice at `gsd` metres: pixel (row, col) spans x in [col, col+1) * gsd."""

    gsd: float
    row: int
    col: int
    height: int
    width: int
    axes: dict[Any, Any] = field(default_factory=dict[Any, Any], compare=False, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    def x(self) -> Plane:
        """Easting of the pixel centres, float64."""
        return (np.arange(self.col, self.col + self.width, dtype=np.float64) + 0.5) * self.gsd

    def y(self) -> Plane:
        """Northing of the pixel centres, float64, falling with the row."""
        return -(np.arange(self.row, self.row + self.height, dtype=np.float64) + 0.5) * self.gsd

    def grow(self, pixels: int) -> Frame:
        return Frame(self.gsd, self.row - pixels, self.col - pixels, self.height + 2 * pixels, self.width + 2 * pixels)

    @property
    def grid(self) -> Grid:
        g = self.gsd
        return Grid(CRS, (g, 0.0, self.col * g, 0.0, -g, -self.row * g), self.shape)


@lru_cache(maxsize=4096)
def sub(seed: int, name: str) -> int:
    """The 32-bit seed of a named stream."""
    return seed_of(seed, name) & _MASK


def mix(h: Plane) -> Plane:
    """Bit mixer for uint32 (the finaliser of MurmurHash3, public domain), in place."""
    t = h >> np.uint32(16)
    h ^= t
    h *= np.uint32(0x85EBCA6B)
    np.right_shift(h, np.uint32(13), out=t)
    h ^= t
    h *= np.uint32(0xC2B2AE35)
    np.right_shift(h, np.uint32(16), out=t)
    h ^= t
    return h


def hash_grid(seed: int, iy: Plane, ix: Plane) -> Plane:
    """uint32 hashes over the outer product of two integer axes."""
    columns = mix(ix.astype(np.uint32) * np.uint32(0x9E3779B1) + np.uint32(seed & _MASK))
    return mix(columns[None, :] + iy.astype(np.uint32)[:, None] * np.uint32(0x27D4EB2F))


def hash_grids(seeds: Plane, iy: Plane, ix: Plane) -> Plane:
    """`hash_grid` of several seeds at once, (S, rows, columns)."""
    columns = mix(ix.astype(np.uint32) * np.uint32(0x9E3779B1) + seeds[:, None])
    return mix(columns[:, None, :] + (iy.astype(np.uint32) * np.uint32(0x27D4EB2F))[:, None])


def rehash(h: Plane, salt: int) -> Plane:
    """A new independent hash of hashes."""
    return mix(h * np.uint32(0x9E3779B1) + np.uint32(salt & _MASK))


def unit(h: Plane) -> Plane:
    """uint32 as float32 in [0, 1)."""
    return (h >> np.uint32(8)).astype(np.float32) * np.float32(1 / 16777216)


def pixel_hash(frame: Frame, seed: int) -> Plane:
    """One uint32 per pixel of the lattice."""
    rows = np.arange(frame.row, frame.row + frame.height, dtype=np.int64)
    cols = np.arange(frame.col, frame.col + frame.width, dtype=np.int64)
    return hash_grid((seed ^ round(frame.gsd * 1000) * 0x61C88647) & _MASK, rows, cols)


def _axis(c: Plane, spacing: float) -> tuple[int, int, Plane, Plane]:
    """First node, number of nodes, index of each sample's first node, and its four B-spline weights (4, n)."""
    u = c / spacing
    cell = np.floor(u)
    t = (u - cell).astype(np.float32)
    nodes = cell.astype(np.int64) - 1
    first = int(min(nodes[0], nodes[-1]))
    count = int(max(nodes[0], nodes[-1])) - first + 4
    s = np.float32(1) - t
    t2, t3 = t * t, t * t * t
    w = np.empty((4, len(c)), np.float32)
    w[0], w[1], w[2], w[3] = s * s * s, 3 * t3 - 6 * t2 + 4, 3 * (t + t2 - t3) + 1, t3
    w *= np.float32(1 / 6)
    return first, count, nodes - first, w


def axes(frame: Frame, spacing: float, dx: float = 0.0, dy: float = 0.0) -> tuple[Any, Any]:
    """The lattice axes of a frame (rows, columns), computed once."""
    key = (spacing, dx, dy)
    if key not in frame.axes:
        frame.axes[key] = (_axis(frame.y() + dy, spacing), _axis(frame.x() + dx, spacing))
    return frame.axes[key]


def spline(frame: Frame, spacing: float, nodes: Plane, dx: float = 0.0, dy: float = 0.0) -> Plane:
    """B-spline surfaces (S, H, W) from node values (rows, S, columns) on the lattice of `axes`."""
    (_, _, iy, wy), (_, _, ix, wx) = axes(frame, spacing, dx, dy)
    count, stack, columns = nodes.shape
    flat = nodes.reshape(count, stack * columns)
    rows = flat[iy] * wy[0][:, None]
    for k in range(1, 4):
        rows += flat[iy + k] * wy[k][:, None]
    ends = np.flatnonzero(ix[1:] != ix[:-1]) + 1
    if len(ends) < 4:
        return _by_runs(rows.reshape(frame.height, stack, columns), ix, wx, ends)
    turned = np.ascontiguousarray(rows.reshape(frame.height, stack, columns).transpose(1, 2, 0))
    out = turned[:, ix] * wx[0][None, :, None]
    for k in range(1, 4):
        part = turned[:, ix + k]
        part *= wx[k][None, :, None]
        out += part
    return np.ascontiguousarray(out.transpose(0, 2, 1))


def _by_runs(rows: Plane, ix: Plane, wx: Plane, ends: Plane) -> Plane:
    """The column pass where few nodes span the frame: the same sums in the same order, run by run."""
    planes = rows.transpose(1, 0, 2)[..., None]
    out = np.empty((*planes.shape[:2], len(ix)), np.float32)
    for a, b in zip([0, *ends.tolist()], [*ends.tolist(), len(ix)], strict=True):
        first, w = int(ix[a]), wx[:, a:b]
        # one run fills the frame: add up in place; else in a buffer whose rows lie together
        total = out if b - a == len(ix) else np.empty((*out.shape[:2], b - a), np.float32)
        part = np.empty_like(total)
        np.multiply(planes[:, :, first], w[0], out=total)
        for k in range(1, 4):
            np.multiply(planes[:, :, first + k], w[k], out=part)
            total += part
        if total is not out:
            out[:, :, a:b] = total
    return out


def fields(frame: Frame, seeds: Sequence[int], wavelength: float, dx: float = 0.0, dy: float = 0.0) -> Plane:
    """Independent smooth fields of unit standard deviation, (S, H, W) float32."""
    (y0, ny, _, _), (x0, nx, _, _) = axes(frame, wavelength, dx, dy)
    iy, ix = np.arange(y0, y0 + ny), np.arange(x0, x0 + nx)
    hashes = hash_grids(np.array([s & _MASK for s in seeds], np.uint32), iy, ix)
    nodes = np.right_shift(hashes, np.uint32(8), out=hashes).transpose(1, 0, 2).astype(np.float32, order="C")
    nodes *= np.float32(_UNIT_STD / 8388608)
    nodes -= _UNIT_STD
    return spline(frame, wavelength, nodes, dx, dy)


def smooth(frame: Frame, seed: int, wavelength: float) -> Plane:
    """One field of unit standard deviation (H, W)."""
    return fields(frame, (seed,), wavelength)[0]


def fbm(frame: Frame, seed: int, octaves: Sequence[tuple[float, float]], dx: float = 0.0, dy: float = 0.0) -> Plane:
    """Sum of octaves (wavelength in metres, amplitude); those the pixels cannot carry are left out."""
    total = np.zeros(frame.shape, np.float32)
    for i, (wavelength, amplitude) in enumerate(octaves):
        if wavelength >= 2 * frame.gsd:
            part = fields(frame, ((seed + 0x9E3779B1 * (i + 1)) & _MASK,), wavelength, dx, dy)[0]
            part *= np.float32(amplitude)
            total += part
    return total


def from_nodes(frame: Frame, spacing: float, at: Callable[[Plane, Plane], Plane]) -> Plane:
    """Surfaces (S, H, W) through a function of node eastings and northings (each 2-D) giving (S, rows, columns)."""
    (y0, ny, _, _), (x0, nx, _, _) = axes(frame, spacing)
    xs, ys = np.meshgrid(np.arange(x0, x0 + nx) * spacing, np.arange(y0, y0 + ny) * spacing)
    return spline(frame, spacing, np.ascontiguousarray(at(xs, ys).astype(np.float32).transpose(1, 0, 2)))
