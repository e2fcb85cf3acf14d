"""Point objects: wind turbines on open land, cattle on grass, tanks by industry; hashed places, drawn as discs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from swath.world.catalog import ID
from swath.world.noise import Frame, Plane, hash_grid, smooth, sub
from swath.world.settle import Settled, permanent

f32 = np.float32
KINDS = ("wind turbine", "cattle", "storage tank")


@dataclass(frozen=True)
class Kind:
    """Spacing of the lattice of places in metres, radius of the disc, the coarsest pixel that still draws it."""

    name: str
    spacing: float
    radius: tuple[float, float]
    coarsest: float
    cover: str


_KINDS = (
    Kind("wind turbine", 420.0, (6.0, 9.0), 12.0, "white pad"),
    Kind("cattle", 14.0, (0.9, 1.3), 1.0, "cattle"),
    Kind("storage tank", 90.0, (9.0, 19.0), 12.0, "white pad"),
)


def _places(frame: Frame, seed: int, kind: Kind) -> tuple[Plane, Plane, Plane, Plane]:
    """x, y, radius and draw of every lattice place whose disc may touch the frame."""
    s, g = kind.spacing, frame.gsd
    ix = np.arange(int(np.floor(frame.col * g / s)) - 1, int(np.floor((frame.col + frame.width) * g / s)) + 2)
    iy = np.arange(int(np.floor(-(frame.row + frame.height) * g / s)) - 1, int(np.floor(-frame.row * g / s)) + 2)
    h = hash_grid(sub(seed, kind.name), iy, ix)
    a, b, c = ((h >> np.uint32(k) & np.uint32(1023)) / 1023.0 for k in (0, 10, 20))
    x = (ix[None, :] + 0.15 + 0.7 * a) * s
    y = (iy[:, None] + 0.15 + 0.7 * b) * s
    low, high = kind.radius
    d = (h * np.uint32(0x9E3779B1) >> np.uint32(16)) / 65536.0
    return x.ravel(), y.ravel(), (low + (high - low) * c).ravel(), d.ravel()


def _allowed(frame: Frame, seed: int, kind: str, cover: Plane, place: Settled) -> Plane:
    if kind == "wind turbine":
        windy = smooth(frame, sub(seed, "windfarm"), 7_000.0) > f32(1.15)
        return windy & (place.farm | np.isin(cover, _OPEN))
    if kind == "cattle":
        herd = smooth(frame, sub(seed, "herd"), 260.0) > f32(0.9)
        return herd & ((place.farm & permanent(place.parcel)) | np.isin(cover, (ID["grassland"], ID["savanna"])))
    return (place.lcz == 8) & (cover == ID["pavement"])


_OPEN = tuple(ID[n] for n in ("grassland", "sparse", "tundra", "savanna"))
_SHARE = {"wind turbine": 0.75, "cattle": 0.55, "storage tank": 0.5}


def put(frame: Frame, seed: int, cover: Plane, place: Settled) -> list[tuple[float, float, float, int]]:
    """Objects (x, y, radius, kind) whose centre lies in the frame, drawn into `cover`."""
    found: list[tuple[float, float, float, int]] = []
    for number, kind in enumerate(_KINDS):
        if frame.gsd > kind.coarsest:
            continue
        ok = _allowed(frame, seed, kind.name, cover, place)
        if not ok.any():
            continue
        x, y, radius, share = _places(frame, seed, kind)
        col, row = np.floor(x / frame.gsd).astype(int) - frame.col, np.floor(-y / frame.gsd).astype(int) - frame.row
        inside = (col >= 0) & (row >= 0) & (col < frame.width) & (row < frame.height) & (share < _SHARE[kind.name])
        for i in np.flatnonzero(inside):
            if ok[row[i], col[i]]:
                found.append((float(x[i]), float(y[i]), float(radius[i]), number))
    for x, y, radius, number in found:
        _disc(frame, cover, (x, y, radius), ID[_KINDS[number].cover])
    return found


def _disc(frame: Frame, cover: Plane, disc: tuple[float, float, float], value: int) -> None:
    x, y, radius = disc
    g = frame.gsd
    c0, c1 = max(0, int((x - radius) / g) - frame.col - 1), int((x + radius) / g) - frame.col + 2
    r0, r1 = max(0, int((-y - radius) / g) - frame.row - 1), int((-y + radius) / g) - frame.row + 2
    part = cover[r0:r1, c0:c1]
    dx = (np.arange(c0, c0 + part.shape[1]) + frame.col + 0.5) * g - x
    dy = -(np.arange(r0, r0 + part.shape[0]) + frame.row + 0.5) * g - y
    part[dx[None, :] ** 2 + dy[:, None] ** 2 <= max(radius, 0.5 * g) ** 2] = value


def boxes(found: list[tuple[float, float, float, int]], frame: Frame) -> list[tuple[float, float, float, float, int]]:
    """Objects as pixel boxes of a frame; those whose centre lies outside are left out, the rest clipped."""
    rows: list[tuple[float, float, float, float, int]] = []
    for x, y, radius, number in found:
        col, row, reach = x / frame.gsd - frame.col, -y / frame.gsd - frame.row, max(radius / frame.gsd, 0.75)
        if 0 <= col < frame.width and 0 <= row < frame.height:
            rows.append((max(0.0, col - reach), max(0.0, row - reach), min(float(frame.width), col + reach),
                         min(float(frame.height), row + reach), number))  # fmt: skip
    return rows
