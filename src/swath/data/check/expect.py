"""What a group of files should hold: from the card where there is one, else inferred from names and the majority.

Every inference is said in the report (`assumed`), because a check must not pretend to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from swath.core.errors import UnknownName
from swath.core.sensor import Sensor
from swath.core.sensors import SENSORS
from swath.data.check.facts import Facts
from swath.data.check.layout import SENSOR_WORDS, majority, words

INTEGER_BOUNDS = {"dn10000": (-3000.0, 25000.0)}
BOUNDS = {"fraction": (-0.5, 2.5), "db": (-80.0, 50.0), "kelvin": (120.0, 400.0), **INTEGER_BOUNDS}
WORDS = {
    "fraction": "0-1 (reflectance)",
    "linear": "linear power",
    "dn10000": "reflectance x 10000",
    "db": "dB",
    "byte": "8-bit",
    "kelvin": "kelvin",
    "other": "an unknown unit",
}


@dataclass(frozen=True)
class Expect:
    """What the channels of a group are. `look` is the unit as the numbers show it (see `classify`)."""

    bands: tuple[str, ...] = ()
    sensor: str = ""
    kind: str = ""
    look: str = "other"
    unit: str = ""
    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    nodata: float | None = None
    declared: bool = False
    channels: int = 0


def classify(facts: Facts) -> str:
    """The unit that the numbers of one file look like; `other` when several would do."""
    assert facts.stats is not None and facts.profile is not None
    with np.errstate(all="ignore"):
        medians = facts.column("p50")
        if not np.isfinite(medians).any():
            return "other"
        low, high = float(np.nanmin(facts.column("p01"))), float(np.nanmax(facts.column("p99")))
        middle = float(np.nanmedian(medians))
    if facts.profile.dtype == "uint8":
        return "byte"
    if facts.profile.dtype.startswith(("int", "uint")):
        if facts.profile.bands == 1:  # heights, indices, one radar channel: nothing tells them apart
            return "other"
        return "dn10000" if 30 < high <= 32000 and low >= -10000 and middle > 0 else "other"
    if -80 <= low < -1 and middle < 0 and high < 60:
        return "db"
    if low >= -0.5 and high <= 3:
        return "fraction"
    if low >= -5000 and 100 < high <= 65535 and middle > 20:
        return "kelvin" if low > 180 and high < 350 else "dn10000"
    return "other"


def _best_sensor(facts: Facts, group: str) -> tuple[Sensor, str] | None:
    """The sensor that the descriptions or the folder's name speak of; None rather than a guess."""
    assert facts.profile is not None
    names = facts.profile.names
    hint = next((SENSOR_WORDS[w] for w in words(group.replace("/", "_")) if w in SENSOR_WORDS), "")
    if names and all(names):
        fits: list[tuple[bool, bool, int, str, Sensor]] = []
        for id_, sensor in SENSORS:
            try:
                chosen = [sensor.band(n).name for n in names]
            except UnknownName:
                continue
            level = "l1c" in id_ if len(names) == 13 else "l2a" in id_
            if len(set(chosen)) == len(chosen):
                fits.append((bool(hint) and id_.startswith(hint), level, -len(sensor.bands), id_, sensor))
        if fits:
            best = max(fits, key=lambda f: f[:3])
            if best[0] or len(fits) == 1 or any(n.lower() in ("b8a", "b08a", "vv") for n in names):
                return best[4].select(list(names)), f"the band names {', '.join(names)}"
        return None
    if hint == "sentinel2" and facts.profile.bands in (12, 13):
        id_ = "sentinel2-l1c" if facts.profile.bands == 13 else "sentinel2-l2a"
        if id_ in SENSORS:
            return SENSORS.get(id_), f"the folder's name and {facts.profile.bands} bands"
    return None


def infer(group: str, files: Sequence[Facts], assumed: list[str]) -> Expect:
    """What the majority of a group's files is."""
    readable = [f for f in files if f.profile is not None and f.stats is not None]
    if not readable:
        return Expect()
    profiles, _, _ = majority((f.profile.bands, f.profile.names, f.profile.nodata) for f in readable if f.profile)
    like = next(f for f in readable if f.profile and (f.profile.bands, f.profile.names, f.profile.nodata) == profiles)
    assert like.profile is not None
    look = str(majority(classify(f) for f in readable)[0])
    channels = like.profile.bands
    found = _best_sensor(like, group)
    bounds = BOUNDS.get(look, (-np.inf, np.inf))
    if found is None:
        if look in BOUNDS:
            assumed.append(f"{group}/: values are {WORDS[look]} (what most files look like)")
        low, high = (bounds[0],) * channels, (bounds[1],) * channels
        return Expect(like.profile.names, look=look, low=low, high=high, nodata=like.profile.nodata, channels=channels)
    sensor, why = found
    assumed.append(f"{group}/: the sensor is {sensor.id}, from {why}; values are {WORDS[look]}")
    return Expect(
        like.profile.names or sensor.names, sensor.id, sensor.kind, look,
        low=(bounds[0],) * channels, high=(bounds[1],) * channels, nodata=like.profile.nodata, channels=channels,
    )  # fmt: skip


def looks_like(unit: str, scale: float, offset: float) -> str:
    """How stored numbers of a declared unit look, in the words of `classify`."""
    if unit == "reflectance":
        return "dn10000" if scale <= 0.001 else "fraction"
    if unit in ("db", "kelvin"):
        return unit if scale == 1 and offset == 0 else "other"
    if unit in ("linear", "amplitude", "fraction"):
        return "fraction" if scale == 1 else "other"
    return "byte" if unit == "display" else "other"


def declared(
    sensor: Sensor, wanted: Sequence[str], layer: tuple[str, float | None, float | None, float | None]
) -> Expect:
    """What a card says: `wanted` are the channels in file order (`-`: skipped); unit, scale, offset, nodata."""
    unit, scale, offset, nodata = layer
    rows: list[tuple[str, float, float, float, float]] = []
    own = not unit and scale is None and offset is None
    for name in wanted:
        if name == "-":
            rows.append(("-", 1.0, 0.0, -np.inf, np.inf))
            continue
        band = sensor.band(name)
        gain, shift = (band.scale, band.offset) if own else (scale or 1.0, offset or 0.0)
        known = (band.low, band.high) if not unit or unit == band.unit else (-np.inf, np.inf)
        rows.append((name, gain, shift, *known))
    first = next((r for r in rows if r[0] != "-"), rows[0])
    real = unit or next((sensor.band(n).unit for n in wanted if n != "-"), "")
    units = {unit or sensor.band(n).unit for n in wanted if n != "-"}
    look = looks_like(real, first[1], first[2]) if len(units) == 1 else "other"  # of mixed units nothing can be seen
    names, gains, shifts, lows, highs = (tuple(column) for column in zip(*rows, strict=True))
    return Expect(
        names, sensor.id, sensor.kind, look, real, gains, shifts, lows, highs,
        sensor.nodata if nodata is None else nodata, True, len(rows),
    )  # fmt: skip
