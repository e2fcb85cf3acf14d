"""Grid and Window: where pixels are. Pure arithmetic, no projection library."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from swath.core.errors import UserError

Affine6 = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle of pixels: `row, col` of its first pixel (may be negative before a clip), and its size."""

    row: int
    col: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 0 or self.width < 0:
            raise UserError(f"a window cannot have the size {self.height} x {self.width}")

    @property
    def stop(self) -> tuple[int, int]:
        return self.row + self.height, self.col + self.width

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def area(self) -> int:
        return self.height * self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)

    def halo(self, pixels: int) -> Window:
        """The window grown on every side (shrunk if negative, never below empty)."""
        h, w = max(0, self.height + 2 * pixels), max(0, self.width + 2 * pixels)
        return Window(self.row - pixels, self.col - pixels, h, w)

    def clip(self, other: Window) -> Window:
        """The part of this window inside the other one; empty when they do not meet."""
        r0, c0 = max(self.row, other.row), max(self.col, other.col)
        r1, c1 = min(self.stop[0], other.stop[0]), min(self.stop[1], other.stop[1])
        return Window(r0, c0, max(0, r1 - r0), max(0, c1 - c0))

    def shift(self, rows: int, cols: int) -> Window:
        return Window(self.row + rows, self.col + cols, self.height, self.width)

    def within(self, other: Window) -> Window:
        """This window in the coordinates of the other one."""
        return self.shift(-other.row, -other.col)

    def contains(self, other: Window) -> bool:
        return self.clip(other) == other

    def split(self, height: int, width: int) -> Iterator[Window]:
        """Cut into pieces of at most `height x width`, in row order; the last ones may be smaller."""
        if height <= 0 or width <= 0:
            raise UserError(f"a tile cannot have the size {height} x {width}")
        for r in range(self.row, self.stop[0], height):
            for c in range(self.col, self.stop[1], width):
                yield Window(r, c, height, width).clip(self)


@dataclass(frozen=True)
class Grid:
    """A raster's place: crs (as `EPSG:n` or WKT), affine `(a, b, c, d, e, f)` and shape `(height, width)`.

    x = a*col + b*row + c and y = d*col + e*row + f at the corner of a pixel (rasterio's order).
    """

    crs: str
    affine: Affine6
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        if len(self.affine) != 6 or not all(math.isfinite(v) for v in self.affine):
            raise UserError(f"an affine has six finite numbers, not {self.affine}")
        if self.affine[0] * self.affine[4] - self.affine[1] * self.affine[3] == 0:
            raise UserError(f"the affine {self.affine} has no area: it cannot be inverted")
        if min(self.shape) < 0:
            raise UserError(f"a grid cannot have the shape {self.shape}")

    @property
    def window(self) -> Window:
        return Window(0, 0, *self.shape)

    @property
    def gsd(self) -> tuple[float, float]:
        """Length of a pixel's side along columns and rows, in the crs's own unit."""
        a, b, _, d, e, _ = self.affine
        return math.hypot(a, d), math.hypot(b, e)

    def xy(self, row: float, col: float) -> tuple[float, float]:
        """Crs coordinates of a place in pixel coordinates (the centre of pixel (0, 0) is (.5, .5))."""
        a, b, c, d, e, f = self.affine
        return a * col + b * row + c, d * col + e * row + f

    def rowcol(self, x: float, y: float) -> tuple[float, float]:
        """Pixel coordinates (row, col) of a place; floor them for the pixel."""
        a, b, c, d, e, f = self.affine
        det = a * e - b * d
        return (a * (y - f) - d * (x - c)) / det, (e * (x - c) - b * (y - f)) / det

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """West, south, east, north over all four corners (right for rotated and south-up grids too)."""
        h, w = self.shape
        xs, ys = zip(*(self.xy(r, c) for r in (0, h) for c in (0, w)), strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def crop(self, window: Window) -> Grid:
        """The grid of a window (which may reach beyond this grid)."""
        a, b, _, d, e, _ = self.affine
        x, y = self.xy(window.row, window.col)
        return Grid(self.crs, (a, b, x, d, e, y), window.shape)

    def rescale(self, shape: tuple[int, int]) -> Grid:
        """The same extent with another number of pixels."""
        if min(shape) < 1 or min(self.shape) < 1:
            raise UserError(f"cannot rescale a grid of {self.shape} to {shape}")
        fy, fx = self.shape[0] / shape[0], self.shape[1] / shape[1]
        a, b, c, d, e, f = self.affine
        return Grid(self.crs, (a * fx, b * fy, c, d * fx, e * fy, f), shape)

    def tiles(self, size: int, halo: int = 0) -> Iterator[tuple[Window, Window]]:
        """Pairs (core, read): cores partition the grid, read = core grown by the halo, not clipped."""
        for core in self.window.split(size, size):
            yield core, core.halo(halo)
