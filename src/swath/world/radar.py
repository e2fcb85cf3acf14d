"""Backscatter: cover and its green volume, soil moisture, water, snow, terrain, and speckle of a stated look number.

In dB: s = s_bare + g (s_green - s_bare) + 4 (moist - 0.4) (1 - g) - 20 snow wet ..., then multiplicative speckle,
a gamma variable of `LOOKS` looks, drawn through its inverse distribution from a hash of the pixel.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from swath.core import Sensor
from swath.world.catalog import COVERS, ID
from swath.world.moment import Moment
from swath.world.noise import Frame, Plane, pixel_hash, smooth, sub

f32 = np.float32
LOOKS = 4.4
_LOOK_AZIMUTH = math.radians(78)


@lru_cache(maxsize=4)
def speckle_db(looks: float = LOOKS) -> Plane:
    """10 log10 of the quantiles of a gamma variable of mean one, 4096 of them."""
    x = np.linspace(1e-4, 14.0, 200_000)
    density = np.exp((looks - 1) * np.log(x) - looks * x)
    cdf = np.cumsum(density)
    cdf = cdf / cdf[-1]
    return (10 * np.log10(np.interp((np.arange(4096) + 0.5) / 4096, cdf, x))).astype(f32)


@lru_cache(maxsize=1)
def _tables() -> dict[str, Plane]:
    return {p: np.array([getattr(c, p) for c in COVERS], f32).T.copy() for p in ("vv", "vh")}


def backscatter(m: Moment, band: str, terrain: bool) -> Plane:
    """Noise-free backscatter in dB (H, W); `terrain` keeps the slope's brightness (GRD), else it is flattened."""
    bare, green = _tables()[band]
    ground = m.ground
    volume = m.green if band == "vh" else m.green * m.green
    low = bare.take(m.cover)
    s = low + (green.take(m.cover) - low) * volume + f32(1.0)
    open_ground = f32(1) - m.green
    s += (f32(5.5) if band == "vv" else f32(3.0)) * (m.moist - f32(0.38)) * open_ground * (m.cover > ID["river"])
    s += f32(1.1 if band == "vv" else 1.3) * ground.clutter * f32(0.55)
    if m.flood.any():
        still = f32(-21.0 if band == "vv" else -28.0)
        s += (still - s) * m.flood * np.clip(f32(1.25) - m.green, 0, 1)
    if m.char.any():
        s += m.char * f32(0.6 if band == "vv" else -2.2)
    if m.snow.any():
        s -= m.snow * (f32(2.6) * (m.air > -2) + f32(0.8)) * (m.cover > ID["river"])
    water = m.cover <= ID["river"]
    if water.any():
        wind = smooth(ground.frame, sub(ground.seed, f"wind{m.day}"), 40_000.0)
        chop = smooth(ground.frame, sub(ground.seed, f"chop{m.day}"), 900.0)
        s += np.where(water, (f32(3.4) * wind + f32(0.5) * chop) * f32(1.0 if band == "vv" else 0.6), f32(0))
    if terrain:
        lean = ground.slope_x * f32(-math.sin(_LOOK_AZIMUTH)) + ground.slope_y * f32(-math.cos(_LOOK_AZIMUTH))
        s += np.clip(f32(-14) * lean, f32(-7), f32(9))
    return s


def render(sensor: Sensor, m: Moment, frame: Frame) -> Plane:
    """One day of one radar product (C, H, W) in dB, quantised to 0.01 dB."""
    terrain = sensor.id.endswith("grd")
    table = speckle_db()
    top, left = frame.row - m.ground.frame.row, frame.col - m.ground.frame.col
    planes: list[Plane] = []
    for band in sensor.names:
        h = pixel_hash(frame, sub(m.ground.seed, f"speckle{sensor.id}{band}{m.day}"))
        s = backscatter(m, band, terrain)[top : top + frame.height, left : left + frame.width]
        s = s + table.take((h >> np.uint32(20)).astype(np.intp))
        if terrain:
            s = s - f32(1.2 if band == "vv" else 1.9)
        planes.append(np.rint(s * f32(100)) * f32(0.01))
    return np.stack(planes)
