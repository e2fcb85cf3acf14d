"""Where files lie: rectangles in their own crs, their overlaps, and the distance between nearest neighbours.

Distances are great-circle metres on a sphere of 6371008.8 m: 2 R asin(chord / 2), by a KD-tree on unit vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

RADIUS_M = 6371008.8
Floats = NDArray[np.float64]


def unit_vectors(lonlat: Floats) -> Floats:
    """Degrees (N, 2) as points on the unit sphere (N, 3)."""
    lon, lat = np.radians(lonlat[:, 0]), np.radians(lonlat[:, 1])
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], 1)


def arc_m(chord: Floats) -> Floats:
    """Great-circle metres of a chord of the unit sphere."""
    return 2 * RADIUS_M * np.arcsin(np.clip(chord / 2, 0, 1))


def great_circle_m(a: Floats, b: Floats) -> Floats:
    """Metres between pairs of lon/lat (N, 2)."""
    return arc_m(np.linalg.norm(unit_vectors(a) - unit_vectors(b), axis=1))


def nearest_m(points: Floats, others: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """For each point the distance to the nearest of `others` in metres, and which it is."""
    from scipy.spatial import KDTree

    chord, index = KDTree(unit_vectors(others)).query(unit_vectors(points))
    return arc_m(np.asarray(chord)), np.asarray(index, dtype=np.int64)


@dataclass(frozen=True)
class Footprints:
    """Rectangles `boxes` (N, 4) as west, south, east, north in each one's `crs`."""

    names: tuple[str, ...]
    crs: tuple[str, ...]
    boxes: Floats

    @property
    def geographic(self) -> bool:
        """Every crs is known, so that places on the Earth are."""
        return all(self.crs)

    @cached_property
    def corners(self) -> Floats:
        """Lon/lat of the four corners, (N, 4, 2), anticlockwise from the south-west."""
        out = np.full((len(self.names), 4, 2), np.nan)
        w, s, e, n = self.boxes.T
        xy = np.stack([np.stack([w, s], 1), np.stack([e, s], 1), np.stack([e, n], 1), np.stack([w, n], 1)], 1)
        for crs in sorted(set(self.crs) - {""}):
            rows = np.array([c == crs for c in self.crs])
            out[rows] = to_lonlat(xy[rows].reshape(-1, 2), crs).reshape(-1, 4, 2)
        return out

    @cached_property
    def centres(self) -> Floats:
        """Lon/lat of the middles."""
        vectors = unit_vectors(self.corners.reshape(-1, 2)).reshape(-1, 4, 3).mean(1)
        return np.degrees(
            np.stack(
                [np.arctan2(vectors[:, 1], vectors[:, 0]), np.arctan2(vectors[:, 2], np.hypot(*vectors[:, :2].T))], 1
            )
        )


def to_lonlat(xy: Floats, crs: str) -> Floats:
    """Coordinates (N, 2) of a crs as longitude and latitude in degrees."""
    from pyproj import Transformer

    if crs == "EPSG:4326":
        return xy
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(xy[:, 0], xy[:, 1])
    return np.stack([lon, lat], 1)


def overlaps(one: Footprints, two: Footprints) -> list[tuple[int, int, float]]:
    """Pairs (index in one, index in two, shared area as a share of the one), exact where the crs is the same."""
    import shapely

    found: list[tuple[int, int, float]] = []
    for crs in sorted(set(one.crs) & set(two.crs)):
        a = np.flatnonzero([c == crs for c in one.crs])
        b = np.flatnonzero([c == crs for c in two.crs])
        found += _crossing(shapely.box(*one.boxes[a].T), a, shapely.box(*two.boxes[b].T), b)
    if len((set(one.crs) | set(two.crs)) - {""}) > 1:
        (a, ia), (b, ib) = _known(one), _known(two)
        one_, two_ = ([shapely.Polygon(p) for p in corners] for corners in (a, b))
        pairs = _crossing(np.array(one_), ia, np.array(two_), ib)
        found += [(i, j, share) for i, j, share in pairs if one.crs[i] != two.crs[j]]
    return found


def _known(prints: Footprints) -> tuple[Floats, NDArray[np.int64]]:
    rows = np.flatnonzero(np.isfinite(prints.corners).all((1, 2)))
    return prints.corners[rows], rows


def _crossing(a: Any, ia: NDArray[np.int64], b: Any, ib: NDArray[np.int64]) -> list[tuple[int, int, float]]:
    import shapely

    tree = shapely.STRtree(b)
    left, right = tree.query(a, predicate="intersects")
    area = shapely.area(shapely.intersection(a[left], b[right]))
    whole = np.maximum(np.minimum(shapely.area(a[left]), shapely.area(b[right])), 1e-300)
    share = area / whole
    return [(int(ia[i]), int(ib[j]), float(s)) for i, j, s in zip(left, right, share, strict=True) if s > 1e-9]


def nearest(one: Footprints, two: Footprints, candidates: int = 8) -> tuple[Floats, NDArray[np.int64]]:
    """Edge-to-edge metres from each of `one` to the nearest of `two` (0 where they touch), and which it is."""
    from scipy.spatial import KDTree

    k = min(candidates, len(two.names))
    _, index = KDTree(unit_vectors(two.centres)).query(unit_vectors(one.centres), k=k)
    index = np.asarray(index, dtype=np.int64).reshape(len(one.names), k)
    gaps = np.stack([_gap(one, np.arange(len(one.names)), two, index[:, j]) for j in range(k)], 1)
    best = gaps.argmin(1)
    rows = np.arange(len(one.names))
    return gaps[rows, best], index[rows, best]


def _gap(one: Footprints, i: NDArray[np.int64], two: Footprints, j: NDArray[np.int64]) -> Floats:
    low, high = one.corners[i].min(1), one.corners[i].max(1)
    low2, high2 = two.corners[j].min(1), two.corners[j].max(1)
    apart = np.maximum(0, np.maximum(low2 - high, low - high2))
    middle = np.radians((np.maximum(low, low2) + np.minimum(high, high2))[:, 1] / 2)
    degree = np.pi * RADIUS_M / 180
    out = np.hypot(apart[:, 0] * np.cos(middle), apart[:, 1]) * degree
    metric = np.array([one.crs[a] == two.crs[b] and _is_metric(one.crs[a]) for a, b in zip(i, j, strict=True)])
    if metric.any():
        a, b = one.boxes[i[metric]], two.boxes[j[metric]]
        dx = np.maximum(0, np.maximum(b[:, 0] - a[:, 2], a[:, 0] - b[:, 2]))
        dy = np.maximum(0, np.maximum(b[:, 1] - a[:, 3], a[:, 1] - b[:, 3]))
        out[metric] = np.hypot(dx, dy)
    return out


def _is_metric(crs: str) -> bool:
    return crs.startswith(("EPSG:326", "EPSG:327"))
