"""Windowed reads through rasterio. Memory is bounded by the window; nothing is reprojected unless asked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swath.core.errors import UserError
from swath.core.grid import Grid, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from swath.data.decode import Pixels

RASTERS = (".tif", ".tiff", ".jp2", ".vrt", ".img", ".png", ".jpg", ".jpeg", ".nc", ".dat")
_QUIET: dict[str, Any] = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO", "GDAL_CACHEMAX": 64}


@dataclass(frozen=True)
class RasterInfo:
    """What a raster's header says."""

    grid: Grid | None
    shape: tuple[int, int]
    count: int
    dtype: str
    nodata: float | None
    descriptions: tuple[str, ...]
    tags: dict[str, str]
    scales: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()


@contextmanager
def opened(path: str | Path) -> Generator[Any]:
    """A rasterio data set; what GDAL cannot read is an error that names the file."""
    import warnings

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with warnings.catch_warnings(), rasterio.Env(**_QUIET):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(str(path)) as data:
                yield data
    except (RasterioError, OSError) as why:
        raise UserError(
            f"the raster cannot be read: {str(why).splitlines()[0][:200]}",
            where=str(path),
            remedy="the file may be truncated or of another format: copy it again, or remove it",
        ) from why


@dataclass(frozen=True)
class Held:
    """A small raster that was read whole beforehand; it stands for its open data set."""

    name: str
    pixels: Pixels
    grid: Grid | None
    nodata: float | None
    descriptions: tuple[str | None, ...] = ()

    @property
    def count(self) -> int:
        return self.pixels.shape[0]

    def read(self, indexes: Sequence[int] | None = None, window: Any = None) -> Pixels:
        """As rasterio does, counting bands from 1; the caller may write into what it gets."""
        (top, bottom), (left, right) = window or ((0, self.pixels.shape[1]), (0, self.pixels.shape[2]))
        part = self.pixels[:, top:bottom, left:right]
        return part.copy() if indexes is None else part[[i - 1 for i in indexes]]


BEFOREHAND: list[Callable[[str], Held | None]] = []
"""Who may have read a sample's file before it is asked for: see `data.opening`."""


@contextmanager
def chip(path: str | Path) -> Generator[Any]:
    """One raster of a sample: as it was read beforehand, else the opened file."""
    held = next((h for ask in BEFOREHAND if (h := ask(str(path))) is not None), None)
    if held is not None:
        yield held
        return
    with opened(path) as data:
        yield data


@lru_cache(maxsize=256)  # chips share a few systems, and to look one up takes longer than to read a small header
def crs_text(crs: Any) -> str:
    """`EPSG:n` where there is one, else WKT; empty for none."""
    if crs is None or not crs:
        return ""
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else str(crs.to_wkt())


def grid_of(data: Any) -> Grid | None:
    """The grid of an open data set; None when it is not georeferenced (some files name a crs and no transform)."""
    if isinstance(data, Held):
        return data.grid
    t = data.transform
    if t.is_identity:
        return None
    try:
        return Grid(crs_text(data.crs), (t.a, t.b, t.c, t.d, t.e, t.f), (data.height, data.width))
    except UserError as error:
        raise UserError(error.what, where=str(data.name)) from error


def info(path: str | Path) -> RasterInfo:
    """Read the header."""
    with opened(path) as data:
        return RasterInfo(
            grid_of(data),
            (data.height, data.width),
            data.count,
            str(data.dtypes[0]),
            data.nodata,
            tuple(d or "" for d in data.descriptions),
            {str(k): str(v) for k, v in data.tags().items()},
            tuple(data.scales),
            tuple(data.offsets),
        )


def read(path: str | Path, channels: Sequence[int] | None = None, window: Window | None = None) -> Pixels:
    """Stored pixels (C, h, w) of 0-based `channels`; the window must lie inside."""
    with opened(path) as data:
        return read_open(data, channels, window)


def read_open(data: Any, channels: Sequence[int] | None = None, window: Window | None = None) -> Pixels:
    """As `read`, from an open data set."""
    if channels is not None and channels and max(channels) >= data.count:
        raise UserError(
            f"the file has {data.count} bands; band {max(channels) + 1} is needed",
            where=str(data.name),
            remedy="the card's bands and the file disagree: correct the card, or replace the file",
        )
    at = None if window is None else ((window.row, window.stop[0]), (window.col, window.stop[1]))
    return data.read(None if channels is None else [c + 1 for c in channels], window=at)


def lattice(start: float, length: float, n: int) -> NDArray[np.int64]:
    """The pixels whose centres n equal cells of [start, start + length) fall on (nearest, no resampling)."""
    return np.floor(start + (np.arange(n) + 0.5) * (length / n) + 1e-6).astype(np.int64)


def take(data: Any, channels: Sequence[int], rows: Pixels, cols: Pixels) -> tuple[Pixels, NDArray[np.bool_]]:
    """Pixels at these rows and columns (which may lie outside): (C, n, m) and where they lie inside (n, m)."""
    inside_r, inside_c = (rows >= 0) & (rows < data.height), (cols >= 0) & (cols < data.width)
    inside = inside_r[:, None] & inside_c[None, :]
    if not inside.any():
        return np.zeros((len(channels), len(rows), len(cols)), dtype=data.dtypes[0]), inside
    r, c = rows[inside_r].astype(int), cols[inside_c].astype(int)
    window = Window(int(r.min()), int(c.min()), int(np.ptp(r)) + 1, int(np.ptp(c)) + 1)
    part = read_open(data, channels, window)
    if not (_in_order(r) and _in_order(c)):
        part = part[:, (r - window.row)[:, None], (c - window.col)[None, :]]
    if inside.all():
        return part, inside
    out = np.zeros((len(channels), len(rows), len(cols)), dtype=data.dtypes[0])
    top, left = int(np.argmax(inside_r)), int(np.argmax(inside_c))  # what lies inside is one run of the lattice
    out[:, top : top + len(r), left : left + len(c)] = part
    return out, inside


def _in_order(index: NDArray[np.int_]) -> bool:
    """Whether these are consecutive pixels, which need no gathering."""
    return bool((np.diff(index) == 1).all())
