"""Products that are not light or radar: elevation, land cover, temperature, reanalysis; and means over big pixels."""

from __future__ import annotations

import numpy as np

from swath.core import Sensor, SwathError
from swath.world.catalog import ID, column
from swath.world.moment import Moment
from swath.world.noise import Frame, Plane
from swath.world.sky import Sky

f32 = np.float32


def _window(m: Moment, frame: Frame, plane: Plane) -> Plane:
    top, left = frame.row - m.ground.frame.row, frame.col - m.ground.frame.col
    return plane[top : top + frame.height, left : left + frame.width]


def still(sensor: Sensor, m: Moment, frame: Frame) -> Plane:
    """A product without a date (1, H, W): surface elevation, or a land-cover map of the year."""
    if sensor.kind == "elevation":
        roof = m.ground.roof * f32(0.5)
        return _window(m, frame, np.rint((m.ground.elevation + roof) * f32(100)) * f32(0.01))[None]
    if sensor.id not in ("worldcover", "dynamicworld"):
        raise SwathError(f"the world draws no map like {sensor.id}")
    return _window(m, frame, column(sensor.id)[m.cover].astype(f32))[None]


def surface_temperature(m: Moment, sky: Sky) -> Plane:
    """Kelvin: air, plus what the sun heats bare and built ground more than green and wet; clouds are cold."""
    water = m.cover <= ID["river"]
    built = (m.cover >= ID["road"]) & (m.cover <= ID["metal roof"])
    warm = sky.up * (f32(17) * (f32(1) - m.green) * (f32(1.15) - f32(0.6) * m.moist) + f32(3) + f32(3) * built)
    t = m.air + np.where(water, (m.ground.heat - m.air) * f32(0.4), warm) - f32(4) * m.snow
    t = np.where(m.snow > f32(0.5), np.minimum(t, f32(0.5)), t) + f32(0.4) * m.ground.clutter
    return (t * (f32(1) - sky.cloud) + (m.air - f32(28)) * sky.cloud) + f32(273.15)


_PLANCK = {"lwir11": (774.8853, 1321.0789), "lwir12": (480.8883, 1201.1442)}


def heat(x: Plane, sensor: Sensor, m: Moment, sky: Sky, frame: Frame) -> None:
    """Fill the thermal bands of a mixed product, in the unit that each declares."""
    thermal = [i for i, b in enumerate(sensor.bands) if b.nm is not None and b.nm > 5000]
    if not thermal:
        return
    kelvin = _window(m, frame, surface_temperature(m, sky))
    for i in thermal:
        band = sensor.bands[i]
        if band.unit == "celsius":
            value = kelvin - f32(273.15)
        elif band.unit == "radiance":
            k1, k2 = _PLANCK[band.name]
            value = f32(k1) / (np.exp(f32(k2) / kelvin) - f32(1))
        else:
            value = kelvin
        scale, offset = f32(band.scale), f32(band.offset)
        x[i] = np.rint((value - offset) / scale) * scale + offset if band.scale != 1 else value


def daily(sensor: Sensor, m: Moment, frame: Frame) -> Plane:
    """Reanalysis of a day (C, H, W)."""
    t = m.air + f32(273.15)
    rain = np.maximum(m.moist - f32(0.45), 0) * f32(0.03)
    made = {
        "temperature_2m": t, "dewpoint_2m": t - f32(14) * (f32(1) - m.moist), "precipitation": rain,
        "soil_moisture": f32(0.06) + f32(0.4) * m.moist, "snow_water": f32(0.12) * m.snow,
    }  # fmt: skip
    return np.stack([_window(m, frame, made[b.name].astype(f32)) for b in sensor.bands])


def _edges(n: int, parts: int) -> tuple[Plane, Plane]:
    """Cell borders as (whole pixel, fraction of the next one)."""
    at = np.arange(parts + 1) * (n / parts)
    whole = np.minimum(np.floor(at + 1e-9).astype(int), n)
    return whole, np.where(whole < n, np.clip(at - whole, 0, None), 0)


def _pool_rows(x: Plane, parts: int) -> Plane:
    """Means over equal parts of axis 1, pixels on a border shared by area; each part sums its own pixels only."""
    n = x.shape[1]
    whole, part = _edges(n, parts)
    out = np.empty((x.shape[0], parts, *x.shape[2:]), np.float64)
    for i in range(parts):
        a, b = int(whole[i]), int(whole[i + 1])
        total = x[:, a:b].astype(np.float64).sum(axis=1) - part[i] * x[:, min(a, n - 1)]
        out[:, i] = (total + part[i + 1] * x[:, min(b, n - 1)]) * (parts / n)
    return out


def pool(x: Plane, shape: tuple[int, int], nearest: bool = False, decibel: bool = False) -> Plane:
    """(C, H, W) over fewer, larger pixels of the same ground: area means (of power for dB), or the centre's class."""
    h, w = x.shape[1:]
    if nearest:
        rows = ((np.arange(shape[0]) + 0.5) * h / shape[0]).astype(int)
        cols = ((np.arange(shape[1]) + 0.5) * w / shape[1]).astype(int)
        return x[:, rows][:, :, cols]
    y = 10 ** (x.astype(np.float64) / 10) if decibel else x
    y = _pool_rows(_pool_rows(y, shape[0]).swapaxes(1, 2), shape[1]).swapaxes(1, 2)
    return (10 * np.log10(y) if decibel else y).astype(np.float32)
