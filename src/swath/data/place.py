"""Where a sample lies: lon/lat of a grid's centre, and stable keys."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from swath.core.errors import UserError
from swath.core.grid import Grid
from swath.core.rng import seed_of

if TYPE_CHECKING:
    from swath.core.batch import Where

KNOWN: dict[Grid, tuple[float, float]] = {}
"""Centres that another process has found already: see `data.opening`."""


@lru_cache(maxsize=256)
def _to_lonlat(crs: str) -> Any:
    from pyproj import CRS, Transformer

    own = CRS.from_user_input(crs)
    body = own.ellipsoid is not None and abs(own.ellipsoid.semi_major_metre / 6_378_137 - 1) > 0.01
    return Transformer.from_crs(own, (own.geodetic_crs if body else None) or "EPSG:4326", always_xy=True)


def lonlat(grid: Grid | None) -> tuple[float, float]:
    """Longitude and latitude of the centre; NaN without a georeference."""
    if grid is None or not grid.crs:
        return float("nan"), float("nan")
    if grid in KNOWN:
        return KNOWN[grid]
    x, y = grid.xy(grid.shape[0] / 2, grid.shape[1] / 2)
    try:
        lon, lat = _to_lonlat(grid.crs).transform(x, y)
    except Exception as why:
        raise UserError(f"the crs cannot be used: {str(why)[:160]}", where=grid.crs[:80]) from why
    if not (-540 <= lon <= 540 and -90 <= lat <= 90):
        return float("nan"), float("nan")
    return float(lon), float(lat)


def key_of(name: str) -> int:
    """The int64 identity of a sample's name."""
    return seed_of("sample", name)


def where(name: str, grid: Grid | None, place: tuple[float, float] | None = None) -> Where:
    """One sample's place."""
    import torch  # centres are found without it

    from swath.core.batch import Where

    lon, lat = lonlat(grid) if place is None else place
    return Where(torch.tensor([key_of(name)]), torch.tensor([[lon, lat]], dtype=torch.float64), (grid,), (name,))
