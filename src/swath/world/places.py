"""Places worth looking at: sites drawn by area on land, or where something is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from swath.core import UnknownName, UserError, numpy_generator
from swath.world import globe
from swath.world.catalog import ID
from swath.world.ground import Ground, survey
from swath.world.moment import FLOOD_CELL, day_of, fire_of, flood_stage, look
from swath.world.noise import Frame
from swath.world.settle import town_of

NEAR = ("land", "any", "cropland", "forest", "city", "water", "coast", "bare", "grass", "fire", "flood", "industry",
        "turbines")  # fmt: skip
_YEARS = range(2017, 2025)


@dataclass(frozen=True)
class Site:
    """A place in degrees; `day` is when something happened there (a fire, a flood), days since 1970-01-01."""

    lon: float
    lat: float
    day: int | None = None


def _draws(seed: int, stream: int, region: tuple[str | None, str | None, float]) -> Iterator[tuple[float, float]]:
    """Places by area without end, on the continents asked for."""
    rng = numpy_generator(seed, stream, "sites")
    inside, outside, share = region
    top = globe.xy_of(0.0, 72.0)[1]
    low = globe.xy_of(0.0, -60.0)[1]
    edge = globe.xy_of(179.9, 0.0)[0]
    away = rng.random() < share
    while True:
        x, y = rng.uniform(-edge, edge), rng.uniform(low, top)
        lon, lat = (float(v) for v in globe.lonlat_of(np.array(x), np.array(y)))
        if float(globe.climate(np.array(x), np.array(y))[0]) < 0.35:
            continue
        if inside is not None:
            here = globe.continent_of(lon, lat)
            if (here == outside) if away else (here != inside):
                continue
        yield lon, lat
        away = rng.random() < share


def _towards(lon: float, lat: float, near: str, seed: int) -> tuple[float, float] | None:
    """A better guess close by: the town of the cell, a shore."""
    x, y = globe.xy_of(lon, lat)
    if near == "coast":
        coast = float(globe.climate(np.array(x), np.array(y))[0])
        return (lon, lat) if coast < 0.62 else None
    if near not in ("city", "industry"):
        return lon, lat
    town = town_of(seed, int(y // 22_000), int(x // 22_000), 22_000.0, "city")
    if town is None or town.dense < 0.7:
        return None
    out = globe.lonlat_of(
        np.array(town.x + (x % 997 / 997 - 0.5) * town.reach), np.array(town.y + (y % 991 / 991 - 0.5) * town.reach)
    )
    return float(out[0]), float(out[1])


def _peek(lon: float, lat: float, seed: int, gsd: float = 40.0, size: int = 32) -> Ground:
    x, y = globe.xy_of(lon, lat)
    return survey(Frame(gsd, round(-y / gsd) - size // 2, round(x / gsd) - size // 2, size, size), seed)


def _fits(ground: Ground, near: str) -> bool:
    cover = ground.cover
    share = {
        "land": lambda: float((cover > ID["ice"]).mean()) - 0.3,
        "cropland": lambda: float(ground.farm.mean()) - 0.35,
        "forest": lambda: float(np.isin(cover, (ID["needleleaf"], ID["broadleaf"], ID["rainforest"])).mean()) - 0.5,
        "city": lambda: float((ground.lcz > 0).mean()) - 0.35,
        "industry": lambda: float((ground.lcz == 8).mean()) - 0.08,
        "water": lambda: float(((cover == ID["lake"]) | (cover == ID["river"])).mean()) - 0.06,
        "coast": lambda: 0.2 - abs(float((cover == ID["sea"]).mean()) - 0.4),
        "bare": lambda: float(np.isin(cover, (ID["sand"], ID["rock"], ID["sparse"])).mean()) - 0.6,
        "grass": lambda: float(np.isin(cover, (ID["grassland"], ID["savanna"], ID["tundra"])).mean()) - 0.5,
    }[near]
    return share() > 0


def _fire(lon: float, lat: float, seed: int) -> Site | None:
    """The nearest cell's fire of the years 2017 to 2024, if it burned something."""
    x, y = globe.xy_of(lon, lat)
    for year in _YEARS:
        fire = fire_of(seed, int(y // 9000), int(x // 9000), year)
        if fire is None:
            continue
        where = globe.lonlat_of(np.array(fire.x), np.array(fire.y))
        place = Site(float(where[0]), float(where[1]), fire.day)
        burned = look(_peek(place.lon, place.lat, seed), fire.day + 5).severity
        if float((burned > 0.2).mean()) > 0.12:
            return place
    return None


def _flood(lon: float, lat: float, seed: int) -> Site | None:
    x, y = globe.xy_of(lon, lat)
    ground = _peek(lon, lat, seed)
    if float((ground.river < 150).mean()) < 0.15:
        return None
    for year in _YEARS:
        day, reach = flood_stage(seed, int(y // FLOOD_CELL), int(x // FLOOD_CELL), year)
        if reach and float((look(ground, day + 2).flood > 0.5).mean()) > 0.06:
            return Site(lon, lat, day)
    return None


def _turbines(lon: float, lat: float, seed: int) -> Site | None:
    ground = _peek(lon, lat, seed, 10.0, 128)
    return Site(lon, lat) if sum(1 for t in ground.things if t[3] == 0) >= 2 else None


def find_sites(world: int, n: int, seed: int, near: str, region: tuple[str | None, str | None, float]) -> list[Site]:
    """`n` sites; the same for the same arguments."""
    if near not in NEAR:
        raise UnknownName("kind of place", near, NEAR, where="world sites")
    if region[0] is not None and region[0] not in globe.CONTINENTS:
        raise UnknownName("region", region[0], globe.CONTINENTS, where="world sites")
    found: list[Site] = []
    for tries, (lon, lat) in enumerate(_draws(world, seed, region)):
        if len(found) == n:
            return found
        if tries > 4000 + 2000 * n:
            raise UserError(f"only {len(found)} of {n} places near '{near}' were found", where="world sites")
        special = {"fire": _fire, "flood": _flood, "turbines": _turbines}.get(near)
        if special is not None:
            place = special(lon, lat, world)
            if place is not None:
                found.append(place)
            continue
        better = _towards(lon, lat, near, world)
        if better is not None and (near == "any" or _fits(_peek(*better, world), near)):
            found.append(Site(*better))
    return found


__all__ = ["NEAR", "Site", "day_of", "find_sites"]
