"""The ground that does not change within a year: relief, water, natural cover, farmland, settlements.

Relief is a sum of folded fields h = sum a_i |n_i|: valleys follow the zero lines of n_i, rivers run in them.
Landscapes are warped Voronoi cells, each with its own field size, bearing and crop mix; parcels and building lots
are hashed binary splits of blocks. Everything is a function of (seed, place).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from swath.world import globe, settle, things
from swath.world.catalog import FOREST, ID, column
from swath.world.noise import Frame, Plane, fbm, fields, from_nodes, smooth, sub, unit

CLIMATE_STEP = 10_240.0
f32 = np.float32


@dataclass
class Ground:
    """Planes (H, W) over `frame`; `cover` is the cover when nothing happens, `farm` marks fields,
    `turn` (H, 1) is the lag of the seasons in days."""

    frame: Frame
    seed: int
    lonlat: tuple[float, float]
    turn: Plane
    elevation: Plane
    slope_x: Plane
    slope_y: Plane
    heat: Plane
    swing: Plane
    rain: Plane
    wet: Plane
    river: Plane
    cover: Plane
    farm: Plane
    parcel: Plane
    edge: Plane
    mixture: Plane
    urban: Plane
    lcz: Plane
    roof: Plane
    building: Plane
    stand: Plane
    clutter: Plane
    soil: Plane
    texture: Plane
    things: list[tuple[float, float, float, int]]
    kept: dict[Any, Any] = field(default_factory=dict[Any, Any], repr=False)


def _relief(frame: Frame, seed: int, height: Plane, inland: Plane, shore: Plane) -> tuple[Plane, Plane, Plane]:
    """Elevation in metres, and the signed river fields of the two largest valleys."""
    n60, n24a, n24b = fields(frame, (sub(seed, "h60"), sub(seed, "h24"), sub(seed, "h24b")), 60_000.0 / 2.5)
    n8 = smooth(frame, sub(seed, "h8"), 8_000.0)
    swell = smooth(frame, sub(seed, "swell"), 90_000.0)
    rugged = np.maximum(f32(9) + f32(0.42) * height + f32(34) * (swell + f32(0.6)), f32(5))
    rugged *= np.clip(shore * f32(6), f32(0.05), f32(1))
    h = np.abs(n24a) * f32(1.0) + np.abs(n8) * f32(0.42) + f32(0.25) * n24b + f32(0.35)
    for wavelength, amplitude in ((2700.0, 0.16), (900.0, 0.062), (300.0, 0.02)):
        h += np.abs(smooth(frame, sub(seed, f"h{wavelength}"), wavelength)) * f32(amplitude)
    if frame.gsd <= 15:
        h += smooth(frame, sub(seed, "h110"), 110.0) * f32(0.004)
    base = height * (f32(0.75) + f32(0.12) * n60) + (f32(40) + f32(220) * inland * np.clip(swell + 1, 0, 2))
    rise = np.clip(shore * f32(5), 0, 1)
    return base * rise * rise * (f32(3) - f32(2) * rise) + h * rugged + f32(2), n24a, n8


def _water(frame: Frame, seed: int, valleys: tuple[Plane, Plane], wet: Plane) -> tuple[Plane, Plane, Plane]:
    """Distance to the nearest river axis in metres, its half width, and the lake field (> 0 inside)."""
    n24, n8 = valleys
    meander = fbm(frame, sub(seed, "meander"), ((1900.0, 0.011), (620.0, 0.0045)))
    flow = np.clip(wet, 0, f32(1.6))
    d24 = np.abs(n24 + meander) * f32(24_000 * 0.55)
    d8 = np.abs(n8 + f32(2.2) * meander) * f32(8_000 * 0.55)
    w24 = f32(14) + f32(52) * flow
    w8 = f32(9) * flow * (wet > f32(0.45))
    big = d24 - w24 <= d8 - w8
    river = np.where(big, d24, d8)
    width = np.where(big, w24, w8)
    q1, q2 = smooth(frame, sub(seed, "lake"), 6_500.0), smooth(frame, sub(seed, "lake2"), 1_500.0)
    return river, width, q1 + f32(0.32) * q2


def _natural(g: dict[str, Plane], frame: Frame, seed: int) -> Plane:
    """The cover that climate and terrain call for."""
    big, mid, small = (
        smooth(frame, sub(seed, "veg-a"), 3_200.0), smooth(frame, sub(seed, "veg-b"), 800.0),
        fbm(frame, sub(seed, "veg-c"), ((240.0, 1.0), (70.0, 0.8), (22.0, 0.7))),
    )  # fmt: skip
    mosaic = f32(0.55) * big + f32(0.45) * mid + f32(0.35) * small
    wet = g["wet"] * (f32(1) + f32(0.08) * mosaic) + np.clip(f32(90) - g["river"], 0, 90) * f32(0.004)
    heat, warm = g["heat"], g["heat"] + f32(0.55) * g["swing"] + f32(0.5) * mid
    v = wet + f32(0.16) * mosaic
    cover = np.full(frame.shape, ID["grassland"], np.uint8)

    def put(name: str, where: Plane) -> None:
        np.copyto(cover, np.uint8(ID[name]), where=where)

    put("savanna", (heat > 18.5) & (v > f32(0.2)))
    put("shrubland", (v < f32(0.46)) & (v > f32(0.2)) & (small + mid > f32(0.15)))
    put("sparse", v < f32(0.2))
    put("rock", (v < f32(0.16)) & ((g["steep"] > f32(0.10)) | (mosaic > f32(0.5))))
    put("sand", (v < f32(0.105)) & (g["steep"] < f32(0.16)) & (heat > 8) & (big < f32(0.7)))
    woods = v > f32(0.62) + f32(0.1) * (heat > 18.5)
    put("broadleaf", woods)
    put("needleleaf", woods & (heat + f32(1.6) * mosaic + f32(8) * g["steep"] < f32(6.5)))
    put("rainforest", (v > f32(0.86)) & (heat > f32(20.5)))
    put("wetland", (g["steep"] < f32(0.03)) & (v > f32(0.62)) & (g["lake"] > f32(1.02)) & (g["lake"] < f32(3)))
    put("tundra", warm < f32(9.2))
    put("rock", ((warm < 8) & (g["steep"] > f32(0.33))) | ((g["steep"] > f32(0.62)) & (small > 0)))
    put("ice", (warm + f32(9) * (g["steep"] > f32(0.6)) < f32(1.2)))
    return cover


def _farm_score(g: dict[str, Plane], frame: Frame, seed: int) -> Plane:
    """How much the land is farmed: warm enough, wet enough (or by a river), flat, and people near."""
    heat, wet = g["heat"], g["wet"]
    score = np.minimum(np.clip((heat - f32(2.0)) * f32(0.3), -1, 1), np.clip((wet - f32(0.26)) * f32(7), -1, 1))
    score = np.minimum(score, np.clip((f32(1.75) - wet) * f32(3), -1, 1))
    score -= np.clip((g["steep"] - f32(0.07)) * f32(9), 0, 3)
    people = smooth(frame, sub(seed, "people"), 70_000.0)
    local = fbm(frame, sub(seed, "farm"), ((2_600.0, 0.33), (800.0, 0.13), (260.0, 0.06)))
    return score + f32(0.36) * people + f32(0.42) * g["people"] + local - f32(0.16)


def _site(frame: Frame) -> tuple[float, float]:
    """Longitude and latitude of the frame's centre."""
    lon, lat = globe.lonlat_of(np.array((frame.col + frame.width / 2) * frame.gsd),
                               np.array(-(frame.row + frame.height / 2) * frame.gsd))  # fmt: skip
    return float(lon), float(lat)


def _turn_of_year(frame: Frame) -> Plane:
    """Days (H, 1) by which the seasons run after the north's: half a year in the south, between at the equator."""
    _, lat = globe.lonlat_of(np.zeros(frame.height), frame.y())
    return (182.5 * (0.5 - 0.5 * np.tanh(lat / 5.0))).astype(f32)[:, None]


def _climate_planes(frame: Frame, seed: int) -> dict[str, Plane]:
    coast, inland, height, rain, heat, swing, people = from_nodes(frame, CLIMATE_STEP, globe.climate)
    shore = coast - f32(0.5) + fbm(
        frame, sub(seed, "coast"),
        ((190_000.0, 0.09), (60_000.0, 0.045), (19_000.0, 0.02), (6_000.0, 0.008), (1_900.0, 0.003), (600.0, 0.001)),
    )  # fmt: skip
    return {"shore": shore, "inland": inland, "height": height, "rain": np.maximum(rain, f32(10)), "heat": heat,
            "swing": swing, "people": people}  # fmt: skip


def _slopes(h: Plane, gsd: float) -> tuple[Plane, Plane]:
    """Central differences, per metre, of a plane with one pixel of halo: east and north."""
    k = f32(0.5 / gsd)
    return (h[1:-1, 2:] - h[1:-1, :-2]) * k, (h[:-2, 1:-1] - h[2:, 1:-1]) * k


def survey(frame: Frame, seed: int) -> Ground:
    """Everything about the ground under `frame` that its climate, relief and people decide."""
    wide = frame.grow(1)
    c = _climate_planes(wide, seed)
    h, n24, n8 = _relief(wide, seed, c["height"], c["inland"], c["shore"])
    inner = (slice(1, -1), slice(1, -1))
    east, north = _slopes(h, frame.gsd)
    g = {k: v[inner] for k, v in c.items()}
    elevation = h[inner]
    g["heat"] = g["heat"] - f32(0.0056) * np.maximum(elevation, 0)
    g["wet"] = g["rain"] / (f32(58) * np.maximum(g["heat"] + f32(5.5), f32(2.5)))
    g["wet"] = g["wet"] * (f32(1) + f32(0.14) * smooth(frame, sub(seed, "wet"), 45_000.0))
    g["river"], width, g["lake"] = _water(frame, seed, (n24[inner], n8[inner]), g["wet"])
    g["steep"] = np.sqrt(east * east + north * north)
    cover = _natural(g, frame, seed)
    farm = (_farm_score(g, frame, seed) > 0) & (cover != ID["ice"]) & (cover != ID["tundra"])
    place = settle.settle(frame, seed, g, farm)
    np.copyto(cover, place.cover, where=place.cover > 0)
    sea = g["shore"] < 0
    lake = ~sea & (g["lake"] > f32(2.55) - f32(0.75) * np.clip(g["wet"] - f32(0.5), 0, 1)) & (g["steep"] < f32(0.2))
    river = ~sea & ~lake & (g["river"] < width)
    wetness = sea | lake | river
    mangrove = ~wetness & (g["heat"] > 22) & (g["shore"] < f32(0.006)) & (g["wet"] > f32(0.5)) & ~(place.cover > 0)
    np.copyto(cover, np.uint8(ID["mangrove"]), where=mangrove)
    for name, where in (("sea", sea), ("lake", lake), ("river", river)):
        np.copyto(cover, np.uint8(ID[name]), where=where)
    found = things.put(frame, seed, cover, place)
    lonlat = _site(frame)
    dry = ~wetness & (cover != ID["cattle"])
    stand = unit(_stand_hash(frame, seed)) if np.isin(cover, FOREST).any() else np.zeros(frame.shape, f32)
    grain = fbm(frame, sub(seed, "grain"), ((160.0, 0.5), (45.0, 0.55), (9.0, 0.5), (2.2, 0.5)))
    return Ground(
        frame=frame, seed=seed, lonlat=lonlat, turn=_turn_of_year(frame),
        elevation=np.where(sea, f32(0), elevation).astype(f32), slope_x=east * dry, slope_y=north * dry,
        heat=g["heat"], swing=g["swing"], rain=g["rain"], wet=g["wet"], river=g["river"] - width,
        cover=cover, farm=place.farm & dry & ~mangrove & (cover != ID["white pad"]),
        parcel=place.parcel, edge=place.edge, mixture=place.mixture,
        urban=place.urban, lcz=np.where(dry, place.lcz, 0), roof=place.roof * dry, building=place.building * dry,
        stand=stand, clutter=grain,
        soil=np.clip(f32(0.5) + f32(0.32) * smooth(frame, sub(seed, "soil"), 30_000.0)
                     + f32(0.16) * smooth(frame, sub(seed, "soil2"), 1_100.0), 0, 1),
        texture=f32(1) + f32(0.055) * grain, things=found,
    )  # fmt: skip


def _stand_hash(frame: Frame, seed: int) -> Plane:
    """Forest stands: one hash per warped cell of about 400 m."""
    warp = fields(frame, (sub(seed, "stand-x"), sub(seed, "stand-y")), 700.0) * f32(130)
    ix = np.floor((frame.x()[None, :] + warp[0]) / 420.0).astype(np.int64)
    iy = np.floor((frame.y()[:, None] + warp[1]) / 330.0).astype(np.int64)
    return settle.hash_pairs(sub(seed, "stand"), iy, ix)


@lru_cache(maxsize=1)
def stature() -> tuple[Plane, Plane]:
    """Height in metres and biomass in t/ha of a good stand, by cover."""
    return column("height").astype(f32), column("biomass").astype(f32)


def canopy(ground: Ground, cover: Plane) -> tuple[Plane, Plane]:
    """Canopy height in metres and above-ground biomass in t/ha of a day's cover."""
    top, mass = stature()
    forest = np.isin(cover, FOREST)
    site = np.clip(f32(0.55) + f32(0.45) * ground.wet, f32(0.4), f32(1.15)) * (f32(0.5) + f32(0.5) * ground.stand)
    growth = np.where(forest, site * (f32(1) + f32(0.10) * ground.clutter), f32(1) + f32(0.2) * ground.clutter)
    height = top[cover] * np.clip(growth, f32(0.05), f32(1.6))
    return height, mass[cover] * np.clip(growth, f32(0.05), f32(1.6)) ** f32(1.5)
