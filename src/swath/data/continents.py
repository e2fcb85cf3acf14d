"""Continents by longitude and latitude, from a short table of our own boxes: coarse, and said to be.

A place within some 200 km of a land border between two continents may be wrong; where that matters, give a column.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# First match wins: west, south, east, north.
TABLE: tuple[tuple[str, float, float, float, float], ...] = (
    ("antarctica", -180, -90, 180, -60),
    ("north america", -180, 51, -168, 66),
    ("asia", -180, 60, -169, 73),
    ("oceania", -180, -60, -100, 25),
    ("oceania", 110, -50, 180, -11),
    ("oceania", 131, -11, 180, 0),
    ("oceania", 142, 0, 180, 22),
    ("north america", -168, 24, -50, 75),
    ("north america", -128, 13, -82, 24),
    ("north america", -82, 18, -59, 24),
    ("north america", -82, 12.7, -59, 18),
    ("north america", -93, 8, -82, 13),
    ("north america", -83, 7, -77.4, 10),
    ("north america", -130, 75, -10, 84),
    ("north america", -58, 59, -26, 84),
    ("north america", -27, 68, -17, 84),
    ("south america", -92, -57, -34, 13),
    ("europe", -32, 36, -12, 67),
    ("europe", -12, 36, -6, 72),
    ("europe", -6, 35.9, 4, 72),
    ("europe", 4, 37.6, 11.5, 82),
    ("europe", 11.5, 35.7, 26.3, 82),
    ("europe", 26.3, 41.3, 28.8, 82),
    ("europe", 23, 34.7, 26.4, 36),
    ("europe", 28.8, 43.5, 39, 82),
    ("europe", 39, 44, 47, 82),
    ("europe", 47, 48, 60, 82),
    ("africa", -26, -36, 32.4, 38),
    ("africa", 32.4, -36, 34, 27.8),
    ("africa", 34, -36, 37, 24),
    ("africa", 37, -36, 39.5, 18.5),
    ("africa", 39.5, -36, 42.7, 14.8),
    ("africa", 42.7, -36, 55, 12),
    ("africa", 55, -36, 65, 0),
    ("asia", 26, -11, 180, 82),
)
NAMES = tuple(dict.fromkeys(row[0] for row in TABLE))


def continent_of(lonlat: NDArray[np.float64]) -> list[str]:
    """The continent of each place; `ocean` where no box of the table lies."""
    out = np.full(len(lonlat), "ocean", dtype=object)
    lon = (lonlat[:, 0] + 180) % 360 - 180
    for name, west, south, east, north in reversed(TABLE):
        inside = (lon >= west) & (lon <= east) & (lonlat[:, 1] >= south) & (lonlat[:, 1] <= north)
        out[inside] = name
    return [str(v) for v in out]
