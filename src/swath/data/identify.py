"""Which sensor and bands a file holds: from what it says itself, or from what the user says; a guess is called one."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from swath.core.errors import UnknownName, UserError
from swath.core.sensor import Band, Sensor
from swath.core.sensors import SENSORS
from swath.data.card import OwnSensor
from swath.data.raster import RasterInfo

FOLDERS = {
    "s2l2a": "sentinel2-l2a",
    "s2l1c": "sentinel2-l1c",
    "s1grd": "sentinel1-grd",
    "s1rtc": "sentinel1-rtc",
    "dem": "copdem",
    "naip": "naip",
    "hlsl30": "hls-l30",
    "hlss30": "hls-s30",
    "copdem": "copdem",
    "worldcover": "worldcover",
    "dynamicworld": "dynamicworld",
    "era5": "era5",
}
S2_BY_COUNT = {
    13: (
        "sentinel2-l1c",
        "coastal blue green red rededge071 rededge075 rededge078 nir nir08 nir09 cirrus swir16 swir22",
    ),
    12: ("sentinel2-l2a", "coastal blue green red rededge071 rededge075 rededge078 nir nir08 nir09 swir16 swir22"),
    10: ("sentinel2-l2a", "blue green red rededge071 rededge075 rededge078 nir nir08 swir16 swir22"),
    6: ("hls-s30", "blue green red nir08 swir16 swir22"),
}


@dataclass(frozen=True)
class Identity:
    """A sensor and its bands in file order; `own` when no known sensor fits; why; and whether it is a guess."""

    sensor: str
    bands: tuple[str, ...]
    why: str
    certain: bool
    own: OwnSensor | None = None


def folder_word(text: str) -> str:
    """A folder name as the key of FOLDERS."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def sensor_of(folder: str) -> str:
    """The sensor that a folder is called after, by a short word or by its id; empty when by none."""
    word = folder_word(folder)
    return FOLDERS.get(word) or next((n for n, _ in SENSORS if folder_word(n) == word), "")


def _distance(sensor: Sensor, info: RasterInfo) -> tuple[float, bool, bool]:
    """How badly a sensor suits a header: ratio of the pixel sizes, another dtype, not the most used one."""
    side = sensor.gsd
    if info.grid is not None:
        side = min(info.grid.gsd) * (111_320.0 if info.grid.crs == "EPSG:4326" else 1.0)
    ratio = abs(math.log(max(side, 1e-6) / sensor.gsd))
    return round(ratio, 1), sensor.dtype != info.dtype, sensor.id != "sentinel2-l2a"


def _resolve(sensor: Sensor, names: Sequence[str]) -> tuple[str, ...] | None:
    try:
        found = tuple(sensor.band(n).name for n in names)
    except UnknownName:
        return None
    return found if len(set(found)) == len(found) else None


def named(info: RasterInfo) -> tuple[str, ...]:
    """Band names that the file itself carries; empty when it carries none."""
    names = tuple(d.strip() for d in info.descriptions)
    return names if names and all(names) and len(set(names)) == len(names) else ()


def identify(info: RasterInfo, folder: str, sensor: str = "", bands: Sequence[str] = ()) -> Identity:
    """The identity of a file with this header that lies in `folder`."""
    written = (info.tags.get(k, "") for k in ("SWATH_SENSOR", "SENSOR", "sensor"))
    said = sensor or next((w for w in written if w in SENSORS), "")
    said = said if sensor or said in SENSORS else ""
    word = sensor_of(folder)
    names = tuple(bands) or named(info)
    if said or word:
        known = SENSORS.get(said or word)
        return _of_sensor(known, info, names, "said" if said else f"the folder is called {folder}", bool(bands))
    if names:
        fits = {n: f for n, s in SENSORS if (f := _resolve(s, names)) is not None}
        if len(fits) == 1:
            name, found = next(iter(fits.items()))
            return Identity(name, found, f"the file's band names fit only {name}", True)
        if fits:
            best = min(sorted(fits), key=lambda n: _distance(SENSORS.get(n).select(fits[n]), info))
            return Identity(best, fits[best], f"the band names fit {', '.join(sorted(fits))}", False)
    return _by_count(info, names)


def _of_sensor(known: Sensor, info: RasterInfo, names: tuple[str, ...], why: str, explicit: bool) -> Identity:
    if names:
        found = _resolve(known, names)
        if found is None and explicit:
            for name in names:
                known.band(name)
        if found is not None:
            if len(found) != info.count:
                raise UserError(
                    f"{len(found)} bands are named ({', '.join(found)}) and the files have {info.count}",
                    remedy="name every band of the file, in file order"
                    + (
                        f"; for {info.count // len(found)} dates in one file say `steps` in a card"
                        if found and info.count % len(found) == 0
                        else ""
                    ),
                )
            return Identity(known.id, found, f"{why}; band names are given", True)
    if len(known.bands) == info.count:
        return Identity(known.id, known.names, f"{why}; all {info.count} bands, in the sensor's order", True)
    guess = S2_BY_COUNT.get(info.count)
    if guess and known.id.startswith("sentinel2"):
        found = _resolve(known, guess[1].split())
        if found:
            return Identity(known.id, found, f"{why}; {info.count} bands in the usual order", False)
    raise UserError(
        f"the file has {info.count} bands and {known.id} has {len(known.bands)}",
        where=known.id,
        remedy="name the file's bands in order, for example --bands blue,green,red,nir",
    )


def _by_count(info: RasterInfo, names: tuple[str, ...]) -> Identity:
    n, dtype = info.count, info.dtype
    guess: tuple[str, Sequence[str]] | None = None
    if n in S2_BY_COUNT and dtype != "uint8":
        guess = (S2_BY_COUNT[n][0], S2_BY_COUNT[n][1].split())
    elif n == 2 and dtype.startswith("float"):
        guess = ("sentinel1-grd", ("vv", "vh"))
    elif n in (3, 4) and dtype == "uint8":
        guess = ("rgb-aerial", ("red", "green", "blue")) if n == 3 else ("naip", ("red", "green", "blue", "nir"))
    elif n == 4:
        guess = ("sentinel2-l2a", ("blue", "green", "red", "nir"))
    if guess and guess[0] in SENSORS and (found := _resolve(SENSORS.get(guess[0]), guess[1])):
        return Identity(guess[0], found, f"guessed from {n} bands of {dtype}", False)
    labels = names or tuple(f"band{i + 1}" for i in range(n))
    own = OwnSensor("unknown", "optical", tuple(Band(b.lower(), unit="display") for b in labels))
    return Identity("unknown", tuple(b.name for b in own.bands), f"{n} unnamed bands of {dtype}", False, own)
