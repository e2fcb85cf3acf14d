"""What people make of the land: landscapes of parcels, roads, towns, buildings.

A block of a landscape is split again and again at a hashed place across its longer side; a pixel follows its own
half, so its parcel is known from its position alone, with the distance to the parcel's edge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from swath.world import globe
from swath.world.catalog import ID, MIXES
from swath.world.noise import Frame, Plane, fbm, fields, hash_grid, mix, rehash, smooth, sub, unit

f32, u32 = np.float32, np.uint32
_FIELD = {"north-america": 520, "south-america": 560, "oceania": 560, "europe": 270, "asia": 150, "africa": 130}


@dataclass(frozen=True)
class Landscape:
    """One country-side: where its centre lies and how its land is cut."""

    salt: int
    x: float
    y: float
    bearing: float
    field_size: float
    hedged: bool
    mixture: int


@dataclass
class Settled:
    """`cover` 0 where nature stays; ids are uint32, 0 where there is none; `edge` in metres."""

    cover: Plane
    farm: Plane
    parcel: Plane
    edge: Plane
    mixture: Plane
    urban: Plane
    lcz: Plane
    roof: Plane
    building: Plane


def permanent(parcel: Plane) -> Plane:
    """Parcels that are pasture every year."""
    return (parcel >> u32(3)) % u32(7) == 0


def hash_pairs(seed: int, iy: Plane, ix: Plane) -> Plane:
    """uint32 hashes of integer pairs, element by element."""
    h = mix((ix * 0x9E3779B1 + seed).astype(np.int64).astype(np.uint32))
    return mix(h + (iy * 0x85EBCA77).astype(np.int64).astype(np.uint32))


def _one(seed: int, iy: int, ix: int) -> int:
    return int(hash_grid(seed, np.array([iy]), np.array([ix]))[0, 0])


@lru_cache(maxsize=8192)
def _landscape(seed: int, iy: int, ix: int, cell: float) -> Landscape:
    h = _one(sub(seed, "landscape"), iy, ix)
    a, b, c, d, e = (((h * k) >> 7 & 0xFFFF) / 65536 for k in (1, 0x9E37, 0x79B1, 0x85EB, 0xCA6B))
    x, y = (ix + 0.15 + 0.7 * a) * cell, (iy + 0.15 + 0.7 * b) * cell
    lon, lat = (float(v) for v in globe.lonlat_of(np.array(x), np.array(y)))
    coast, inland, height, rain, heat, swing, _ = (float(v) for v in globe.climate(np.array(x), np.array(y)))
    del coast, inland, swing
    heat -= 0.0056 * 0.75 * height
    wet = rain / (58 * max(heat + 5.5, 2.5))
    kind = "tropical" if heat > 22 and wet > 0.6 else "warm" if heat > 14.5 else "temperate" if heat > 5.5 else "cold"
    if wet < 0.4 and kind != "cold":
        kind = "dry"
    size = _FIELD.get(globe.continent_of(lon, lat), 250) * (0.65 + 0.8 * c)
    return Landscape(h, x, y, math.pi * d, size, e > 0.5, list(MIXES).index(kind))


def centres(frame: Frame, cell: float, reach: int = 1) -> list[tuple[int, int]]:
    """Cells (iy, ix) of a square lattice that can matter to a frame: those it touches, and their neighbours."""
    x0, x1 = frame.col * frame.gsd, (frame.col + frame.width) * frame.gsd
    y0, y1 = -(frame.row + frame.height) * frame.gsd, -frame.row * frame.gsd
    rows = range(math.floor(y0 / cell) - reach, math.floor(y1 / cell) + reach + 1)
    cols = range(math.floor(x0 / cell) - reach, math.floor(x1 / cell) + reach + 1)
    return [(iy, ix) for iy in rows for ix in cols]


def gap(frame: Frame, x: float, y: float) -> tuple[float, float]:
    """Nearest and farthest distance in metres from a place to a frame's pixels."""
    g = frame.gsd
    dx = (frame.col * g - x, (frame.col + frame.width) * g - x)
    dy = (-(frame.row + frame.height) * g - y, -frame.row * g - y)
    near = math.hypot(max(dx[0], -dx[1], 0.0), max(dy[0], -dy[1], 0.0))
    return near, math.hypot(max(abs(dx[0]), abs(dx[1])), max(abs(dy[0]), abs(dy[1])))


def _landscapes(frame: Frame, seed: int, warp: Plane) -> tuple[list[Landscape], Plane]:
    """The landscapes that meet the frame and, per pixel, which one is nearest (after warping)."""
    cell, slack = 13_000.0, 6_000.0
    found = [_landscape(seed, iy, ix, cell) for iy, ix in centres(frame, cell, 2)]
    reach = min(gap(frame, s.x, s.y)[1] for s in found) + slack
    found = [s for s in found if gap(frame, s.x, s.y)[0] <= reach]
    which = np.zeros(frame.shape, np.intp)
    if len(found) == 1:
        return found, which
    best = np.full(frame.shape, np.inf, f32)
    ragged = fields(frame, (sub(seed, "ragged-x"), sub(seed, "ragged-y")), 1_100.0) * f32(170) + warp
    for i, s in enumerate(found):
        d = ((frame.x() - s.x).astype(f32)[None, :] + ragged[0]) ** 2
        d += ((frame.y() - s.y).astype(f32)[:, None] + ragged[1]) ** 2
        closer = d < best
        np.copyto(best, d, where=closer)
        np.copyto(which, i, where=closer)
    return found, which


def split(u: Plane, v: Plane, size: tuple[Plane, Plane], depth: int, salt: Plane) -> tuple[Plane, Plane, Plane]:
    """Parcel hash, distance to the parcel's edge, distance to the block's edge; all element-wise."""
    iu, iv = np.floor(u / size[0]), np.floor(v / size[1])
    h = hash_pairs(0x51ED27, iv.astype(np.int64), iu.astype(np.int64)) ^ salt
    pu, pv = u - iu * size[0], v - iv * size[1]
    hi_u, hi_v = size[0] + np.zeros_like(pu), size[1] + np.zeros_like(pv)
    lo_u, lo_v = np.zeros_like(pu), np.zeros_like(pv)
    block = np.minimum(np.minimum(pu, hi_u - pu), np.minimum(pv, hi_v - pv))
    for level in range(depth):
        h = rehash(h, 0x1F3D5B + level)
        ratio = f32(0.3) + f32(0.4) * unit(h)
        across = (hi_u - lo_u) > (hi_v - lo_v)
        keep = (h & u32(7)) == 0
        cut = np.where(across, lo_u + ratio * (hi_u - lo_u), lo_v + ratio * (hi_v - lo_v))
        after = np.where(across, pu, pv) > cut
        move = ~keep
        np.copyto(lo_u, cut, where=move & across & after)
        np.copyto(hi_u, cut, where=move & across & ~after)
        np.copyto(lo_v, cut, where=move & ~across & after)
        np.copyto(hi_v, cut, where=move & ~across & ~after)
        h = h + (after & move).astype(u32) * u32(0x632BE5AB)
    edge = np.minimum(np.minimum(pu - lo_u, hi_u - pu), np.minimum(pv - lo_v, hi_v - pv))
    return rehash(h, 0x2545F491) | u32(1), edge, block


def _turn(frame: Frame, x: float, y: float, bearing: float, warp: Plane) -> tuple[Plane, Plane]:
    dx = (frame.x() - x).astype(f32)[None, :] + warp[0]
    dy = (frame.y() - y).astype(f32)[:, None] + warp[1]
    c, s = f32(math.cos(bearing)), f32(math.sin(bearing))
    return dx * c + dy * s, dy * c - dx * s


@dataclass(frozen=True)
class Town:
    """A town: its place, its reach in metres, and how dense its heart is."""

    x: float
    y: float
    reach: float
    dense: float


@lru_cache(maxsize=16384)
def town_of(seed: int, iy: int, ix: int, cell: float, name: str) -> Town | None:
    """The town of a cell, if there is one: where the land is farmed and warm enough they are common."""
    h = _one(sub(seed, name), iy, ix)
    a, b, c, d = (((h * k) >> 5 & 0xFFFF) / 65536 for k in (1, 0x9E37, 0x79B1, 0xCA6B))
    x, y = (ix + 0.1 + 0.8 * a) * cell, (iy + 0.1 + 0.8 * b) * cell
    coast, _, height, rain, heat, _, people = (float(v) for v in globe.climate(np.array(x), np.array(y)))
    heat -= 0.004 * height
    wet = rain / (58 * max(heat + 5.5, 2.5))
    share = 0.62 if 3 < heat < 29 and wet > 0.35 else 0.2 if heat > -4 and wet > 0.12 else 0.02
    share = min(0.9, share * min(2.0, max(0.15, 1.0 + 0.6 * people)))
    if coast < 0.4 or c > share:
        return None
    big = cell * (0.06 + 0.24 * d**3) if name == "city" else cell * (0.045 + 0.07 * d)
    return Town(x, y, big, 0.55 + 0.5 * d if name == "city" else 0.42 + 0.12 * d)


def urban_field(frame: Frame, seed: int) -> Plane:
    """How urban a place is, 0 in the country to about 1 in the heart of a large town."""
    field = np.zeros(frame.shape, f32)
    rough: Plane | None = None
    for name, cell in (("city", 22_000.0), ("village", 3_600.0)):
        for iy, ix in centres(frame, cell):
            town = town_of(seed, iy, ix, cell, name)
            if town is None or gap(frame, town.x, town.y)[0] > 1.7 * town.reach:
                continue
            if rough is None:
                rough = fbm(frame, sub(seed, "suburb"), ((2_400.0, 0.15), (700.0, 0.1), (180.0, 0.09), (60.0, 0.05)))
            d = np.sqrt((frame.x() - town.x).astype(f32)[None, :] ** 2 + (frame.y() - town.y).astype(f32)[:, None] ** 2)
            near = f32(1.15) - d * f32(1 / town.reach) + rough
            near = np.where(d < f32(1.7 * town.reach), np.clip(near, 0, 1), f32(0))
            np.maximum(field, near * f32(town.dense), out=field)
    return field


def settle(frame: Frame, seed: int, g: dict[str, Plane], farm: Plane) -> Settled:
    """Landscapes, then towns over them. Parts that a frame does not hold are not computed."""
    zero = np.zeros(frame.shape, f32)
    none = np.zeros(frame.shape, u32)
    out = Settled(np.zeros(frame.shape, np.uint8), farm, none, zero + f32(1e6), np.zeros(frame.shape, np.uint8), zero,
                  np.zeros(frame.shape, np.uint8), zero, none)  # fmt: skip
    urban = urban_field(frame, seed) * (g["steep"] < f32(0.35))
    town = urban > f32(0.12)
    if not farm.any() and not town.any():
        return out
    warp = fields(frame, (sub(seed, "warp-x"), sub(seed, "warp-y")), 5_200.0) * f32(420)
    warp += fields(frame, (sub(seed, "warp-x2"), sub(seed, "warp-y2")), 1_300.0) * f32(26)
    lands, which = _landscapes(frame, seed, warp)
    u, v, size = _coordinates(frame, lands, which, warp)
    salt = np.array([s.salt for s in lands], u32)[which]
    out.mixture = np.array([s.mixture for s in lands], np.uint8)[which]
    parcel, edge, block = split(u, v, (size * f32(2.6), size * f32(1.9)), 4, salt)
    hedged = np.array([s.hedged for s in lands])[which]
    _farmland(out, farm & ~town, (parcel, edge, block), hedged, frame)
    if town.any():
        _town_plan(out, frame, seed, urban, (u, v, salt))
    out.urban = urban
    return out


def _coordinates(frame: Frame, lands: list[Landscape], which: Plane, warp: Plane) -> tuple[Plane, Plane, Plane]:
    size = np.array([s.field_size for s in lands], f32)[which]
    u, v = _turn(frame, lands[0].x, lands[0].y, lands[0].bearing, warp)
    for i, s in enumerate(lands[1:], 1):
        here = which == i
        if here.any():
            a, b = _turn(frame, s.x, s.y, s.bearing, warp)
            np.copyto(u, a, where=here)
            np.copyto(v, b, where=here)
    return u, v, size


def _farmland(out: Settled, farm: Plane, parts: tuple[Plane, Plane, Plane], hedged: Plane, frame: Frame) -> None:
    parcel, edge, block = parts
    woodlot = farm & ((parcel >> u32(9)) % u32(16) == 0)
    track = farm & (block < f32(max(3.2, 0.32 * frame.gsd)))
    margin = farm & ~track & (edge < np.where(hedged, f32(3.5), f32(1.4)))
    out.farm = farm & ~woodlot & ~track & ~margin
    out.parcel = np.where(out.farm, parcel, u32(0))
    out.edge = np.where(farm & ~woodlot, edge, f32(1e6))
    np.copyto(out.cover, np.uint8(ID["road"]), where=track)
    np.copyto(out.cover, np.uint8(ID["hedge"]), where=margin & hedged)
    np.copyto(out.cover, np.uint8(ID["grassland"]), where=margin & ~hedged)


def _town_plan(out: Settled, frame: Frame, seed: int, urban: Plane, where: tuple[Plane, Plane, Plane]) -> None:
    """Streets, lots and roofs; local climate zones from density, with industry in patches."""
    u, v, salt = where
    town = urban > f32(0.12)
    works = (smooth(frame, sub(seed, "industry"), 1_500.0) > f32(1.45)) & (urban > f32(0.2))
    dense = urban > f32(0.62)
    lot, edge, block = split(u, v, (np.full_like(u, 190.0), np.full_like(u, 120.0)), 3, salt ^ u32(0xA5A5))
    hall, wide, _ = split(u, v, (np.full_like(u, 420.0), np.full_like(u, 330.0)), 1, salt ^ u32(0x5A5A))
    edge = np.where(works, wide, edge)
    street = np.where(works, wide < f32(7), block < np.where(dense, f32(6.5), f32(4.5)))
    r = unit(rehash(lot, 77))
    setback = np.where(works, f32(20) + f32(20) * r, np.where(dense, f32(1.5) + 5 * r, f32(6) + f32(9) * r))
    filled = unit(rehash(lot, 78)) < np.clip(f32(0.25) + f32(1.35) * urban, 0, f32(0.95))
    roof = town & ~street & filled & (edge > setback)
    kind = unit(rehash(lot, 79))
    storeys = np.where(works, 2.2, np.where(dense, 4 + 22 * np.clip(urban - 0.62, 0, 1) * (0.4 + 1.6 * r), 1 + 2 * r))
    np.copyto(out.cover, np.uint8(ID["lawn"]), where=town)
    green = unit(rehash(lot, 80))
    np.copyto(
        out.cover, np.uint8(ID["street trees"]), where=town & ~street & (green < f32(0.34)) & (edge < setback + 3)
    )
    np.copyto(out.cover, np.uint8(ID["pavement"]), where=town & (works | (dense & (green > f32(0.45)))))
    np.copyto(out.cover, np.uint8(ID["road"]), where=town & street)
    np.copyto(out.cover, np.uint8(ID["tile roof"]), where=roof & ~dense & ~works & (kind < f32(0.72)))
    np.copyto(out.cover, np.uint8(ID["grey roof"]), where=roof & (dense | works | (kind >= f32(0.72))))
    np.copyto(out.cover, np.uint8(ID["metal roof"]), where=roof & works & (kind < f32(0.4)))
    out.roof = np.where(roof, (storeys * 3.1).astype(f32), f32(0))
    out.building = np.where(roof, np.where(works, hall, lot), u32(0))
    zone = np.where(
        urban > f32(0.8), 1, np.where(dense, 2, np.where(urban > f32(0.42), 3, np.where(urban > f32(0.24), 6, 9)))
    )
    out.lcz = np.where(town, np.where(works, 8, zone), 0).astype(np.uint8)
