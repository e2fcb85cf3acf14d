"""What can cover the ground: one row a cover, with its materials, its year, its radar and its place in label schemes.

A year is a pair of tables over the day of year (northern temperate reference): green and dry cover fractions.
Crops share nearly one green spectrum: what tells them apart is the phase and the shape of the year.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from swath.world.noise import Plane

YEAR = 365


@dataclass(frozen=True)
class Cover:
    """`worldcover`, `dynamicworld`: class codes. `vv, vh`: backscatter in dB of bare ground and of full green cover.

    `year`: (base, top, rise, rise width, fall, fall width, dry top); `height` in metres, `biomass` in t/ha of a
    good stand; `flower`: (day, width, share) of yellow bloom; `paddy`: (from, to) days under water.
    """

    name: str
    green: str
    bare: str
    worldcover: int
    dynamicworld: int
    lcz: int
    vv: tuple[float, float]
    vh: tuple[float, float]
    year: tuple[float, float, float, float, float, float, float] = (0.0, 0.0, 100, 20, 280, 20, 0.0)
    height: float = 0.0
    biomass: float = 0.0
    flower: tuple[float, float, float] | None = None
    paddy: tuple[int, int] | None = None


_W = ((-21.0, -21.0), (-28.5, -28.5))
_CROP = ((-13.0, -9.8), (-21.5, -15.2))


def _crop(name: str, year: tuple[float, ...], green: str = "herb", radar: float = 0.0, tall: float = 1.0) -> Cover:
    (vv0, vv1), (vh0, vh1) = _CROP
    base, top, rise, a, fall, b, dry = year
    return Cover(name, green, "soil", 40, 4, 14, (vv0, vv1 + radar), (vh0, vh1 + radar),
                 (base, top, rise, a, fall, b, dry), height=tall, biomass=6.0)  # fmt: skip


def _built(name: str, bare: str, lcz: int, vv: float, vh: float) -> Cover:
    return Cover(name, "lawn", bare, 50, 6, lcz, (vv, vv), (vh, vh))


def _with(
    cover: Cover, flower: tuple[float, float, float] | None = None, paddy: tuple[int, int] | None = None
) -> Cover:

    return replace(cover, flower=flower, paddy=paddy)


COVERS: tuple[Cover, ...] = (
    Cover("sea", "herb", "sea", 80, 0, 17, *_W),
    Cover("lake", "herb", "lake", 80, 0, 17, *_W),
    Cover("river", "herb", "river", 80, 0, 17, *_W),
    Cover("ice", "herb", "snow", 70, 8, 15, (-9.0, -9.0), (-16.0, -16.0)),
    Cover("sand", "shrub", "sand", 60, 7, 16, (-17.0, -14.0), (-25.0, -22.0), (0.01, 0.03, 120, 30, 250, 40, 0.02)),
    Cover("rock", "shrub", "rock", 60, 7, 15, (-11.5, -11.0), (-18.5, -18.0), (0.02, 0.05, 120, 30, 250, 40, 0.05)),
    Cover("sparse", "shrub", "dust", 60, 7, 16, (-13.5, -12.5), (-21.5, -19.0), (0.06, 0.14, 80, 30, 200, 40, 0.18),
          0.3, 3),
    Cover("tundra", "moss", "peat", 100, 2, 14, (-12.5, -11.0), (-19.5, -16.5), (0.08, 0.62, 168, 10, 250, 9, 0.55),
          0.2, 4),
    Cover("grassland", "lawn", "soil", 30, 2, 14, (-12.8, -11.0), (-21.0, -17.5), (0.22, 0.72, 90, 18, 235, 34, 0.55),
          0.4, 3),
    Cover("savanna", "lawn", "dust", 30, 2, 12, (-12.5, -10.3), (-19.5, -16.2), (0.14, 0.68, 158, 16, 305, 22, 0.62),
          2.5, 18),
    Cover("shrubland", "shrub", "dust", 20, 5, 13, (-11.8, -10.0), (-18.5, -15.6), (0.26, 0.52, 75, 30, 270, 50, 0.32),
          1.8, 16),
    Cover("wetland", "lawn", "bog", 90, 3, 14, (-12.5, -9.0), (-20.0, -15.2), (0.16, 0.74, 120, 16, 270, 20, 0.4),
          1.0, 8),
    Cover("mangrove", "tropical", "bog", 95, 1, 11, (-9.5, -8.0), (-15.5, -13.4), (0.86, 0.9, 100, 30, 280, 30, 0.03),
          10, 150),
    Cover("needleleaf", "needle", "litter", 10, 1, 11, (-10.8, -8.6), (-17.0, -13.7),
          (0.78, 0.87, 120, 25, 280, 30, 0.08), 19, 130),
    Cover("broadleaf", "leaf", "litter", 10, 1, 11, (-10.3, -8.4), (-16.3, -13.3), (0.10, 0.93, 112, 9, 288, 11, 0.55),
          22, 170),
    Cover("rainforest", "tropical", "litter", 10, 1, 11, (-9.0, -7.9), (-14.6, -12.9),
          (0.92, 0.96, 150, 40, 300, 40, 0.02), 31, 300),
    Cover("pasture", "lawn", "soil", 30, 2, 14, (-12.5, -10.8), (-20.5, -17.0), (0.46, 0.82, 82, 15, 295, 22, 0.2),
          0.3, 3),
    _crop("winter wheat", (0.24, 0.92, 88, 11, 182, 6, 0.85)),
    _crop("spring barley", (0.04, 0.88, 124, 8, 198, 6, 0.85)),
    _with(_crop("rapeseed", (0.34, 0.93, 78, 10, 180, 7, 0.7), "herb", 1.6, 1.4), flower=(121, 9, 0.62)),
    _crop("maize", (0.02, 0.93, 172, 8, 262, 8, 0.75), "herb", 0.9, 2.4),
    _crop("soybean", (0.02, 0.94, 186, 8, 247, 6, 0.65), "herb", -0.4),
    _crop("sugar beet", (0.02, 0.95, 158, 10, 302, 8, 0.1), "herb", 0.5, 0.5),
    _with(_crop("rice", (0.03, 0.93, 178, 9, 264, 7, 0.8)), paddy=(132, 176)),
    _crop("cotton", (0.02, 0.84, 188, 12, 290, 10, 0.45), "herb", 0.2),
    _crop("sugarcane", (0.55, 0.9, 130, 25, 345, 12, 0.3), "herb", 1.2, 3.0),
    _crop("fallow", (0.10, 0.24, 100, 25, 260, 30, 0.3)),
    Cover("orchard", "shrub", "soil", 40, 4, 12, (-11.5, -10.0), (-18.0, -15.3), (0.3, 0.66, 105, 12, 300, 14, 0.15),
          4.0, 35),
    _built("road", "asphalt", 15, -12.5, -20.5), _built("pavement", "concrete", 15, -9.5, -18.0),
    _built("tile roof", "tile", 6, -4.5, -12.5), _built("grey roof", "greyroof", 2, -3.0, -12.0),
    _built("metal roof", "metal", 8, -1.5, -11.5),
    Cover("lawn", "lawn", "soil", 50, 2, 14, (-12.0, -11.0), (-19.5, -17.0), (0.5, 0.82, 80, 16, 300, 22, 0.12),
          0.1, 1),
    Cover("street trees", "leaf", "litter", 50, 1, 12, (-9.5, -8.6), (-15.5, -13.9),
          (0.2, 0.86, 110, 10, 290, 12, 0.3), 9, 60),
    Cover("hedge", "leaf", "soil", 30, 5, 13, (-10.5, -9.4), (-17.0, -14.8), (0.22, 0.78, 108, 12, 288, 14, 0.4),
          3, 20),
    Cover("clear-cut", "lawn", "litter", 30, 5, 13, (-11.5, -10.5), (-18.5, -16.4), (0.14, 0.5, 115, 18, 265, 22, 0.5),
          0.6, 5),
    Cover("white pad", "lawn", "metal", 50, 6, 8, (-1.0, -1.0), (-11.0, -11.0)),
    Cover("cattle", "lawn", "peat", 30, 2, 14, (-12.0, -12.0), (-19.0, -19.0)),
    Cover("building site", "lawn", "dust", 60, 7, 16, (-9.5, -9.5), (-17.5, -17.5)),
)  # fmt: skip
ID = {c.name: i for i, c in enumerate(COVERS)}
CROPS = ("winter wheat", "spring barley", "rapeseed", "maize", "soybean", "sugar beet", "rice", "cotton",
         "sugarcane", "fallow", "orchard", "pasture")  # fmt: skip
WATER = tuple(ID[n] for n in ("sea", "lake", "river"))
FOREST = tuple(ID[n] for n in ("mangrove", "needleleaf", "broadleaf", "rainforest"))
BURNS = tuple(ID[n] for n in ("savanna", "shrubland", "grassland", "needleleaf", "broadleaf", "tundra", "wetland"))

# what is grown where: relative areas by farming climate
MIXES: dict[str, dict[str, float]] = {
    "temperate": {"winter wheat": 26, "maize": 20, "rapeseed": 12, "spring barley": 9, "sugar beet": 8, "pasture": 13,
                  "soybean": 5, "fallow": 4, "orchard": 3},
    "cold": {"spring barley": 30, "winter wheat": 14, "rapeseed": 16, "pasture": 26, "fallow": 14},
    "warm": {"maize": 24, "soybean": 22, "winter wheat": 18, "cotton": 14, "rice": 10, "fallow": 5, "orchard": 7},
    "tropical": {"rice": 30, "sugarcane": 18, "maize": 18, "soybean": 12, "cotton": 6, "orchard": 10, "fallow": 6},
    "dry": {"winter wheat": 36, "fallow": 26, "cotton": 14, "maize": 8, "orchard": 16},
}  # fmt: skip


def _logistic(d: Plane, middle: float, width: float) -> Plane:
    return 1 / (1 + np.exp(-(d - middle) / (0.55 * width)))


def _year(cover: Cover) -> tuple[Plane, Plane, Plane, Plane]:
    """Green, dry, flower and water fractions over the days of a year."""
    base, top, rise, a, fall, b, dry = cover.year
    day = np.arange(YEAR, dtype=np.float64)
    pulse = sum(_logistic(day + k, rise, a) - _logistic(day + k, fall, b) for k in (-YEAR, 0, YEAR))
    green = base + (top - base) * np.clip(pulse, 0, 1)
    if cover.worldcover == 40 and cover.name not in ("fallow", "orchard", "sugarcane"):
        ripe = sum(_logistic(day + k, fall - 4, b) - _logistic(day + k, fall + 24, 4) for k in (-YEAR, 0, YEAR))
        stub = sum(_logistic(day + k, fall + 24, 4) - _logistic(day + k, fall + 60, 12) for k in (-YEAR, 0, YEAR))
        brown = dry * np.clip(ripe, 0, 1) + 0.3 * np.clip(stub, 0, 1)
    else:
        brown = dry * (top - green) / max(top - base, 1e-6)
    brown = np.minimum(np.clip(brown, 0, 1), 1 - green)
    flower, paddy = np.zeros(YEAR), np.zeros(YEAR)
    if cover.flower:
        middle, width, share = cover.flower
        flower = share * np.exp(-(((day - middle) / width) ** 2))
    if cover.paddy:
        paddy = 0.9 * (_logistic(day, cover.paddy[0], 3) - _logistic(day, cover.paddy[1] + 8, 9)) * (1 - green)
    return green, brown, flower, paddy


@lru_cache(maxsize=1)
def calendar() -> Plane:
    """(4, covers * 365) float32: green, dry, flower, water by cover * 365 + day of year."""
    return np.stack([np.concatenate(rows) for rows in zip(*(_year(c) for c in COVERS), strict=True)]).astype(np.float32)


@lru_cache(maxsize=1)
def mix_table() -> Plane:
    """(mixes, 256) uint8: the cover that a hashed byte draws."""
    rows: list[Plane] = []
    for mix in MIXES.values():
        shares = np.cumsum([v for v in mix.values()]) / sum(mix.values())
        rows.append(np.array([ID[n] for n in mix], np.uint8)[np.searchsorted(shares, (np.arange(256) + 0.5) / 256)])
    return np.stack(rows)


def column(name: str) -> Plane:
    """One attribute of all covers as an array to index by cover."""
    return np.array([getattr(c, name) for c in COVERS])
