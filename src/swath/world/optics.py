"""Reflectance of the state in any set of bands: mixing, illumination, atmosphere, point spread, noise, storage.

surface  r = g G + d D + s B          (green, dry and bare fractions with the spectra of their cover)
sun      r * (1 + k (cos i / cos z - 1)) on slopes
top      r_toa = t (r (1 - c) + c r_cloud) + r_rayleigh + tau r_aerosol
Bands coarser than the pixel are means over the absolute blocks of their own pixel size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from swath.core import SENSORS, Sensor
from swath.world.catalog import COVERS
from swath.world.ground import Ground
from swath.world.moment import Moment
from swath.world.noise import Frame, Plane, pixel_hash, sub
from swath.world.sky import Sky
from swath.world.spectra import air, seen

f32 = np.float32
_DISPLAY_WHITE = {"naip": 0.62, "rgb-aerial": 0.42}


def is_top(sensor: Sensor) -> bool:
    """Whether a product shows the top of the atmosphere."""
    return sensor.id.endswith(("-l1c", "-toa"))


@lru_cache(maxsize=64)
def _tables(sensor: Sensor) -> tuple[Plane, Plane, Plane]:
    """Per band (bands, covers): green spectrum, bare spectrum, and the spectrum of bright soil in its place."""
    r = seen(sensor)
    bright = {"soil": "redsoil", "dust": "sand", "sand": "palesand", "peat": "soil", "litter": "soil"}
    dark = {"soil": "darksoil", "dust": "soil"}
    green = np.stack([r[c.green] for c in COVERS], axis=1)
    low = np.stack([r[dark.get(c.bare, c.bare)] for c in COVERS], axis=1)
    high = np.stack([r[bright.get(c.bare, c.bare)] for c in COVERS], axis=1)
    return green, low, high


class Palette:
    """Spectra of one ground's covers in one sensor's bands, planes (C, H, W); kept while the cover stays the same."""

    def __init__(self, sensor: Sensor, ground: Ground) -> None:
        self.sensor, self.ground = sensor, ground
        self.key: bytes | None = None
        self.green: Plane = np.empty(0)
        self.bare: Plane = np.empty(0)

    def load(self, cover: Plane) -> None:
        key = cover.tobytes()
        if key == self.key:
            return
        self.key = key
        green, low, high = _tables(self.sensor)
        index = cover.astype(np.intp)
        self.green = green.take(index, axis=1)
        self.bare = low.take(index, axis=1)
        part = (high - low).take(index, axis=1)
        part *= self.ground.soil[None]
        self.bare += part


def _layers(m: Moment) -> tuple[Plane, list[tuple[str, Plane]], list[tuple[str, Plane]]]:
    """The bare fraction; what is added to the ground's spectrum; what covers it."""
    bare = (f32(1) - m.green - m.dry) * (f32(1) - f32(0.38) * m.moist)
    water = m.ground.river < 0
    np.copyto(bare, f32(1) - m.green - m.dry, where=(m.cover <= 3) | water)
    added = [(n, v) for n, v in (("dry", m.dry), ("flower", m.flower * m.green)) if v.any()]
    wet = m.flood * (f32(1) - f32(0.75) * m.green)
    over = [(n, v) for n, v in (("char", m.char), ("flood", wet), ("snow", _seen_snow(m))) if v.any()]
    return bare, added, over


def surface(palette: Palette, m: Moment, light: Plane) -> Iterator[Plane]:
    """Reflectance of the lit ground, band by band, each (H, W) in the same buffer."""
    r = seen(palette.sensor)
    palette.load(m.cover)
    bare, added, over = _layers(m)
    gloss = light * m.ground.texture * f32(0.88)  # rough canopies and soils shade themselves
    out, part = np.empty_like(bare), np.empty_like(bare)
    for k in range(len(palette.sensor.bands)):
        np.multiply(palette.green[k], m.green, out=out)
        np.multiply(palette.bare[k], bare, out=part)
        out += part
        for name, share in added:
            np.multiply(r[name][k] if name == "dry" else r[name][k] - palette.green[k], share, out=part)
            out += part
        for name, share in over:
            np.multiply(r[name][k] - out, share, out=part)
            out += part
        out *= gloss
        yield out


def _seen_snow(m: Moment) -> Plane:
    """Snow as seen from above: it falls through needles."""
    if not m.snow.any():
        return m.snow
    tall = np.array([c.height > 3 for c in COVERS])[m.cover]
    return np.where(tall, f32(0.42), f32(0.97)) * m.snow


def illumination(ground: Ground, sky: Sky, strength: float = 0.75) -> Plane:
    """cos i / cos z on slopes, softened by sky light."""
    tan_z = np.sqrt(f32(1) - sky.up * sky.up) / sky.up
    lean = -(ground.slope_x * sky.east + ground.slope_y * sky.north)
    norm = np.sqrt(f32(1) + ground.slope_x * ground.slope_x + ground.slope_y * ground.slope_y)
    ratio = (f32(1) + lean * tan_z) / norm
    return f32(1 - strength) + f32(strength) * np.clip(ratio, f32(0.05), f32(2.2))


def spread(r: Plane, share: float) -> Plane:
    """Point spread of one band: a separable three-tap blur that drops one pixel on each side."""
    a, b = f32(share), f32(1 - 2 * share)
    rows = r[:-2] + r[2:]
    rows *= a
    rows += r[1:-1] * b
    out = rows[:, :-2] + rows[:, 2:]
    out *= a
    out += rows[:, 1:-1] * b
    return out


def coarsen(r: Plane, n: int) -> Plane:
    """Means over n x n blocks, repeated to the pixel grid; sums in a fixed order."""
    rows = r[::n].copy()
    for k in range(1, n):
        rows += r[k::n]
    cells = rows[:, ::n].copy()
    for k in range(1, n):
        cells += rows[:, k::n]
    cells *= f32(1 / (n * n))
    return np.repeat(np.repeat(cells, n, axis=0), n, axis=1)


def blocks(sensor: Sensor, gsd: float) -> dict[int, int]:
    """Band index -> its pixel's size in pixels of `gsd`, where that is a whole number above one."""
    ratio = {i: b.gsd / gsd for i, b in enumerate(sensor.bands)}
    return {i: round(q) for i, q in ratio.items() if q >= 2 and abs(q - round(q)) < 1e-6}


class Air:
    """What lies between the ground and a sensor on one day; `through` changes one band in place."""

    def __init__(self, sensor: Sensor, sky: Sky) -> None:
        self.sky, self.top, self.cloud = sky, is_top(sensor), seen(sensor)["cloud"]
        self.rayleigh, self.aerosol, self.gas, self.blind = air(sensor)
        self.haze = sky.haze if self.top else (sky.haze - f32(0.13)) * f32(0.3)
        self.dark = f32(1) - f32(0.55) * sky.shadow if sky.shadow.any() else None
        self.open = f32(1) - sky.cloud if sky.cloud.any() else None
        self.white = sky.cloud * f32(0.86)
        self.cirrus = sky.cirrus if sky.cirrus.any() else None

    def through(self, r: Plane, band: int) -> None:
        if self.dark is not None:
            r *= self.dark
        if self.open is not None:
            r *= self.open
            r += self.cloud[band] * self.white
        if self.top:
            r *= self.gas[band] * (f32(1) - self.rayleigh[band] * f32(1.1))
            r += self.rayleigh[band] * self.gas[band]
        r += self.aerosol[band] * (self.gas[band] if self.top else f32(1)) * self.haze
        if self.cirrus is not None:
            r += f32(0.9) * (f32(0.35) + f32(0.65) * self.blind[band]) * self.cloud[band] * self.cirrus
        r *= self.sky.gain


@lru_cache(maxsize=256)
def _places(sensor: str, bands: tuple[str, ...]) -> tuple[int, ...]:
    """Where bands stand in the whole product."""
    return tuple(SENSORS.get(sensor).index(b) for b in bands)


def grain(r: Plane, sensor: Sensor, frame: Frame, seed: int, amount: float) -> None:
    """Sensor noise, in place: four bands share one 32-bit hash, a byte each, by their place in the whole product,
    so that a band is the same whichever others are read with it."""
    places = _places(sensor.id, tuple(b.name for b in sensor.bands))
    hashes = {g: pixel_hash(frame, sub(seed, f"grain{g}")) for g in sorted({p // 4 for p in places})}
    for k, p in enumerate(places):
        byte = hashes[p // 4] >> np.uint32(8 * (p % 4))
        byte &= np.uint32(255)
        step = byte.astype(f32)
        step -= f32(127.5)
        step *= f32(amount / 73.9)
        r[k] += step


def store(r: Plane, sensor: Sensor) -> Plane:
    """Round to what the product can store, and back to physical units, in place."""
    if sensor.dtype.startswith("float"):
        return r
    info = np.iinfo(sensor.dtype)
    low = float(info.min) if sensor.nodata is None else max(float(info.min), float(sensor.nodata) + 1)
    for x, band in zip(r, sensor.bands, strict=True):
        x -= f32(band.offset)
        x *= f32(1 / band.scale)
        np.rint(x, out=x)
        np.maximum(x, f32(low), out=x)
        np.minimum(x, f32(info.max), out=x)
        x *= f32(band.scale)
        x += f32(band.offset)
    return r


def display(r: Plane, sensor: Sensor) -> Plane:
    """Reflectance as an orthophoto shows it: a camera's curve to 0..255."""
    white = f32(_DISPLAY_WHITE.get(sensor.id, 0.5))
    return np.sqrt(np.clip(r * (f32(1) / white), 0, 1)) * f32(255)


def margin(sensors: Sequence[Sensor], frame: Frame) -> Frame:
    """The frame to compute: grown by the point spread and the largest object, out to whole blocks of coarse bands."""
    n, halo = 1, max(0, math.ceil(20 / frame.gsd) - 1)
    for sensor in sensors:
        for k in blocks(sensor, frame.gsd).values():
            n = n * k // math.gcd(n, k)
    row, col = (frame.row - halo) // n * n, (frame.col - halo) // n * n
    stop_r, stop_c = -(-(frame.row + frame.height + halo) // n) * n, -(-(frame.col + frame.width + halo) // n) * n
    return Frame(frame.gsd, row - 1, col - 1, stop_r - row + 2, stop_c - col + 2)


def render(palette: Palette, m: Moment, sky: Sky, frame: Frame, noise: float = 0.0012) -> Plane:
    """One day of one optical sensor over `frame` (C, H, W), from a state over `margin(sensor, frame)`."""
    sensor, wide = palette.sensor, m.ground.frame
    inner, between, big = wide.grow(-1), Air(sensor, sky), blocks(sensor, wide.gsd)
    top, left = frame.row - inner.row, frame.col - inner.col
    share = 0.16 if wide.gsd >= 3 else 0.1
    r = np.empty((len(sensor.bands), *frame.shape), f32)
    for k, lit in enumerate(surface(palette, m, illumination(m.ground, sky))):
        between.through(lit, k)
        seen_band = spread(lit, share)
        if k in big:
            seen_band = coarsen(seen_band, big[k])
        r[k] = seen_band[top : top + frame.height, left : left + frame.width]
    if sensor.bands[0].unit == "display":
        r = display(r, sensor)
        noise = 1.6
    grain(r, sensor, frame, sub(m.ground.seed, f"{sensor.id}{m.day}"), noise)
    return store(r, sensor)
