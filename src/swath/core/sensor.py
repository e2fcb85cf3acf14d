"""Band and Sensor: a calibrated product with named channels, wavelengths and units."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.resources.abc import Traversable
from typing import Any, Literal

from swath.core.errors import SwathError, UnknownName, UserError

Kind = Literal["optical", "sar", "elevation", "thermal", "weather", "classes"]
Unit = Literal["reflectance", "radiance", "db", "linear", "amplitude", "kelvin", "celsius", "m", "mm", "degree",
               "fraction", "percent", "class", "display", "index"]  # fmt: skip


@dataclass(frozen=True)
class Band:
    """One named channel. `nm` is the centre wavelength and `fwhm` the width, in nanometres; `gsd` in metres.

    `unit` is the physical unit of a Layer's values; physical = stored * scale + offset, and `low, high` is the
    range in which real values lie. `mean, std` are statistics of a global sample in that unit, where known.
    """

    name: str
    aliases: tuple[str, ...] = ()
    nm: float | None = None
    fwhm: float | None = None
    gsd: float = 10.0
    unit: Unit = "reflectance"
    scale: float = 1.0
    offset: float = 0.0
    low: float = -float("inf")
    high: float = float("inf")
    mean: float | None = None
    std: float | None = None

    @property
    def span_nm(self) -> tuple[float, float] | None:
        """Lower and upper edge of the band, when it has a wavelength."""
        if self.nm is None:
            return None
        half = (self.fwhm or 0.0) / 2
        return self.nm - half, self.nm + half


@dataclass(frozen=True)
class BandMatch:
    """What `Sensor.nearest` found: wanted band -> (own band, distance in nm), and why others have none."""

    pairs: dict[str, tuple[str, float]]
    unmatched: dict[str, str] = field(default_factory=dict[str, str])

    def describe(self) -> str:
        rows = [f"{w} <- {g} ({d:.0f} nm apart)" for w, (g, d) in self.pairs.items()]
        return "; ".join(rows + [f"{w}: {why}" for w, why in self.unmatched.items()])


@dataclass(frozen=True)
class Sensor:
    """A calibrated product: `id` such as `sentinel2-l2a`, its kind (modality), bands in file order, storage."""

    id: str
    kind: Kind
    bands: tuple[Band, ...]
    nodata: float | None = None
    dtype: str = "float32"
    body: str = "earth"
    title: str = ""
    source: str = ""
    classes: tuple[tuple[int, str], ...] = ()

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for band in self.bands:
            for name in (band.name, *band.aliases):
                if seen.setdefault(name.lower(), band.name) != band.name:
                    raise SwathError(f"'{name}' names two bands of {self.id}: {seen[name.lower()]} and {band.name}")
        if len({b.name for b in self.bands}) != len(self.bands):
            raise SwathError(f"{self.id} has a band twice: {[b.name for b in self.bands]}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(b.name for b in self.bands)

    @property
    def gsd(self) -> float:
        return min(b.gsd for b in self.bands)

    def band(self, name: str) -> Band:
        """The band of this name or alias, in any letter case; an unknown one names the nearest."""
        wanted = name.lower()
        for b in self.bands:
            if wanted == b.name.lower() or any(wanted == a.lower() for a in b.aliases):
                return b
        raise UnknownName(
            "band", name, [n for b in self.bands for n in (b.name, *b.aliases)], where=f"sensor {self.id}"
        )

    def index(self, name: str) -> int:
        return self.bands.index(self.band(name))

    def select(self, names: Sequence[str]) -> Sensor:
        """The same product with these bands, in this order."""
        bands = tuple(self.band(n) for n in names)
        if len(set(bands)) != len(bands):
            raise UserError(f"a band is named twice in {list(names)}", where=f"sensor {self.id}")
        return replace(self, bands=bands)

    def nearest(self, other: Sensor, max_nm: float = 40.0) -> BandMatch:
        """For each band of `other`, my band with the closest centre wavelength within `max_nm`.

        Bands without a wavelength (radar, elevation) match by name only. The distance of a match is reported,
        never hidden; two wanted bands may share one of mine.
        """
        pairs: dict[str, tuple[str, float]] = {}
        unmatched: dict[str, str] = {}
        for want in other.bands:
            if want.nm is None:
                same = [b for b in self.bands if b.nm is None and b.name == want.name]
                if same and self.kind == other.kind:
                    pairs[want.name] = (same[0].name, 0.0)
                else:
                    unmatched[want.name] = f"{self.id} has no band of that name and kind ({other.kind})"
                continue
            spectral = [(abs(b.nm - want.nm), b.name) for b in self.bands if b.nm is not None]
            if not spectral:
                unmatched[want.name] = f"{self.id} has no band with a wavelength"
                continue
            distance, name = min(spectral)
            if distance <= max_nm:
                pairs[want.name] = (name, distance)
            else:
                unmatched[want.name] = f"nearest is {name}, {distance:.0f} nm away, more than {max_nm:g} nm"
        return BandMatch(pairs, unmatched)


_BAND_DEFAULTS = ("gsd", "unit", "scale", "offset", "low", "high")


def _band(table: dict[str, Any]) -> Band:
    known: dict[str, Any] = {**table, "aliases": tuple(table.get("aliases", ()))}
    return Band(**known)


def _series(name: str, count: int, first_nm: float, last_nm: float, fwhm: float) -> list[dict[str, Any]]:
    """Evenly spaced bands `name001`, `name002`, ...: an imaging spectrometer in one line."""
    step = (last_nm - first_nm) / (count - 1)
    return [{"name": f"{name}{i + 1:03d}", "nm": round(first_nm + i * step, 2), "fwhm": fwhm} for i in range(count)]


def read_sensor(name: str, path: Traversable) -> Sensor:
    """Read a sensor's TOML: product-wide values under `[default]`, one table a `band`, one a `series` of bands."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    shared = {k: v for k, v in data.get("default", {}).items() if k in _BAND_DEFAULTS}
    try:
        tables = [*data.get("band", ()), *(b for run in data.get("series", ()) for b in _series(**run))]
        if not tables:
            raise KeyError("band")
        bands = tuple(_band({**shared, **b}) for b in tables)
        classes = tuple(sorted((int(k), str(v)) for k, v in data.get("classes", {}).items()))
        head = {k: data[k] for k in ("kind", "nodata", "dtype", "body", "title", "source") if k in data}
        return Sensor(id=name, bands=bands, classes=classes, **head)
    except (KeyError, TypeError) as why:
        raise SwathError(f"the sensor file is not readable: {why}", where=str(path)) from why
