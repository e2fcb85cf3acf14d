"""Sun, clouds with their shadows, and haze, per day; each a smooth function of place."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from swath.world import globe
from swath.world.ground import Ground
from swath.world.moment import airs, calendar_of
from swath.world.noise import Frame, Plane, fbm, smooth, sub

f32 = np.float32
_LUMPS = ((9_000.0, 0.72), (2_600.0, 0.46), (800.0, 0.26), (240.0, 0.13), (70.0, 0.06))


@dataclass
class Sky:
    """`cloud` and `shadow` are opacities 0..1, `haze` an aerosol depth, `gain` a factor near one, the sun
    per row: sine of its elevation, and its direction."""

    cloud: Plane
    shadow: Plane
    cirrus: Plane
    haze: Plane
    gain: Plane
    up: Plane
    east: Plane
    north: Plane


def sun(lat: Plane, day: int, hour: float = 10.5) -> tuple[Plane, Plane, Plane]:
    """Sine of the sun's elevation, and east and north of its direction (horizontal, unit length), per latitude."""
    _, doy = calendar_of(day)
    tilt = math.radians(-23.44) * math.cos(2 * math.pi * (doy + 10) / 365)
    turn = math.radians(15 * (hour - 12))
    phi = np.radians(np.asarray(lat, np.float64))
    up = np.sin(phi) * math.sin(tilt) + np.cos(phi) * math.cos(tilt) * math.cos(turn)
    north = np.cos(phi) * math.sin(tilt) - np.sin(phi) * math.cos(tilt) * math.cos(turn)
    east = -math.cos(tilt) * math.sin(turn)
    length = np.sqrt(east * east + north * north)
    return np.maximum(up, math.sin(math.radians(9))), east / length, north / length


_REACH = 3.62 * sum(a for _, a in _LUMPS[2:])  # no B-spline of hashes goes beyond its nodes


def _cover(frame: Frame, seed: int, level: Plane, offset: tuple[float, float] = (0.0, 0.0)) -> Plane | None:
    """Opacity of the lid where it rises above `level`; None where even its finest lumps cannot."""
    lid = fbm(frame, sub(seed, "lump"), _LUMPS[:2], *offset)
    if float((lid - level).max()) <= -_REACH:
        return None
    lid += fbm(frame, sub(seed, "lumps"), _LUMPS[2:], *offset)
    return np.clip((lid - level) * f32(2.4), 0, 1)


def _cast(frame: Frame, seed: int, level: Plane) -> Plane | None:
    """The lid seen from the ground towards a morning sun of about 40 degrees, each hemisphere its own."""
    if frame.row >= 0:
        return _cover(frame, seed, level, (900, 1550))
    if frame.row + frame.height <= 0:
        return _cover(frame, seed, level, (900, -1550))
    north, south = (_cover(frame, seed, level, (900, dy)) for dy in (-1550, 1550))
    zero = np.zeros(frame.shape, f32)
    north, south = (zero if v is None else v for v in (north, south))
    return np.where(np.arange(frame.row, frame.row + frame.height)[:, None] < 0, north, south)


def sky(ground: Ground, day: int, cloudiness: float) -> Sky:
    """The sky over the ground on a day; `cloudiness` 0 is clear, 1 as on Earth, more is worse."""
    frame, seed = ground.frame, sub(ground.seed, f"sky{day}")
    _, lat = globe.lonlat_of(np.zeros(frame.height), frame.y())
    up, east, north = (v.astype(f32)[:, None] for v in sun(lat, day))
    zero = np.zeros(frame.shape, f32)
    _, hazy, gains, cover, thin = airs(ground, day)
    haze = np.clip(f32(0.13) + f32(0.085) * hazy, f32(0.02), f32(0.6))
    gain = f32(1) + f32(0.03) * gains
    out = Sky(zero, zero, zero, haze, gain, up, east, north)
    if cloudiness <= 0:
        return out
    humid = np.clip(ground.wet, f32(0.1), f32(1.3)) - f32(0.75)
    level = f32(1.75) - f32(0.75) * cover - f32(0.5) * humid - f32(0.55 * math.log(cloudiness))
    cloud = _cover(frame, seed, level)
    if cloud is not None:
        out.cloud = cloud
    cast = _cast(frame, seed, level)
    if cast is not None:
        out.shadow = cast * (f32(1) - out.cloud)
    if float(thin.max()) > 1.1:
        streak = f32(1) + f32(0.35) * smooth(frame, sub(seed, "streak"), 5_000.0)
        out.cirrus = np.clip((thin - f32(1.1)) * f32(0.09), 0, f32(0.2)) * np.clip(streak, 0, 2)
    return out
