"""The large forms of the Earth: continents, ranges and climate on a half-degree grid, and the map projection.

The grid is EPSG:6933 (NSIDC EASE-Grid 2.0 global): one equal-area cylinder for the whole Earth, so one absolute
pixel lattice serves every place. x = a k0 lon, y = a q(lat) / (2 k0), k0 = cos 30 / sqrt(1 - e2 sin2 30).
Outlines, ranges and climate are coarse and simulated: places lie where one expects them, details are invented.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np

from swath.world.noise import Plane

_A, _F = 6378137.0, 1 / 298.257223563
_E2 = _F * (2 - _F)
_E = math.sqrt(_E2)
_K0 = math.cos(math.pi / 6) / math.sqrt(1 - _E2 * math.sin(math.pi / 6) ** 2)
STEP = 0.5

CONTINENTS = ("africa", "antarctica", "asia", "europe", "north-america", "oceania", "south-america")

# continent and outline as "lon lat" pairs
OUTLINES: tuple[tuple[str, str], ...] = (
    ("north-america", "-168 66 -156 71 -128 70 -115 68 -95 69 -82 68 -82 63 -94 59 -88 56 -82 53 -79 52 -78 58 -77 62 "
     "-70 60 -65 59 -60 54 -56 52 -60 49 -66 49 -64 46 -61 46 -66 44 -70 43 -70 41.5 -74 40 -76 37 -76 35 -81 31 "
     "-80 26 -82 27 -84 30 -90 29.5 -95 29 -97 27 -97 22 -95 18.5 -91 18.5 -90 21 -87 21 -88 16 -83 15 -83 10 -79 9 "
     "-78 8 -82 8 -86 11 -92 14.5 -97 16 -105 20 -106 23.5 -112 30 -109.5 23 -115 30 -117 33 -121 35 -124 40 -124 47 "
     "-130 54 -138 59 -150 60 -158 57 -165 55 -160 59 -165 62 -162 66"),
    ("north-america", "-120 75 -95 77 -80 75 -65 66 -63 63 -75 65 -90 72 -110 70"),
    ("north-america", "-45 60 -52 65 -55 70 -68 76 -60 82 -30 83.5 -18 80 -22 72 -32 68 -40 65"),
    ("north-america", "-85 22 -80 23.3 -74 20 -78 19.8"),
    ("north-america", "-74.5 19.8 -68.5 19 -68.5 18 -72 17.8"),
    ("south-america", "-78 8 -72 12 -62 10.5 -52 5 -50 0 -44 -2.5 -35 -6 -39 -13 -39 -18 -41 -22 -48 -25.5 -49 -29 "
     "-53 -33.5 -57 -35 -57 -38 -62 -39 -65 -42 -66 -47 -69 -52 -68 -55 -74 -52 -75 -46 -73 -40 -71.5 -30 -70 -19 "
     "-76 -14 -81 -6 -80 -2 -79 2"),
    ("africa", "-6 36 10 37 11 34 20 31 30 31.3 33 29 37 21 39 16 43 12 51 12 48 5 41 -2 39 -6 40 -15 35 -20 35 -24 "
     "32.5 -28 28 -33 20 -35 18 -33 15 -27 12 -17 13.5 -10 9 -1 9.5 4 4 6.3 -4 5 -8 4.5 -13 8.5 -17 14.5 -16 20 "
     "-13 27.5 -9.5 31"),
    ("africa", "49 -12 50 -16 47 -25 44 -24 44 -17"),
    ("europe", "-9 37 -9 43 -1.5 43.5 -1.5 46.5 -4.5 48.5 2 51 8 54 8.5 57 10.5 57.5 10.5 54.5 14 54 19 54.5 21 57 "
     "24 59 29 60 23 60 21.5 63 25 65.5 22 65.5 17 61 18 59.5 16 56.5 13 55.5 11 59 8 58 5 60 6 63 13 66.5 19 70 28 71 "
     "41 67 40 65 44 68 60 69 60 55 58 51 50 47 47 44 40 43.5 37 45.5 33 46 30.5 46 28 43 28 41 24 40.5 23 37 21 38 "
     "19 42 14 45 12.5 44 18 40.3 16 38 12 42 9 44 3 43 0 39 -2 36.8 -5.5 36"),
    ("europe", "-5 50 1 51 1.5 53 -2 56 -2 57.5 -4 58.6 -6 57 -4 54 -5 52"),
    ("europe", "-10 52 -6 52 -6 55 -9.5 54.5"),
    ("europe", "-24 65 -22 64 -15 64.3 -14 65.5 -19 66.3"),
    ("asia", "60 69 68 69 73 72 80 73 104 77.5 114 74 130 71 141 72.5 160 70 179.5 69 179.5 65 170 60 163 58 161 52 "
     "157 51 156 57 160 61 150 59 140 54 140 48 132 43 128 40 129 35.5 126.5 35 125 39 121 40 118 38.5 122 37 120 34 "
     "122 30 119 25 113 22 108 21.5 106 18 109 13 106 9 105 10.5 101 13 99.5 10 103 4 103.5 1.3 100.5 5 98 9 97.5 16.5 "
     "94 16.5 92 21 87 21.5 80 15 80 11 77.5 8 73 17 72.5 21 67 24.5 57 25.5 51 29 48.5 30 51 25 56 26 59 22.5 55 17.5 "
     "45 13 43 14 39 21 35 28 34.5 31 36 36 30 36.5 27 38 28 41 36 41.5 41 41.5 40 43.5 47 44 50 47 58 51 60 55"),
    ("asia", "130 31 131 34 136 36 140 41 141 45 145 43.5 141.5 39 140.5 35.5 135 33.5"),
    ("asia", "95 5.5 104 -2 105.5 -6 102 -4"), ("asia", "105.5 -6.3 114 -7 114 -8.6 106 -7.6"),
    ("asia", "109 1.5 117 7 118.5 1 116 -4 110.5 -3"), ("asia", "119 -5 120 1 125 1.5 121 -1 122.5 -5"),
    ("asia", "120 18.5 122 18.5 122 14 126 9 125 6 121 7 120.5 14"), ("asia", "80 9 82 7.5 81 6 80 6.5"),
    ("oceania", "131 -1 141 -2.5 148 -7 150.5 -10.5 143 -9 138 -8 133 -4"),
    ("oceania", "114 -22 122 -18 126 -14 130 -12 136 -12 136 -15 140 -17.5 142 -11 146 -19 153 -25.5 153 -31 "
     "150 -37.5 146 -39 140 -38 137 -35 131 -31.5 124 -33.5 115 -34.5 114 -28"),
    ("oceania", "145 -41 148 -41 147 -43.5"), ("oceania", "173 -35 178 -38 175 -41.5 174 -38.5"),
    ("oceania", "173 -40.8 174 -42 171 -46 166.5 -46 171 -42"),
    ("antarctica", "-180 -78 -150 -76.5 -110 -74 -75 -72 -60 -64 -60 -75 -40 -78 -10 -71 40 -69 100 -66 150 -68 "
     "170 -73 180 -78 180 -90 -180 -90"),
)  # fmt: skip

# height in metres, half width in degrees, line as "lon lat" pairs
RANGES: tuple[tuple[float, float, str], ...] = (
    (1900, 3.5, "-150 62 -130 57 -118 50 -110 43 -106 36 -105 28 -100 20 -90 15"), (600, 1.5, "-84 35 -72 44"),
    (3300, 2.0, "-75 8 -77 0 -74 -12 -68 -20 -70 -33 -72 -45"), (700, 5.0, "-47 -15 -44 -20"),
    (4300, 4.0, "72 36 80 33 90 31 100 31"),
    (1800, 3.0, "70 40 85 44 95 48 110 52"), (1100, 3.0, "100 28 105 25 112 26"),
    (1900, 1.1, "6 45 12 47 16 46.5"), (1500, 0.8, "-2 42.7 1 42.5"), (900, 2.0, "-6 40 0 40"),
    (800, 1.2, "19 49 25 47"),
    (2200, 1.0, "40 43 47 41.5"), (1600, 3.0, "28 38.5 38 38.5 45 36 52 31 60 29"), (1000, 1.5, "7 60 14 66 19 69"),
    (500, 1.0, "59 52 60 65"), (1500, 4.0, "37 12 38 7 36 0 34 -8 30 -20 29 -29"), (1500, 1.2, "-8 31 2 35"),
    (900, 3.0, "5 23 17 21"), (1000, 4.0, "15 -15 17 -25"), (700, 2.0, "146 -18 150 -27 148 -36"),
    (900, 5.0, "120 57 135 63 150 63 165 65"), (600, 2.0, "75 12 77 18"), (2400, 5.0, "-40 70 -40 76"),
    (2600, 9.0, "0 -80 90 -80 150 -80"), (2000, 7.0, "-120 -80 -60 -82"), (900, 1.0, "137 36 141 42"),
    (2200, 1.0, "135 -4 146 -7"), (1500, 0.8, "169 -44.5 172 -42"),
    (900, 1.0, "97 4 103 -4"), (1000, 3.0, "44 17 45 24"),
)  # fmt: skip

# rain: lon, lat, half widths in degrees, millimetres a year added (or taken)
RAIN: tuple[tuple[float, float, float, float, float], ...] = (
    (-62, -3, 14, 9, 900), (22, 0, 10, 7, 700), (112, 0, 18, 10, 1100), (82, 23, 9, 6, 800), (112, 27, 10, 6, 950),
    (-86, 33, 9, 6, 750), (8, 50, 14, 7, 250), (137, 36, 6, 6, 900), (-52, -26, 8, 7, 700), (-125, 48, 6, 8, 700),
    (10, 22, 26, 8, -900), (48, 23, 12, 9, -800), (62, 38, 16, 9, -500), (92, 40, 16, 6, -500), (132, -25, 14, 8, -900),
    (-111, 33, 8, 6, -500), (-70, -24, 4, 9, -900), (-68, -42, 5, 8, -450), (18, -24, 7, 7, -600), (70, 28, 6, 5, -500),
    (-2, 39, 8, 4, -200), (47, 8, 6, 6, -900), (105, 35, 8, 5, -150), (100, 15, 8, 8, 500),
)  # fmt: skip


# people and ploughs: lon, lat, half widths in degrees, weight (the farm score moves by 0.4 of it)
PEOPLE: tuple[tuple[float, float, float, float, float], ...] = (
    (10, 49, 20, 7, 1.1), (35, 49, 14, 5, 0.9), (80, 24, 11, 9, 1.3), (115, 32, 10, 9, 1.2), (-92, 41, 11, 7, 1.2),
    (-60, -33, 7, 5, 0.9), (-50, -23, 7, 6, 0.6), (110, -7, 7, 2, 1.1), (8, 10, 9, 5, 0.7), (38, 9, 4, 4, 0.6),
    (102, 15, 5, 4, 0.9), (107, 21, 5, 6, 0.8), (138, 36, 4, 4, 0.6), (148, -33, 6, 4, 0.5), (31, 29, 3, 4, 1.4),
    (-63, -4, 12, 9, -2.2), (22, 0, 9, 6, -1.8), (114, 1, 6, 6, -1.9), (140, -5, 9, 4, -1.8), (95, 62, 45, 8, -1.6),
    (-100, 60, 45, 8, -1.8), (88, 35, 14, 6, -1.5), (133, -25, 12, 9, -1.5), (-113, 42, 7, 10, -0.7),
    (102, 0, 4, 4, -0.6),
)  # fmt: skip


def lonlat_of(x: Plane, y: Plane) -> tuple[Plane, Plane]:
    """Degrees from EPSG:6933 metres (series for the authalic latitude, below a millimetre)."""
    qp = 1 - (1 - _E2) / (2 * _E) * math.log((1 - _E) / (1 + _E))
    beta = np.arcsin(np.clip(2 * np.asarray(y, np.float64) * _K0 / (_A * qp), -1, 1))
    e4, e6 = _E2 * _E2, _E2 * _E2 * _E2
    phi = (
        beta
        + (_E2 / 3 + 31 * e4 / 180 + 517 * e6 / 5040) * np.sin(2 * beta)
        + (23 * e4 / 360 + 251 * e6 / 3780) * np.sin(4 * beta)
        + (761 * e6 / 45360) * np.sin(6 * beta)
    )
    return np.degrees(np.asarray(x, np.float64) / (_A * _K0)), np.degrees(phi)


def xy_of(lon: float, lat: float) -> tuple[float, float]:
    """EPSG:6933 metres from degrees."""
    s = math.sin(math.radians(lat))
    q = (1 - _E2) * (s / (1 - _E2 * s * s) - math.log((1 - _E * s) / (1 + _E * s)) / (2 * _E))
    return _A * _K0 * math.radians(lon), _A * q / (2 * _K0)


def _pairs(text: str) -> Plane:
    return np.array(text.split(), np.float64).reshape(-1, 2)


def _inside(outline: Plane, lon: Plane, lat: Plane) -> Plane:
    inside = np.zeros(lon.shape, bool)
    for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        if y0 != y1:
            inside ^= ((lat < y0) != (lat < y1)) & (lon < (x1 - x0) * (lat - y0) / (y1 - y0) + x0)
    return inside


def _near_line(line: Plane, lon: Plane, lat: Plane, width: float) -> Plane:
    """exp(-(d / width)^2) of the distance in degrees to a polyline."""
    best = np.full(lon.shape, np.inf)
    shrink = np.cos(np.radians(lat))
    for (x0, y0), (x1, y1) in pairwise(line):
        t = np.clip(((lon - x0) * (x1 - x0) + (lat - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2), 0, 1)
        gap = ((lon - x0 - t * (x1 - x0)) * shrink) ** 2 + (lat - y0 - t * (y1 - y0)) ** 2
        best = np.minimum(best, gap)
    return np.exp(-best / width**2)


def _blur(a: Plane, cells: int, passes: int = 3) -> Plane:
    """Repeated running means; the columns wrap around the Earth."""
    for _ in range(passes):
        wide = np.pad(a, ((cells, cells), (0, 0)), mode="edge")
        wide = np.pad(wide, ((0, 0), (cells, cells)), mode="wrap")
        for axis in (0, 1):
            c = np.cumsum(np.insert(wide, 0, 0.0, axis=axis), axis=axis)
            n = 2 * cells + 1
            wide = (np.take(c, range(n, c.shape[axis]), axis) - np.take(c, range(c.shape[axis] - n), axis)) / n
        a = wide
    return a


@lru_cache(maxsize=1)
def atlas() -> dict[str, Plane]:
    """Half-degree grids (row 0 at 90 N): coast, inland, height, rain, heat, swing, people, continent."""
    lon, lat = np.meshgrid(np.arange(-180 + STEP / 2, 180, STEP), np.arange(90 - STEP / 2, -90, -STEP))
    continent = np.full(lon.shape, -1)
    for name, text in OUTLINES:
        continent[_inside(_pairs(text), lon, lat)] = CONTINENTS.index(name)
    land = (continent >= 0).astype(np.float64)
    land[_near_line(_pairs("50.5 45.5 51 41.5 52 37.5"), lon, lat, 2.0) > 0.5] = 0.0
    land[_near_line(_pairs("-88 48 -84 46 -87 43.5 -82 44 -79 43.7"), lon, lat, 0.9) > 0.5] = 0.0
    inland = _blur(land, 8)
    height = sum(h * _near_line(_pairs(t), lon, lat, w) for h, w, t in RANGES)
    away = np.abs(lat)
    rain = 450 + 1500 * np.exp(-((lat / 11) ** 2)) + 450 * np.exp(-(((away - 48) / 14) ** 2)) - 330 * (away > 62)
    rain = rain * (1.15 - 0.45 * inland)
    for x, y, w, h, mm in RAIN:
        rain = rain + mm * np.exp(-(((lon - x) / w) ** 2) - ((lat - y) / h) ** 2)
    gulf = 6.5 * np.exp(-(((lon - 5) / 27) ** 2) - ((lat - 61) / 10) ** 2)
    people = sum(k * np.exp(-(((lon - x) / w) ** 2) - ((lat - y) / h) ** 2) for x, y, w, h, k in PEOPLE)
    return {
        "coast": _blur(land, 1, 2), "inland": inland, "height": np.asarray(height, np.float64),
        "rain": np.maximum(_blur(rain, 2, 1), 12.0), "heat": 27.5 - 0.0075 * lat**2 + gulf,
        "swing": away * (0.14 + 0.28 * inland), "people": np.asarray(people, np.float64),
        "continent": continent.astype(np.float64),
    }  # fmt: skip


@lru_cache(maxsize=1)
def _stack() -> Plane:
    a = atlas()
    return np.stack([a[k] for k in ("coast", "inland", "height", "rain", "heat", "swing", "people")])


def climate(x: Plane, y: Plane) -> Plane:
    """Bilinear (7, ...): coast, inland, height, rain (mm a year), heat (sea-level C), swing (C), people."""
    lon, lat = lonlat_of(x, y)
    grid = _stack()
    rows, cols = grid.shape[1:]
    r = np.clip((90 - lat) / STEP - 0.5, 0, rows - 1.001)
    c = np.mod((lon + 180) / STEP - 0.5, cols)
    r0, c0 = np.floor(r).astype(int), np.floor(c).astype(int)
    fr, fc = r - r0, c - c0
    c0 %= cols
    c1 = (c0 + 1) % cols
    top = grid[:, r0, c0] * (1 - fc) + grid[:, r0, c1] * fc
    low = grid[:, r0 + 1, c0] * (1 - fc) + grid[:, r0 + 1, c1] * fc
    return top * (1 - fr) + low * fr


def continent_of(lon: float, lat: float) -> str:
    """The name of the continent, the nearest one for an island or a shore."""
    grid = atlas()["continent"]
    row = min(int((90 - lat) / STEP), grid.shape[0] - 1)
    col = int((lon + 180) / STEP) % grid.shape[1]
    for reach in (0, 1, 3, 8, 20, 60):
        part = grid[max(0, row - reach) : row + reach + 1, max(0, col - reach) : col + reach + 1]
        known = part[part >= 0]
        if known.size:
            return CONTINENTS[int(np.bincount(known.astype(int)).argmax())]
    return "ocean"
