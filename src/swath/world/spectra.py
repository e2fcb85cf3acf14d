"""Spectra of materials from 400 to 2500 nm, and what a band sees of them.

Leaves are parametric, r = plateau * exp(-c k_chl - w k_water) with the red edge where chlorophyll stops to absorb
(the idea of PROSPECT, Jacquemoud & Baret 1990); the other materials are curves through control points with
absorption dips. A band integrates its Gaussian response: r_b = sum r(l) g_b(l) / sum g_b(l).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from swath.core import Sensor
from swath.world.noise import Plane

NM = np.arange(400.0, 2501.0, 5.0)


def _dip(centre: float, width: float) -> Plane:
    return np.exp(-(((NM - centre) / width) ** 2))


def leaf(plateau: float, chlorophyll: float, water: float, swir: float = 0.86, yellow: float = 0.0) -> Plane:
    """A canopy: `plateau` near 850 nm, `chlorophyll` and `water` as optical depths."""
    rise = 1 / (1 + np.exp(-(NM - 722) / 14))
    k_chl = 1.1 * _dip(440, 62) + 0.62 * _dip(672, 33) + 0.56 / (1 + np.exp((NM - 700) / 11)) - 0.06 * _dip(553, 30)
    k_chl = k_chl - yellow * _dip(590, 80) * 0.4
    k_water = 0.10 * _dip(970, 32) + 0.2 * _dip(1200, 48) + 1.3 * _dip(1450, 90) + 1.9 * _dip(1940, 130)
    k_water = k_water + 0.8 * _dip(2500, 360) + 0.68 / (1 + np.exp(-(NM - 1380) / 40))
    slope = np.where(NM > 900, 1 - (1 - swir) * (NM - 900) / 1600, 1.0)
    level = 0.52 + 0.48 * rise
    return plateau * level * slope * np.exp(-chlorophyll * k_chl - water * k_water)


def curve(points: str, dips: tuple[tuple[float, float, float], ...] = ()) -> Plane:
    """A curve through `nm:reflectance` points; dips are (centre, width, depth)."""
    pairs = np.array([p.split(":") for p in points.split()], np.float64)
    r = np.interp(NM, pairs[:, 0], pairs[:, 1])
    kernel = np.hanning(13) / np.hanning(13).sum()
    r = np.convolve(np.pad(r, 6, mode="edge"), kernel, mode="valid")
    for centre, width, depth in dips:
        r = r * (1 - depth * _dip(centre, width))
    return r


_CLAY = ((1410, 40, 0.10), (1920, 60, 0.16), (2205, 45, 0.10))


@lru_cache(maxsize=1)
def library() -> dict[str, Plane]:
    """Reflectance on `NM` by material."""
    snow = ((1030, 60, 0.18), (1260, 60, 0.22))
    return {
        "herb": leaf(0.52, 2.15, 0.95), "lawn": leaf(0.44, 1.95, 0.80), "leaf": leaf(0.44, 2.35, 1.0),
        "needle": leaf(0.29, 2.3, 1.22), "tropical": leaf(0.38, 2.5, 1.1), "shrub": leaf(0.36, 1.75, 0.72),
        "moss": leaf(0.33, 1.6, 0.75), "flower": leaf(0.50, 1.5, 0.75, yellow=1.6),
        "dry": curve("400:.06 500:.10 600:.165 700:.22 850:.31 1300:.42 1650:.41 2200:.27 2500:.22",
                     ((2100, 70, 0.14), (1930, 60, 0.2))),
        "soil": curve("400:.045 500:.075 600:.115 700:.145 850:.19 1300:.275 1650:.31 2200:.265 2500:.22", _CLAY),
        "darksoil": curve("400:.03 500:.045 600:.065 700:.085 850:.12 1300:.185 1650:.21 2200:.185 2500:.16", _CLAY),
        "redsoil": curve("400:.05 500:.08 550:.11 600:.20 700:.27 850:.31 1300:.42 1650:.45 2200:.38 2500:.33", _CLAY),
        "dust": curve("400:.10 500:.15 600:.22 700:.265 850:.32 1300:.405 1650:.445 2200:.395 2500:.34", _CLAY),
        "sand": curve("400:.11 500:.16 600:.26 700:.325 850:.37 1300:.46 1650:.50 2200:.46 2500:.41", _CLAY),
        "palesand": curve("400:.17 500:.25 600:.36 700:.42 850:.46 1300:.54 1650:.57 2200:.53 2500:.47", _CLAY),
        "rock": curve("400:.10 500:.13 600:.16 700:.18 850:.205 1300:.255 1650:.28 2200:.26 2500:.24", _CLAY),
        "peat": curve("400:.035 500:.05 600:.07 700:.09 850:.14 1300:.20 1650:.19 2200:.13 2500:.10"),
        "litter": curve("400:.03 500:.045 600:.07 700:.10 850:.17 1300:.24 1650:.24 2200:.16 2500:.12"),
        "bog": curve("400:.03 500:.04 600:.05 700:.055 850:.07 1300:.06 1650:.05 2200:.03 2500:.02"),
        "sea": curve("400:.055 450:.052 500:.040 560:.022 600:.010 670:.006 750:.003 850:.002 1000:.001 2500:.0005"),
        "lake": curve("400:.035 500:.045 560:.055 600:.038 670:.028 710:.026 760:.012 850:.009 1000:.003 2500:.001"),
        "river": curve("400:.05 500:.075 560:.105 600:.10 670:.09 710:.075 760:.04 850:.032 1000:.008 2500:.002"),
        "flood": curve("400:.06 500:.09 560:.125 600:.135 670:.135 710:.115 760:.07 850:.06 1000:.02 2500:.004"),
        "snow": curve("400:.84 600:.85 800:.82 1000:.73 1300:.47 1450:.11 1650:.14 1950:.04 2200:.10 2500:.05", snow),
        "char": curve("400:.025 600:.032 800:.045 1300:.09 1650:.125 2200:.155 2500:.15"),
        "asphalt": curve("400:.07 600:.10 850:.125 1650:.16 2200:.165 2500:.16"),
        "concrete": curve("400:.15 500:.20 700:.265 1000:.30 1650:.35 2200:.33 2500:.30", _CLAY),
        "tile": curve("400:.06 500:.075 550:.09 600:.17 700:.25 850:.27 1300:.33 1650:.36 2200:.33 2500:.30"),
        "greyroof": curve("400:.12 600:.155 850:.175 1650:.20 2200:.20 2500:.19"),
        "metal": curve("400:.24 600:.30 850:.32 1650:.36 2200:.35 2500:.34"),
        "cloud": curve("400:.88 700:.88 1000:.84 1250:.78 1450:.42 1650:.52 1950:.22 2200:.38 2500:.20"),
    }  # fmt: skip


@lru_cache(maxsize=64)
def response(sensor: Sensor) -> Plane:
    """(bands, wavelengths): normalised Gaussian responses; a band beyond the library has a row of zeros."""
    rows: list[Plane] = []
    for band in sensor.bands:
        row = np.zeros(NM.shape)
        if band.nm is not None and 350 <= band.nm <= 2600:
            sigma = max(band.fwhm or 10.0, 6.0) / 2.3548
            row = np.exp(-0.5 * ((NM - band.nm) / sigma) ** 2)
            row = row / row.sum()
        rows.append(row)
    return np.stack(rows)


@lru_cache(maxsize=64)
def seen(sensor: Sensor) -> dict[str, Plane]:
    """Reflectance of each material in each band, float32 (bands,)."""
    weights = response(sensor)
    return {name: (weights * r).sum(axis=1).astype(np.float32) for name, r in library().items()}


@lru_cache(maxsize=64)
def air(sensor: Sensor) -> tuple[Plane, Plane, Plane, Plane]:
    """Per band: Rayleigh path at full strength, aerosol path per unit depth, gas transmission, cirrus sight."""
    rayleigh = 0.105 * (443 / NM) ** 4.05
    aerosol = 0.13 * (550 / NM) ** 1.25
    gas = 1 - 0.12 * _dip(600, 60) - 0.45 * _dip(940, 28) - 0.5 * _dip(1130, 40) - 0.995 * _dip(1378, 42)
    gas = np.clip(gas - 0.99 * _dip(1880, 60) - 0.05 * (NM > 1500) - 0.06 * (NM > 2000), 0.0, 1)
    w = response(sensor)
    total = [(w * r).sum(axis=1).astype(np.float32) for r in (rayleigh, aerosol, gas, 1 - gas)]
    return total[0], total[1], total[2], total[3]
