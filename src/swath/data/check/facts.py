"""What one file says about itself: read once, in bounded memory, reduced to about a kilobyte.

Worker processes import this module: it needs NumPy and rasterio and nothing heavier.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from swath.data.check.likeness import signature

Role = Literal["image", "label"]
COLUMNS = ("min", "max", "mean", "std", "p01", "p50", "p99", "nan", "inf", "nodata", "zero", "count")
COLUMN = {name: i for i, name in enumerate(COLUMNS)}
STRIP_BYTES = 32 << 20
ZERO_TAIL = 64
MOST_CLASSES = 1024
_DATE_TAGS = ("date", "time", "acquisition", "sensing")
_NOT_DATES = ("timezone", "exposure", "time_unit", "runtime", "creation", "generation")


@dataclass(frozen=True)
class Profile:
    """What files of one kind share; equal profiles are one object in the survey."""

    bands: int
    dtype: str
    shape: tuple[int, int]
    crs: str
    nodata: float | None
    names: tuple[str, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]

    def band(self, index: int, names: tuple[str, ...] = ()) -> str:
        """How to call a band for people: its description and its 1-based number."""
        known = self.names if any(self.names) else names
        name = known[index] if index < len(known) else ""
        return f"{name} (band {index + 1})" if name else f"band {index + 1}"


@dataclass(slots=True)
class Facts:
    """One raster. `stats` is (bands, COLUMNS) float32; `classes` the histogram of a label of few values."""

    file: str
    error: str = ""
    profile: Profile | None = None
    affine: tuple[float, ...] = ()
    stats: NDArray[np.float32] | None = None
    classes: dict[int, int] | None = None
    continuous: bool = False
    digest: bytes = b""
    look: NDArray[np.float16] | None = None
    dates: tuple[str, ...] = ()
    legend: dict[int, str] = field(default_factory=dict[int, str])

    def column(self, name: str) -> NDArray[np.float32]:
        assert self.stats is not None
        return self.stats[:, COLUMN[name]]


class Tally:
    """Exact count, extremes, mean and spread per band over blocks (Chan's merge), and a thinned sample."""

    def __init__(self, bands: int, nodata: float | None) -> None:
        self.nodata = nodata
        self.stats = np.zeros((bands, len(COLUMNS)))
        self.low, self.high = np.full(bands, np.inf), np.full(bands, -np.inf)
        self.n, self.mean, self.m2 = np.zeros(bands), np.zeros(bands), np.zeros(bands)
        self.thin: list[NDArray[Any]] = []

    def add(self, block: NDArray[Any], step: tuple[int, int]) -> None:
        flat = block.reshape(block.shape[0], -1)
        self.stats[:, COLUMN["count"]] += flat.shape[1]
        valid = self._valid(flat)
        self.thin.append(block[:, :: step[0], :: step[1]])
        self.stats[:, COLUMN["zero"]] += flat.shape[1] - np.count_nonzero(flat, axis=1)
        if valid is None:
            self._merge_whole(flat)
            return
        for i in range(len(flat)):
            part = flat[i][valid[i]]
            if part.size:
                self._merge(slice(i, i + 1), part[None])

    def _valid(self, flat: NDArray[Any]) -> NDArray[np.bool_] | None:
        bad: NDArray[np.bool_] | None = None
        if flat.dtype.kind == "f":
            finite = np.isfinite(flat)
            if not finite.all():
                nan = np.isnan(flat)
                declared = self.nodata is not None and math.isnan(self.nodata)
                self.stats[:, COLUMN["nodata" if declared else "nan"]] += nan.sum(1)
                self.stats[:, COLUMN["inf"]] += (~finite & ~nan).sum(1)
                bad = ~finite
        if self.nodata is not None and not math.isnan(self.nodata):
            hit = flat == flat.dtype.type(self.nodata) if _fits(self.nodata, flat.dtype) else None
            if hit is not None and hit.any():
                self.stats[:, COLUMN["nodata"]] += hit.sum(1)
                bad = hit if bad is None else bad | hit
        return None if bad is None else ~bad

    def _merge_whole(self, flat: NDArray[Any]) -> None:
        self._merge(slice(0, len(flat)), flat)

    def _merge(self, rows: slice, part: NDArray[Any]) -> None:
        n = part.shape[1]
        self.low[rows] = np.minimum(self.low[rows], part.min(1))
        self.high[rows] = np.maximum(self.high[rows], part.max(1))
        wide = part.astype(np.float64)
        mean = wide.mean(1)
        wide -= mean[:, None]
        m2 = np.einsum("ij,ij->i", wide, wide)
        total, delta = self.n[rows] + n, mean - self.mean[rows]
        self.m2[rows] += m2 + delta**2 * self.n[rows] * n / total
        self.mean[rows] += delta * n / total
        self.n[rows] = total

    def table(self, thin: NDArray[Any]) -> NDArray[np.float32]:
        seen = self.n > 0
        out = self.stats
        for name, value in (("min", self.low), ("max", self.high), ("mean", self.mean)):
            out[:, COLUMN[name]] = np.where(seen, value, np.nan)
        out[:, COLUMN["std"]] = np.where(seen, np.sqrt(self.m2 / np.maximum(self.n, 1)), np.nan)
        first = COLUMN["p01"]
        out[:, first : first + 3] = self._quantiles(thin.reshape(len(thin), -1))
        return out.astype(np.float32)

    def _quantiles(self, flat: NDArray[Any]) -> NDArray[np.float64]:
        valid = np.isfinite(flat) if flat.dtype.kind == "f" else None
        if self.nodata is not None and not math.isnan(self.nodata) and _fits(self.nodata, flat.dtype):
            kept = flat != flat.dtype.type(self.nodata)
            valid = kept if valid is None else valid & kept
        rows = list(flat) if valid is None or valid.all() else [r[v] for r, v in zip(flat, valid, strict=True)]
        out = np.full((len(flat), 3), np.nan)
        for i, row in enumerate(rows):
            if row.size:
                k = [int(q * (row.size - 1)) for q in (0.01, 0.5, 0.99)]
                out[i] = np.partition(row, k)[k]
        return out


def _fits(value: float, dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "f":
        return True
    info = np.iinfo(dtype)
    return float(value).is_integer() and info.min <= value <= info.max


def _strips(src: Any) -> Iterator[NDArray[Any]]:
    from rasterio.windows import Window

    row_bytes = max(1, src.count * src.width * np.dtype(src.dtypes[0]).itemsize)
    if row_bytes * src.height <= STRIP_BYTES:
        yield src.read()
        return
    block = max(1, int(src.block_shapes[0][0]))
    rows = max(block, STRIP_BYTES // row_bytes // block * block)
    for row in range(0, src.height, rows):
        part: Any = Window
        yield src.read(window=part(0, row, src.width, min(rows, src.height - row)))


_CRS_NAMES: dict[Any, str] = {}


def _crs_name(crs: Any) -> str:
    if crs is None:
        return ""
    wkt = crs.wkt
    if wkt not in _CRS_NAMES:
        code = crs.to_epsg()
        _CRS_NAMES[wkt] = f"EPSG:{code}" if code else wkt
    return _CRS_NAMES[wkt]


def _dates(src: Any) -> tuple[str, ...]:
    """Dates that the file itself states: data set tags first, then one per band."""
    found: list[str] = []
    for name, text in src.tags().items():
        low = name.lower()
        if any(w in low for w in _DATE_TAGS) and not any(w in low for w in _NOT_DATES):
            found += [p.strip(" []'\"") for p in text.replace(";", ",").split(",") if p.strip(" []'\"")]
    if src.count > 1 or not found:
        per_band = [t for i in range(1, src.count + 1) for k, t in src.tags(i).items() if k.lower() in _BAND_DATES]
        found += per_band
    if not found:
        named = [m.group(1) for d in src.descriptions if d and (m := _DATED.search(d))]
        found += named if len(named) == src.count else []
    return tuple(found)


_DATED = re.compile(r"(?<!\d)((?:19|20)\d{2}-?\d{2}-?\d{2})(?!\d)")
_BAND_DATES = ("date", "datetime", "time", "acquisition_date", "timestamp", "sensing_time")


def read_facts(root: str, file: str, role: Role, nodata: float | None = None) -> Facts:
    """Everything about one raster; what cannot be read is a fact as well (`error`)."""
    import rasterio

    out = Facts(file)
    path = Path(root, file)
    try:
        if path.stat().st_size == 0:
            out.error = "the file is empty (0 bytes)"
            return out
        with rasterio.open(path) as src:
            _read(src, out, role, nodata)
            out.error = _unfilled(path, src)
    except Exception as why:
        out.error = _first_line(why)
    if out.error:
        out.stats = out.classes = None
    return out


def _unfilled(path: Path, src: Any) -> str:
    """Room that was laid out for a compressed block and never written: GDAL decodes zeros without a word."""
    if src.driver != "GTiff" or src.compression is None:
        return ""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - ZERO_TAIL))
        tail = file.read()
        if tail.strip(b"\0"):
            return ""
        file.seek(max(0, size - (1 << 20)))
        zeros = len(tail := file.read()) - len(tail.rstrip(b"\0"))
    for band, (high, wide) in enumerate(src.block_shapes, 1):
        for row, col in itertools.product(range(-(-src.height // high)), range(-(-src.width // wide))):
            tag = [src.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=band) for what in ("OFFSET", "SIZE")]
            if all(tag) and int(tag[0]) + int(tag[1]) > size - zeros + ZERO_TAIL // 2:
                return (
                    f"the file is cut short: its last {zeros} bytes are zeros, from pixel row {row * high} on or before"
                )
    return ""


def _first_line(why: BaseException) -> str:
    cause = why.__cause__ or why
    text = f"{why}".splitlines()[0] if f"{why}" else type(why).__name__
    deeper = f"{cause}".splitlines()[0] if cause is not why and f"{cause}" else ""
    return f"{text} ({deeper})" if deeper and deeper not in text else text


def _read(src: Any, out: Facts, role: Role, nodata: float | None) -> None:
    declared = src.nodata if nodata is None else nodata
    names = tuple(d or "" for d in src.descriptions)
    out.profile = Profile(
        src.count, str(src.dtypes[0]), (src.height, src.width), _crs_name(src.crs), declared,
        names if any(names) else (), tuple(src.scales), tuple(src.offsets),
    )  # fmt: skip
    out.affine = tuple(src.transform)[:6]
    out.dates = _dates(src)
    tally = Tally(src.count, declared)
    digest = hashlib.blake2b(repr((src.count, src.height, src.width, src.dtypes[0])).encode(), digest_size=12)
    step = (max(1, -(-src.height // 64)), max(1, -(-src.width // 64)))
    classes: dict[int, int] = {}
    whole = role == "label"
    picture: NDArray[Any] | None = None
    for block in _strips(src):
        if block.dtype.kind == "c":
            block = np.abs(block)
        picture = block if block.shape[1:] == (src.height, src.width) else None
        digest.update(np.ascontiguousarray(block).data)
        tally.add(block, step)
        whole = whole and _count(block, classes)
    thin = np.concatenate(tally.thin, axis=1)
    out.stats, out.digest = tally.table(thin), digest.digest()
    if role == "image":
        out.look = signature(thin if picture is None else picture)
    else:
        out.classes, out.continuous = (classes, False) if whole else (None, True)
        out.legend = _legend(src)


def _count(block: NDArray[Any], classes: dict[int, int]) -> bool:
    """Add to the histogram; False when the values are no classes (fractions, or too many)."""
    if block.dtype == np.uint8:
        counts = np.bincount(block.ravel(), minlength=256)
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:
        flat = block[np.isfinite(block)] if block.dtype.kind == "f" else block.ravel()
        if block.dtype.kind == "f" and not (flat[:4096] == np.floor(flat[:4096])).all():
            return False
        values, counts = np.unique(flat, return_counts=True)
        if block.dtype.kind == "f" and not (values == np.floor(values)).all():
            return False
    for value, n in zip(values.tolist(), counts.tolist(), strict=True):
        classes[int(value)] = classes.get(int(value), 0) + n
    return len(classes) <= MOST_CLASSES


def _legend(src: Any) -> dict[int, str]:
    """Class names that the file carries (tags such as `class_0=water`, `0=water`)."""
    found: dict[int, str] = {}
    for name, text in {**src.tags(), **src.tags(1)}.items():
        tail = name.lower().removeprefix("class_").removeprefix("class")
        if tail.isdigit():
            found[int(tail)] = text
    return found
