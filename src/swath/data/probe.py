"""Look at a few files and say in which unit their numbers are, with the evidence; doubt is said, never swallowed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.core.sensor import Sensor
from swath.data.raster import opened

SAMPLE_SIDE = 96
S2_OFFSET_DN = 1000


@dataclass(frozen=True)
class Probe:
    """A sample of stored values: per file (C, n) observed pixels; what the headers said."""

    values: NDArray[np.float64]
    dtype: str
    nodata: float | None
    count: int
    files: tuple[str, ...]


@dataclass(frozen=True)
class Units:
    """What the values seem to be: physical = convert(stored * scale + offset, from `unit`); why; and how sure."""

    unit: str
    scale: float | None
    offset: float | None
    why: str
    certain: bool


def probe(paths: Sequence[Path], most: int = 8) -> Probe:
    """Decimated pixels of at most `most` files, spread over the list. Nodata and non-finite pixels are left out."""
    step = max(1, len(paths) // most)
    chosen = list(paths)[::step][:most]
    parts: list[NDArray[np.float64]] = []
    dtype, nodata, count = "", None, 0
    for path in chosen:
        with opened(path) as data:
            raw = _sample(data)
            dtype, count = str(data.dtypes[0]), data.count
            nodata = data.nodata if data.nodata is not None else nodata
        flat = raw.reshape(raw.shape[0], -1).astype(np.float64)
        good = np.isfinite(flat).all(axis=0)
        if nodata is not None and np.isfinite(nodata):
            good &= (flat != nodata).all(axis=0)
        if parts and flat.shape[0] != parts[0].shape[0]:
            continue
        parts.append(flat[:, good])
    values = np.concatenate(parts, axis=1) if parts else np.zeros((0, 0))
    return Probe(values, dtype, nodata, count, tuple(str(p) for p in chosen))


def _sample(data: Any) -> Any:
    """At most SAMPLE_SIDE^2 pixels: decimated where that is cheap, else squares all over a file without overviews.

    A square with a block that does not decode is left out: reading it later is what says so, with its place.
    """
    from rasterio.errors import RasterioIOError

    h, w = min(data.height, SAMPLE_SIDE), min(data.width, SAMPLE_SIDE)
    if data.height * data.width <= (4 * SAMPLE_SIDE) ** 2 or data.overviews(1):
        with suppress(RasterioIOError):
            return data.read(out_shape=(data.count, h, w))
    side = SAMPLE_SIDE // 4
    parts: list[Any] = []
    for i in range(16):
        row, col = (k * max(0, n - side) // 3 for k, n in ((i // 4, data.height), (i % 4, data.width)))
        try:
            parts.append(data.read(window=((row, row + side), (col, col + side))).reshape(data.count, -1))
        except RasterioIOError:
            if i == 15 and not parts:
                raise
    return np.concatenate(parts, axis=1)


def darkest(medians: NDArray[np.float64]) -> int | None:
    """The channel that is by far the darkest in nearly all of the files (F, C): cirrus, where there is one."""
    rest = np.sort(np.median(medians, axis=0))
    place = np.bincount(np.argmin(medians, axis=1), minlength=medians.shape[1])
    index = int(place.argmax())
    return index if place[index] >= 0.9 * len(medians) and rest[0] <= 0.25 * rest[1] else None


SENTINELS = (-9999.0, -99999.0, -999.0, -32768.0, -32767.0, -99.0, -1.7e308, -3.4e38, 3.4e38, 1e20, 9.96921e36)
"""Numbers that files use for 'nothing here' without saying so."""


def sentinel(values: NDArray[np.float64]) -> float | None:
    """A value that stands for no data though no header says so: one of the usual ones, the lowest or the highest of
    all, farther from the rest than the rest is wide."""
    if not values.size:
        return None
    for end, pick in ((float(values.min()), np.min), (float(values.max()), np.max)):
        usual = any(abs(end - s) <= 0.02 * abs(s) if abs(s) > 1e30 else end == s for s in SENTINELS)
        rest = values[values != end]
        if usual and rest.size and abs(end - float(pick(rest))) > max(float(np.ptp(rest)), 1.0):
            return end
    return None


UNSEEN = "no observed pixel in the files looked at"


def judge(values: NDArray[np.float64], dtype: str, sensor: Sensor) -> Units:
    """The unit of stored values (C, n) of this sensor's bands."""
    if sensor.nodata is not None and values.size:
        values = values[:, (values != sensor.nodata).all(axis=0)]
    if values.size == 0:
        return Units("", None, None, UNSEEN, False)
    unit = sensor.bands[0].unit
    low, high = (float(v) for v in np.quantile(values, (0.001, 0.995)))
    span = f"0.1 % of the values are below {low:g} and 99.5 % below {high:g}"
    if unit == "reflectance":
        return _reflectance(values, dtype, sensor, (low, high), span)
    if unit == "db":
        if float(np.median(values)) < 0 and low >= -80:
            return Units("", 1.0, 0.0, f"values are decibels: {span}", True)
        if low >= 0 and dtype.startswith("float") and high < 100:
            return Units("linear", 1.0, 0.0, f"values are linear power: {span}", True)
        return Units("", None, None, f"neither decibels nor linear power: {span}", False)
    return Units("", None, None, f"the sensor's own storage convention; {span}", True)


def _reflectance(
    values: NDArray[np.float64], dtype: str, sensor: Sensor, ends: tuple[float, float], span: str
) -> Units:
    low, high = ends
    if dtype.startswith("float") and high <= 3.0:
        return Units("", 1.0, 0.0, f"values are reflectance already: {span}", low >= -1.0)
    if dtype == "uint8":
        return Units("", 1 / 255, 0.0, f"8-bit display values, not reflectance: {span}", False)
    if high <= 255 and values.shape[0] > 3:
        return Units("", 1 / 255, 0.0, f"values look scaled to 0..255, not reflectance x 10000: {span}", False)
    convention = sensor.bands[0].scale
    if not sensor.id.startswith("sentinel2"):
        if dtype.startswith("float") and 3.0 < high < 30000:
            return Units("", 0.0001, 0.0, f"reflectance x 10000 stored as {dtype}: {span}", True)
        return Units("", None, None, f"the sensor's own storage convention (scale {convention:g}); {span}", True)
    below = float((values < 0.9 * S2_OFFSET_DN).mean())
    share = f"{100 * below:.2f} % of the stored values are below {0.9 * S2_OFFSET_DN:g}"
    if below > 0.01:
        return Units("", 0.0001, 0.0, f"reflectance x 10000 without the +1000 offset of 2022: {share}", True)
    return Units("", 0.0001, -0.1, f"reflectance x 10000 with the +1000 offset of 2022: {share}", below < 0.001)


def displayed(values: NDArray[np.float64], dtype: str) -> Units:
    """For a sensor nobody knows: a scale that brings the values to 0..255, which is no physical unit."""
    if values.size == 0 or dtype == "uint8":
        return Units("", 1.0, 0.0, "the unit is not known; 8-bit values are kept as they are", dtype == "uint8")
    low, high = (float(v) for v in np.quantile(values, (0.005, 0.995)))
    scale = 255.0 / max(high - min(low, 0.0), 1e-12)
    why = f"the unit is not known; values up to {high:g} are scaled to 0..255"
    return Units("", float(f"{scale:.6g}"), float(f"{-min(low, 0.0) * scale:.6g}"), why, False)
