"""Contact sheets: one place through the year, its labels, and every sensor's view of the same minute."""

from __future__ import annotations

from pathlib import Path

from swath.world import picture
from swath.world.files import date_of
from swath.world.labels import LABELS
from swath.world.moment import day_of
from swath.world.noise import Plane
from swath.world.places import Site
from swath.world.planet import World

Row = list[tuple[str, Plane]]
MONTHS = (1, 3, 4, 5, 6, 7, 9, 11)


def year(world: World, site: Site, size: int = 128, of: int = 2023) -> list[Row]:
    """True colour, greenness and radar through a year."""
    days = [day_of(of, m, 12) for m in MONTHS]
    batch = world.batch([site], size, ["sentinel2-l2a", "sentinel1-rtc"], days)
    s2, s1 = batch.layers["sentinel2-l2a"], batch.layers["sentinel1-rtc"]
    ticks = list(enumerate(date_of(d) for d in days))
    return [
        [(f"S2 {d}", picture.true_colour(s2, t)) for t, d in ticks],
        [(f"NDVI {d}", picture.ndvi(s2, t)) for t, d in ticks],
        [(f"S1 {d}", picture.radar(s1, t)) for t, d in ticks],
    ]


def sensors(world: World, site: Site, day: int, size: int = 120) -> Row:
    """Every sensor's view of the same minute, each at its own pixel size; the sub-metre ones see the middle."""
    names = ["sentinel2-l2a", "sentinel2-l1c", "sentinel1-grd", "sentinel1-rtc", "landsat8-sr", "hls-s30", "enmap",
             "planet-superdove", "modis", "copdem"]  # fmt: skip
    batch = world.batch([site], size, names, [day])
    row: Row = [(n, picture.any_layer(batch.layers[n])) for n in names]
    for name, gsd in (("naip", 1.0), ("gaofen2", 0.8), ("rgb-aerial", 0.25)):
        near = world.batch([site], 256, [name], [day], gsd=gsd)
        row.append((f"{name} {gsd:g} m", picture.any_layer(near.layers[name])))
    return row


def tasks(world: World, site: Site, days: list[int], names: list[str], size: int = 128) -> Row:
    """Labels of a place over its last picture."""
    batch = world.batch([site], size, ["sentinel2-l2a"], days, names)
    base = picture.true_colour(batch.layers["sentinel2-l2a"], len(days) - 1)
    return [("S2", base), *((n, picture.label(batch.labels[n], LABELS[n], base)) for n in names)]


def contact_sheet(world: World, site: Site, path: Path, size: int = 128) -> Path:
    """The whole sheet as a PNG."""
    from PIL import Image

    day = site.day if site.day is not None else day_of(2023, 7, 12)
    names = ["land_cover", "crop_type", "field_boundary", "fields", "local_climate_zone", "canopy_height", "cloud"]
    views = sensors(world, site, day, 120)
    rows = [*year(world, site, size), tasks(world, site, [day - 120, day], names, size), views[:8], views[8:]]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.png")
    Image.fromarray(picture.sheet(rows, 160)).save(part, optimize=True)
    part.replace(path)
    return path
