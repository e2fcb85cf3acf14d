"""Area on the ellipsoid, and area estimates with intervals.

`Ground` gives the ellipsoidal area of a pixel anywhere on a grid, from geodesic squares on a coarse lattice, bilinear
in between; polygons over which it changes by more than one in ten thousand are measured as geodesics, vertex by vertex.

`estimate_areas` is the stratified estimator of Olofsson et al. 2014 (https://doi.org/10.1016/j.rse.2014.02.015), with
strata = mapped classes: p_ij = W_i n_ij / n_i, area_j = A sum_i p_ij,
var(p_j) = sum_i W_i^2 (n_ij / n_i)(1 - n_ij / n_i) / (n_i - 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from swath.core import Grid, UserError
from swath.deploy.compute import lonlat_of

Floats = NDArray[np.float64]
SPACING_M = 25_000.0
NODES = 129


def _geod(crs: str) -> Any:
    from pyproj import CRS, Geod

    return CRS.from_user_input(crs).get_geod() or Geod(ellps="WGS84")


class Ground:
    """Ellipsoidal area of polygons in pixel coordinates of a grid; without a crs, pixels times their nominal area."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        if not grid.crs:
            return
        self.geod = _geod(grid.crs)
        self.rows, self.cols = (self._places(n, axis) for axis, n in enumerate(grid.shape))
        size = 0.5 * max(1.0, min(self.rows[1] - self.rows[0], self.cols[1] - self.cols[0]) / 4)
        self.table = np.array([[self._square(r, c, size) for c in self.cols] for r in self.rows])

    def _places(self, n: int, axis: int) -> Floats:
        """Lattice of nodes along an axis, close enough for bilinear interpolation."""
        h, w = self.grid.shape
        ends = [self._lonlat(*p) for p in (((0, w / 2), (h, w / 2)) if axis == 0 else ((h / 2, 0), (h / 2, w)))]
        length = abs(self.geod.inv(*ends[0], *ends[1])[2])
        count = min(NODES, max(3, math.ceil(length / SPACING_M) + 1)) if math.isfinite(length) else NODES
        return np.linspace(0.0, float(n), count)

    def _lonlat(self, row: float, col: float) -> tuple[float, float]:
        return lonlat_of(self.grid.crs, *self.grid.xy(row, col))

    def _square(self, row: float, col: float, half: float) -> float:
        """Square metres of a pixel, from a square of `half` pixels to each side."""
        ring = [(row + a * half, col + b * half) for a, b in ((-1, -1), (-1, 1), (1, 1), (1, -1))]
        lon, lat = zip(*(self._lonlat(r, c) for r, c in ring), strict=True)
        return abs(self.geod.polygon_area_perimeter(lon, lat)[0]) / (2 * half) ** 2

    def pixel(self, row: Floats, col: Floats) -> Floats:
        """Square metres of one pixel at these places."""
        r, fr = _between(self.rows, row)
        c, fc = _between(self.cols, col)
        t = self.table
        low = t[r, c] * (1 - fc) + t[r, c + 1] * fc
        return low * (1 - fr) + (t[r + 1, c] * (1 - fc) + t[r + 1, c + 1] * fc) * fr

    def areas(self, polygons: NDArray[Any]) -> Floats:
        """Square metres of polygons given in pixel coordinates."""
        planar = shapely.area(polygons)
        if not self.grid.crs or not len(polygons):
            a, b, _, d, e, _ = self.grid.affine
            return planar * abs(a * e - b * d)
        middle = shapely.get_coordinates(shapely.centroid(polygons))
        west, north, east, south = shapely.bounds(polygons).T
        here = self.pixel(middle[:, 1], middle[:, 0])
        corners = np.stack([self.pixel(r, c) for r in (north, south) for c in (west, east)])
        out = planar * here
        wide = np.flatnonzero((corners.max(0) - corners.min(0)) > 1e-4 * here)
        for i in wide.tolist():
            out[i] = self._exact(polygons[i])
        return out

    def _exact(self, polygon: Any) -> float:
        total = 0.0
        for k, ring in enumerate([polygon.exterior, *polygon.interiors]):
            dense = shapely.segmentize(ring, 64.0)
            col, row = shapely.get_coordinates(dense).T
            x, y = self.grid.xy(row, col)  # pyright: ignore[reportArgumentType]
            lon, lat = lonlat_of(self.grid.crs, x, y)
            area = abs(self.geod.polygon_area_perimeter(lon, lat)[0])
            total += area if k == 0 else -area
        return total


def _between(nodes: Floats, at: Floats) -> tuple[NDArray[np.int64], Floats]:
    index = np.clip(np.searchsorted(nodes, at, side="right") - 1, 0, len(nodes) - 2)
    return index, (at - nodes[index]) / (nodes[index + 1] - nodes[index])


@dataclass(frozen=True)
class ClassArea:
    """One class: mapped area, error-adjusted area with its interval, user's and producer's accuracy."""

    name: str
    mapped: float
    area: float
    low: float
    high: float
    standard_error: float
    users: float
    producers: float


def estimate_areas(
    confusion: NDArray[Any], mapped: Sequence[float], names: Sequence[str], level: float = 0.95
) -> list[ClassArea]:
    """Areas from a confusion matrix of a random sample within each mapped class (rows: map, columns: reference)."""
    from scipy.stats import norm

    n = np.asarray(confusion, dtype=np.float64)
    area = np.asarray(mapped, dtype=np.float64)
    if n.ndim != 2 or n.shape != (len(names), len(names)) or area.shape != (len(names),):
        raise UserError(f"{len(names)} classes, a confusion matrix of {n.shape} and {len(area)} mapped areas")
    if (n < 0).any() or (area < 0).any() or area.sum() <= 0 or not 0 < level < 1:
        raise UserError("counts and areas must not be negative, some area must be mapped, and 0 < level < 1")
    drawn = n.sum(1)
    thin = [name for name, few in zip(names, (drawn < 2) & (area > 0), strict=True) if few]
    if thin:
        raise UserError(
            f"fewer than two reference samples in the mapped class {', '.join(thin)}",
            where="confusion matrix",
            remedy="draw reference samples in every class that is on the map",
        )
    weight = area / area.sum()
    share = n / np.maximum(drawn, 1)[:, None]
    p = weight[:, None] * share
    total = p.sum(0)
    variance = (weight[:, None] ** 2 * share * (1 - share) / np.maximum(drawn - 1, 1)[:, None]).sum(0)
    error = np.sqrt(variance) * area.sum()
    z = float(norm.ppf(0.5 + level / 2))
    out: list[ClassArea] = []
    for j, name in enumerate(names):
        a = float(total[j] * area.sum())
        out.append(
            ClassArea(
                name,
                float(area[j]),
                a,
                max(0.0, a - z * float(error[j])),
                min(float(area.sum()), a + z * float(error[j])),
                float(error[j]),
                float(share[j, j]) if drawn[j] else math.nan,
                float(p[j, j] / total[j]) if total[j] > 0 else math.nan,
            )
        )
    return out
