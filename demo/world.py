"""Chapter one: the simulated Earth. Where it is sampled, a place through the year, its labels, every sensor's view."""

from __future__ import annotations

import time

import numpy as np

from demo import pictures as pic
from swath.core import SENSORS
from swath.report import page as p
from swath.world import LABELS, World, day_of
from swath.world.globe import atlas

SEED = 7
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
VIEWS = (
    ("sentinel2-l2a", 128, 10.0), ("sentinel2-l1c", 128, 10.0), ("landsat8-sr", 128, 10.0), ("hls-l30", 128, 10.0),
    ("modis", 256, 10.0), ("planet-superdove", 128, 10.0), ("naip", 128, 10.0), ("rgb-aerial", 32, 10.0),
    ("worldview", 32, 10.0), ("enmap", 128, 10.0), ("sentinel1-grd", 128, 10.0), ("sentinel1-rtc", 128, 10.0),
    ("copdem", 128, 10.0), ("worldcover", 128, 10.0),
)  # fmt: skip


def globe(sites):
    """The planet's climate as a map with the sampled sites on it."""
    a = atlas()
    land = a["continent"] >= 0
    warm = np.clip((a["heat"] - a["height"] * 0.006 + 15) / 45, 0, 1)
    wet = np.clip(a["rain"] / 1800, 0, 1)
    dry = pic.ramp(warm, ["#e8eef2", "#b9b48f", "#d9c48f", "#dcb878"])
    lush = pic.ramp(warm, ["#dfe7ea", "#6d8f62", "#5a8f4a", "#2f7a3c"])
    rgb = dry * (1 - wet[..., None]) + lush * wet[..., None]
    rgb = np.where(land[..., None], rgb, np.array([0.16, 0.28, 0.42]))
    rgb = np.repeat(np.repeat(rgb, 2, 0), 2, 1)
    for s in sites:
        r, c = int((90 - s.lat) * 4), int((s.lon + 180) * 4)
        rgb[max(r - 3, 0) : r + 4, max(c - 3, 0) : c + 4] = (1.0, 1.0, 1.0)
        rgb[max(r - 2, 0) : r + 3, max(c - 2, 0) : c + 3] = (0.85, 0.15, 0.1)
    return rgb[40:-120]


def view(world, site, sensor, size, day):
    """One sensor's picture of one place and day, and what it is."""
    s = SENSORS.get(sensor)
    layer = world.batch([site], size, [sensor], [day]).layers[sensor]
    if s.kind == "sar":
        rgb = pic.radar(layer)
    elif s.kind == "elevation":
        rgb = pic.grey(layer.x[0, 0, 0].numpy())
    elif s.kind == "classes":
        codes = layer.x[0, 0, 0].numpy().astype(int)
        names = [c for c, _ in s.classes] or sorted(set(codes.ravel().tolist()))
        rgb = pic.ramp(np.searchsorted(names, codes) / max(len(names) - 1, 1),
                       ["#1b4d2b", "#d9c45a", "#b0603a", "#8fb7d9", "#e8e8e8"])  # fmt: skip
    elif sensor == "enmap":
        wanted = [int(np.argmin([abs((b.nm or 0) - nm) for b in s.bands])) for nm in (2200, 860, 660)]
        rgb = np.clip(layer.x[0, 0, wanted].numpy().transpose(1, 2, 0) * 2.6, 0, 1)
    else:
        unit = 1 / 255 if s.bands[0].unit == "display" else 3.4
        rgb = pic.true_colour(layer, bright=unit)
    scale = 256 / max(rgb.shape[:2])
    words = f"{s.id}: {len(s.bands)} bands, {s.gsd:g} m"
    return p.figure(p.image(pic.picture_of(rgb, max(scale, 1)), words), words)


def chapter(page: p.Page) -> None:
    """Add the chapter to the page."""
    began = time.monotonic()
    world = World(SEED, clouds=0.6)
    clear = World(SEED, clouds=0.0)
    sites = world.sites(60, seed=1)
    page.section("The simulated Earth")
    page.add(p.text(
        "Everything on this page happens on a planet that ships with Swath: terrain, climate, fields with crop calendars, "
        "cities, fires and floods, seen by every sensor from one and the same state. A place and a day are a pure function "
        "of the seed, so two machines see the same pixel."
    ))  # fmt: skip
    page.add(
        p.figure(p.image(pic.picture_of(globe(sites)), "map of sampled sites"), "Sixty sites drawn by area on land.")
    )
    kinds = ("cropland", "forest", "city", "coast", "water", "bare", "grass", "fire")
    cells = []
    for i, near in enumerate(kinds):
        s = clear.sites(1, seed=20 + i, near=near)[0]
        layer = clear.batch([s], 128, ["sentinel2-l2a"], [s.day or day_of(2021, 7, 10)]).layers["sentinel2-l2a"]
        words = f"near {near}: {s.lat:.1f}°, {s.lon:.1f}°"
        cells.append(p.figure(p.image(pic.picture_of(pic.true_colour(layer), 2), words), words))
    page.add("<h3>Eight places</h3>", p.gallery(cells, 220))
    _year(page, world)
    _labels(page, clear)
    _sensors(page, clear)
    page.add(p.text(f"This chapter was computed in {time.monotonic() - began:.1f} s.", "note"))


def _year(page: p.Page, world: World) -> None:
    site = world.sites(1, seed=5, near="cropland", region="europe")[0]
    days = [day_of(2021, m, 15) for m in range(1, 13)]
    batch = world.batch([site], 96, ["sentinel2-l2a", "sentinel1-rtc"], days)
    s2, s1 = batch.layers["sentinel2-l2a"], batch.layers["sentinel1-rtc"]
    rows = (
        ("true colour", [pic.true_colour(s2, t) for t in range(12)]),
        ("NDVI, cloud grey", [pic.ndvi(s2, t) for t in range(12)]),
        ("radar VV, VH, ratio", [pic.radar(s1, t) for t in range(12)]),
    )
    words = f"{site.lat:.2f}°, {site.lon:.2f}°, from January to December 2021 (96 x 96 pixels of 10 m)"
    parts = [f"<h3>A place through the year</h3>{p.text(words, 'note')}"]
    for name, pictures in rows:
        strip = np.ones((96 * 2 + 4, 96 * 6 + 20, 3))
        for t, rgb in enumerate(pictures):
            r, c = (t // 6) * 100, (t % 6) * 100
            strip[r : r + 96, c : c + 96] = rgb
        parts.append(p.figure(p.image(pic.picture_of(strip, 1.5), name), name))
    page.add(*parts)


def _labels(page: p.Page, world: World) -> None:
    site = world.sites(1, seed=5, near="cropland", region="europe")[0]
    names = [n for n, s in LABELS.items() if s.kind == "mask"]
    maps = [n for n, s in LABELS.items() if s.kind == "map"]
    days = [day_of(2021, 3, 15), day_of(2021, 7, 15)]
    batch = world.batch([site], 160, ["sentinel2-l2a"], days, [*names, *maps, "fields", "buildings"])
    picture = pic.true_colour(batch.layers["sentinel2-l2a"], 1)
    cells = [p.figure(p.image(pic.picture_of(picture, 1.5), "true colour"), "true colour, 15 July")]
    for name in names:
        label = batch.labels[name]
        if label.value[label.valid].unique().numel() > 1:
            rgb = pic.classes(label.value[0], LABELS[name], label.valid[0])
            cells.append(p.figure(p.image(pic.picture_of(rgb, 1.5), name), name.replace("_", " ")))
    for name in maps:
        value = batch.labels[name].value[0, 0].numpy()
        if np.ptp(np.percentile(value, [10, 90])) > 0:
            cells.append(
                p.figure(
                    p.image(pic.picture_of(pic.grey(value), 1.5), name),
                    f"{name.replace('_', ' ')} ({LABELS[name].unit})",
                )
            )
    for name in ("fields", "buildings"):
        boxes = batch.labels[name].objects[0].xyxy
        if len(boxes):
            rgb = pic.outlined(picture, boxes)
            cells.append(p.figure(p.image(pic.picture_of(rgb, 1.5), name), f"{len(boxes)} {name}"))
    page.add(
        "<h3>Its labels</h3>", p.gallery(cells, 200), pic.legend(LABELS["land_cover"]), pic.legend(LABELS["crop_type"])
    )


def _sensors(page: p.Page, world: World) -> None:
    site = world.sites(1, seed=9, near="city", region="europe")[0]
    day = day_of(2021, 7, 10)
    cells = [view(world, site, sensor, size, day) for sensor, size, _ in VIEWS]
    page.add("<h3>The same minute, every sensor</h3>", p.gallery(cells, 220))
