"""The state on one day: what grows, what lies dry, snow, water, burns, clearings, building sites.

Green and dry cover come from the calendar of each cover, moved by climate (colder is later), by hemisphere, by the
year and by the parcel; so two crops with one spectrum are told apart by when they are green.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from swath.world import globe
from swath.world.catalog import BURNS, CROPS, ID, YEAR, calendar, column, mix_table
from swath.world.ground import Ground
from swath.world.noise import Frame, Plane, fbm, fields, rehash, smooth, sub, unit
from swath.world.settle import centres, gap, hash_pairs, permanent

f32 = np.float32
EPOCH = dt.date(1970, 1, 1)
CUT_CYCLE = 40 * 365


@dataclass
class Moment:
    """Fractions (H, W) in 0..1 on `day` (days since 1970-01-01); `cover` is this day's cover."""

    day: int
    ground: Ground
    cover: Plane
    green: Plane
    dry: Plane
    flower: Plane
    flood: Plane
    snow: Plane
    char: Plane
    severity: Plane
    moist: Plane
    air: Plane


def calendar_of(day: int) -> tuple[int, int]:
    """Year and day of year (0-based) of days since the epoch."""
    date = EPOCH + dt.timedelta(days=int(day))
    return date.year, date.timetuple().tm_yday - 1


def day_of(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01."""
    return (dt.date(year, month, day) - EPOCH).days


def farm_year(ground: Ground, day: int) -> Plane:
    """The harvest year (H, 1): it begins in September in the north and half a year later in the south."""
    year, doy = calendar_of(day)
    return (year + np.floor((doy - 244 - ground.turn + YEAR) / YEAR)).astype(np.int64)


def _sown(ground: Ground, year: Plane) -> Plane:
    """The cover with the crops of a harvest year, kept for the other days of it."""
    key = ("sown", year.tobytes())
    if key not in ground.kept:
        cover = ground.cover.copy()
        if ground.farm.any():
            salt = ground.parcel + year.astype(np.uint32) * np.uint32(0x3C6EF35F)
            draw = rehash(salt, 0x9E37) >> np.uint32(24)
            np.copyto(cover, mix_table()[ground.mixture, draw], where=ground.farm)
            np.copyto(cover, np.uint8(ID["pasture"]), where=ground.farm & permanent(ground.parcel))
        ground.kept[key] = cover
    return ground.kept[key]


def _keep(ground: Ground) -> Plane:
    """How well plants do here in a common year: fields by their farmer, the wild by water."""
    if ("keep",) not in ground.kept:
        thrive = np.clip(f32(0.62) + f32(0.62) * ground.wet, f32(0.35), f32(1.03))
        thrive *= f32(1) + f32(0.06) * ground.clutter
        tilled = f32(0.94) + f32(0.1) * (unit(rehash(ground.parcel, 7)) - f32(0.5))
        ground.kept["keep",] = np.where(ground.farm, tilled, thrive)
    return ground.kept["keep",]


def cover_on(ground: Ground, day: int) -> Plane:
    """The cover on a day: this year's crops, clear-cuts of the last years, what is not built yet."""
    cover = _sown(ground, farm_year(ground, day)).copy()
    forest = (cover == ID["needleleaf"]) | (cover == ID["broadleaf"]) | (cover == ID["rainforest"])
    if forest.any():
        age = np.mod(f32(day % CUT_CYCLE) - ground.stand * f32(CUT_CYCLE), f32(CUT_CYCLE))
        managed = np.mod(ground.stand * f32(977.0), f32(1)) < f32(0.45)
        np.copyto(cover, np.uint8(ID["clear-cut"]), where=forest & managed & (age < f32(5 * 365)))
    young = (ground.roof > 0) & (ground.urban < f32(0.45))
    if young.any():
        born = unit(rehash(ground.building, 4242)) * f32(45 * 365) + f32(10957 - 12 * 365)
        np.copyto(cover, np.uint8(ID["grassland"]), where=young & (born > day + 240))
        np.copyto(cover, np.uint8(ID["building site"]), where=young & (born > day) & (born <= day + 240))
    return cover


def standing(ground: Ground, day: int) -> Plane:
    """Where buildings stand on a day."""
    if not (ground.roof > 0).any():
        return np.zeros(ground.frame.shape, bool)
    cover = cover_on(ground, day)
    return np.isin(cover, (ID["tile roof"], ID["grey roof"], ID["metal roof"])) & (ground.roof > 0)


def _phase(ground: Ground, day: int) -> Plane:
    """Days by which the local year runs after the calendar's, a plane."""
    year, _ = calendar_of(day)
    if ("lag", year) in ground.kept:
        return ground.kept["lag", year]
    lag = np.clip((f32(10.5) - ground.heat) * f32(2.0), f32(-30), f32(26))
    lag += f32(4.5) * smooth(ground.frame, sub(ground.seed, f"year{year}"), 400_000.0) - f32(0.25 * (year - 2020))
    lag += np.where(ground.parcel > 0, (unit(rehash(ground.parcel, 31 + year)) - f32(0.5)) * f32(16), f32(0))
    lag += f32(3) * ground.clutter
    ground.kept["lag", year] = lag + ground.turn
    return ground.kept["lag", year]


def airs(ground: Ground, day: int) -> Plane:
    """The day's five large-scale fields: front, haze, gain, cloud cover, cirrus."""
    if ("air", day) not in ground.kept:
        seeds = [sub(ground.seed, f"{name}{day}") for name in ("front", "haze", "gain", "cover", "cirrus")]
        ground.kept["air", day] = fields(ground.frame, seeds, 160_000.0)
    return ground.kept["air", day]


def _drought(ground: Ground, year: int) -> Plane:
    if ("drought", year) not in ground.kept:
        dry = smooth(ground.frame, sub(ground.seed, f"drought{year}"), 400_000.0)
        ground.kept["drought", year] = np.clip(dry - f32(0.7), 0, f32(1.5))
    return ground.kept["drought", year]


def weather(ground: Ground, day: int, warming: float = 0.0) -> tuple[Plane, Plane]:
    """Air temperature in C and a wetness anomaly of the day."""
    _, doy = calendar_of(day)
    turn = -np.cos(f32(2 * math.pi / YEAR) * (f32(doy - 20) - ground.turn))
    front = airs(ground, day)[0]
    drift = 0.03 * (day - day_of(2020, 1, 1)) / YEAR + warming
    return ground.heat + ground.swing * turn + f32(2.2) * front + f32(drift), front


def _snow(ground: Ground, day: int, air: Plane) -> Plane:
    cold = (f32(-2.0) - air) * f32(0.18) + f32(0.25) * np.clip(ground.wet - f32(0.5), -1, 1)
    cold += f32(0.16) * ground.clutter - f32(2.2) * np.maximum(
        ground.slope_y * (ground.turn * f32(1 / 91.25) - f32(1)), 0
    )
    cover = np.clip(cold, 0, 1)
    return np.where(ground.river < 0, f32(0.35) * cover, cover) * (ground.wet > f32(0.12))


@dataclass(frozen=True)
class Fire:
    """A fire: where, how far it reached (m), the day it burned."""

    x: float
    y: float
    reach: float
    day: int
    salt: int


def fires(frame: Frame, seed: int, day: int, memory: int = 420) -> list[Fire]:
    """Fires of the last `memory` days that may touch the frame."""
    cell = 9_000.0
    found: list[Fire] = []
    year, _ = calendar_of(day)
    for iy, ix in centres(frame, cell):
        for y in (year - 1, year):
            fire = fire_of(seed, iy, ix, y, cell)
            if fire and 0 <= day - fire.day < memory and gap(frame, fire.x, fire.y)[0] < 1.5 * fire.reach:
                found.append(fire)
    return found


@lru_cache(maxsize=65536)
def fire_of(seed: int, iy: int, ix: int, year: int, cell: float = 9_000.0) -> Fire | None:
    """The fire of a cell in a year, if its climate lets it burn."""
    h = int(hash_pairs(sub(seed, "fire"), np.array([iy]), np.array([ix * 131 + year * 7919]))[0])
    a, b, c, d, e = (((h * k) >> 6 & 0xFFFF) / 65536 for k in (1, 0x9E37, 0x79B1, 0xCA6B, 0x85EB))
    if c > 0.3:
        return None
    x, y = (ix + a) * cell, (iy + b) * cell
    coast, _, height, rain, heat, _, _ = (float(v) for v in globe.climate(np.array(x), np.array(y)))
    heat -= 0.0045 * height
    wet = rain / (58 * max(heat + 5.5, 2.5))
    if coast < 0.5 or not 0.2 < wet < 1.3 or heat < -6 or c > 0.3 * min(1.0, 0.25 + heat / 20):
        return None
    doy = int((211 if heat < 19 else 330) + (d - 0.5) * 70 + (YEAR / 2 if y < 0 else 0)) % YEAR
    return Fire(x, y, 600 + 2600 * e**2, day_of(year, 1, 1) + doy, h)


def _burns(ground: Ground, cover: Plane, day: int) -> tuple[Plane, Plane, Plane]:
    """Char left on the ground, severity of the burn, and what share of the green is lost, on a day."""
    zero = np.zeros(ground.frame.shape, f32)
    found = fires(ground.frame, ground.seed, day)
    if not found:
        return zero, zero, zero
    rough = fbm(ground.frame, sub(ground.seed, "flames"), ((1400.0, 0.22), (450.0, 0.16), (130.0, 0.1), (40.0, 0.06)))
    fuel = np.isin(cover, BURNS)
    char, worst, lost = zero.copy(), zero.copy(), zero.copy()
    for fire in found:
        dx, dy = (ground.frame.x() - fire.x).astype(f32)[None, :], (ground.frame.y() - fire.y).astype(f32)[:, None]
        away = np.sqrt(dx * dx + f32(1.6) * dy * dy) * f32(1 / fire.reach)
        front = f32(1.0) - away + rough
        severity = np.where(fuel & (front > f32(0.12)) & (away < f32(1.5)), np.clip(f32(0.35) + front, 0, 1), f32(0))
        age = day - fire.day
        worst = np.maximum(worst, severity)
        char = np.maximum(char, severity * f32(0.92 * math.exp(-age / 130)))
        lost = np.maximum(lost, severity * f32(0.95 * math.exp(-age / 330)))
    return char, worst, lost


@lru_cache(maxsize=65536)
def flood_stage(seed: int, iy: int, ix: int, year: int) -> tuple[int, float]:
    """Day and reach (m beyond the bank) of a cell's flood in a year; reach 0 when there is none."""
    h = int(hash_pairs(sub(seed, "flood"), np.array([iy]), np.array([ix * 131 + year * 7919]))[0])
    a, b, c = (((h * k) >> 6 & 0xFFFF) / 65536 for k in (1, 0x9E37, 0x79B1))
    if a > 0.45:
        return 0, 0.0
    doy = int(30 + 110 * b + (YEAR / 2 if iy < 0 else 0)) % YEAR
    return day_of(year, 1, 1) + doy, 140 + 900 * c * c


FLOOD_CELL, FLOOD_DAYS = 11_000.0, 16


def _flood(ground: Ground, day: int) -> Plane:
    """Share of the ground under flood water."""
    zero = np.zeros(ground.frame.shape, f32)
    near = ground.river < f32(1500)
    if not near.any():
        return zero
    year, _ = calendar_of(day)
    reach = zero
    for iy, ix in centres(ground.frame, FLOOD_CELL):
        when, metres = flood_stage(ground.seed, iy, ix, year)
        age = day - when
        if metres == 0 or not 0 <= age < FLOOD_DAYS:
            continue
        x, y = (ix + 0.5) * FLOOD_CELL, (iy + 0.5) * FLOOD_CELL
        d2 = (ground.frame.x() - x).astype(f32)[None, :] ** 2 + (ground.frame.y() - y).astype(f32)[:, None] ** 2
        fall = np.clip(f32(1.3) - np.sqrt(d2) * f32(1 / FLOOD_CELL), 0, 1) * f32(metres * (1 - age / FLOOD_DAYS) ** 0.5)
        reach = np.maximum(reach, fall)
    if not reach.any():
        return zero
    uneven = f32(1) + fbm(ground.frame, sub(ground.seed, "floodplain"), ((900.0, 0.28), (260.0, 0.2), (80.0, 0.1)))
    flat = np.clip(f32(1.4) - f32(14) * np.hypot(ground.slope_x, ground.slope_y), 0, 1)
    level = reach * uneven * flat - ground.river
    wet = np.clip(level * f32(1 / 25.0), 0, 1) * (ground.cover > ID["river"]) * (ground.wet > f32(0.35)) * near
    return wet.astype(f32)


def look(ground: Ground, day: int, warming: float = 0.0) -> Moment:
    """The state of the ground on `day`, in a climate `warming` degrees warmer (which also hastens the year)."""
    cover = cover_on(ground, day)
    _, doy = calendar_of(day)
    year, _ = calendar_of(day)
    when = np.mod(f32(doy + 4 * warming) - _phase(ground, day), f32(YEAR)).astype(np.int32)
    np.minimum(when, YEAR - 1, out=when)
    index = cover.astype(np.int32) * YEAR + when
    tables = calendar()
    green, dry = tables[0].take(index), tables[1].take(index)
    present = np.unique(cover)
    flower = tables[2].take(index) if np.isin(ID["rapeseed"], present) else np.zeros_like(green)
    air, front = weather(ground, day, warming)
    drought = _drought(ground, year)
    vigour = _keep(ground) * (f32(1) - f32(0.22) * drought)
    char, severity, lost = _burns(ground, cover, day)
    green = np.clip(green * vigour * (f32(1) - lost), 0, f32(0.98))
    np.minimum(dry, f32(1) - green, out=dry)
    dry *= f32(1) - lost
    flood = _flood(ground, day)
    if np.isin(ID["rice"], present):
        flood = np.maximum(flood, tables[3].take(index))
    moist = np.clip(f32(0.22) + f32(0.3) * ground.wet + f32(0.26) * front - f32(0.3) * drought, 0, 1)
    return Moment(day, ground, cover, green, dry, flower, flood, _snow(ground, day, air), char, severity, moist, air)


CROP_CODE = np.zeros(len(column("name")), np.int64)
for _i, _name in enumerate(CROPS, 1):
    CROP_CODE[ID[_name]] = _i
