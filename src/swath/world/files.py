"""The world as true files: GeoTIFFs with scale, offset and nodata, labels, and STAC items, without any time stamp.

    DIR/world.json                          what was rendered, and how many objects clouds hide on every date
    DIR/card.toml                           what `swath init` reads: layers, bands, labels, classes, units
    DIR/images/{key}_{date}_{sensor}.tif    stored values of the product (COG for scenes)
    DIR/clouds/{key}_{date}.tif             0 clear, 1 cloud, 2 thin cloud, 3 shadow; the card names them for products
                                            that have a mask of their own
    DIR/labels/{label}/{key}.tif or .json   rasters, or values and boxes
    DIR/labels/{label}.csv or .json         the values of all chips as a table, the boxes as COCO
    DIR/items/{key}_{date}_{sensor}.json    STAC item

Every file is a function of its settings alone and is moved into place when it is whole, so any number of workers
writes the same bytes.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
import torch
from rasterio.transform import Affine
from rasterio.windows import Window as RasterWindow

from swath.core import SENSORS, Batch, Boxes, Grid, Label, LabelSpec, Sensor, UserError, Window
from swath.world import card, globe
from swath.world.labels import LABELS
from swath.world.moment import EPOCH
from swath.world.noise import Plane
from swath.world.places import Site
from swath.world.planet import World, WorldScene

BLOCK = 512
CACHE_MB = 64


@dataclass(frozen=True)
class Render:
    """Settings of a rendered data set; `days` are dates as YYYY-MM-DD."""

    out: str
    seed: int
    sensors: tuple[str, ...]
    days: tuple[str, ...] = ("2023-04-10", "2023-06-05", "2023-07-25", "2023-09-20")
    labels: tuple[str, ...] = ("land_cover",)
    chips: int = 16
    size: int = 128
    gsd: float = 10.0
    near: str = "land"
    clouds: float = 1.0


def days_of(dates: Sequence[str]) -> list[int]:
    """Dates as days since the epoch."""
    found: list[int] = []
    for text in dates:
        try:
            found.append((dt.date.fromisoformat(text) - EPOCH).days)
        except ValueError as why:
            raise UserError(f"'{text}' is not a date: {why}", where="--days", remedy="write YYYY-MM-DD") from why
    return found


def date_of(day: int) -> str:
    """Days since the epoch as YYYY-MM-DD."""
    return (EPOCH + dt.timedelta(days=day)).isoformat()


def stored(x: Plane, valid: Plane, sensor: Sensor) -> Plane:
    """Physical values (C, H, W) as the numbers that the product keeps; unseen pixels become nodata."""
    if sensor.dtype.startswith("float"):
        return np.where(valid, x, np.nan).astype(np.float32)
    scale = np.array([b.scale for b in sensor.bands])[:, None, None]
    offset = np.array([b.offset for b in sensor.bands])[:, None, None]
    limits = np.iinfo(sensor.dtype)
    numbers = np.clip(np.rint((x.astype(np.float64) - offset) / scale), limits.min, limits.max)
    return np.where(valid, numbers, sensor.nodata or 0).astype(sensor.dtype)


def profile(grid: Grid, count: int, dtype: str, nodata: float | None) -> dict[str, Any]:
    """Creation settings of a tiled GeoTIFF on a grid."""
    h, w = grid.shape
    tile = min(256, max(16, -(-min(h, w) // 16) * 16))
    return {"driver": "GTiff", "crs": grid.crs, "transform": Affine(*grid.affine), "height": h, "width": w,
            "count": count, "dtype": dtype, "nodata": nodata, "compress": "deflate", "zlevel": 6, "tiled": True,
            "predictor": 3 if dtype.startswith("float") else 2, "blockxsize": tile, "blockysize": tile,
            "interleave": "band", "BIGTIFF": "IF_SAFER"}  # fmt: skip


def _sensor_profile(sensor: Sensor, grid: Grid) -> dict[str, Any]:
    nodata = float("nan") if sensor.dtype.startswith("float") else sensor.nodata
    return profile(grid, len(sensor.bands), sensor.dtype, nodata)


def _describe(dst: Any, sensor: Sensor, day: int | None) -> None:
    dst.descriptions = sensor.names
    dst.units = [b.unit for b in sensor.bands]
    if not sensor.dtype.startswith("float"):
        dst.scales = [b.scale for b in sensor.bands]
        dst.offsets = [b.offset for b in sensor.bands]
    tags = {"SENSOR": sensor.id, "SOURCE": "simulated by Swath"}
    if day is not None:
        tags["DATE"] = date_of(day)
    dst.update_tags(**tags)


def _settle(part: Path, path: Path) -> Path:
    os.replace(part, path)
    return path


def _part(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")


def write_image(path: Path, x: Plane, sensor: Sensor, grid: Grid, day: int | None) -> Path:
    """One date of one sensor."""
    part = _part(path)
    with rasterio.open(part, "w", **_sensor_profile(sensor, grid)) as dst:
        dst.write(stored(x, np.ones((1, *grid.shape), bool), sensor))
        _describe(dst, sensor, day)
    return _settle(part, path)


def write_json(path: Path, value: Any) -> Path:
    """Plain data with sorted keys, moved into place when whole."""
    return _write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def _write_text(path: Path, text: str) -> Path:
    part = _part(path)
    part.write_text(text, encoding="utf-8")
    return _settle(part, path)


def _colours(spec: LabelSpec) -> dict[int, tuple[int, int, int, int]]:
    return {i: (int(c[1:3], 16), int(c[3:5], 16), int(c[5:7], 16), 255) for i, c in enumerate(spec.colours)}


def write_raster_label(path: Path, label: Label, spec: LabelSpec, grid: Grid) -> Path:
    """A mask (uint8, 255 where ignored), a map or an image (float32, NaN)."""
    part = _part(path)
    valid = label.valid[0].numpy()
    if label.kind == "mask":
        value = np.where(valid, label.value[0].numpy(), 255).astype(np.uint8)[None]
        settings = profile(grid, 1, "uint8", 255)
    else:
        value = np.where(valid, label.value[0].numpy(), np.nan).astype(np.float32)
        settings = profile(grid.rescale((value.shape[1], value.shape[2])), len(value), "float32", float("nan"))
    with rasterio.open(part, "w", **settings) as dst:
        dst.write(value)
        if label.kind == "mask" and spec.colours:
            dst.write_colormap(1, _colours(spec))
        dst.update_tags(LABEL=spec.name, CLASSES="|".join(spec.classes), UNIT=spec.unit)
    return _settle(part, path)


def _numbers(label: Label, spec: LabelSpec, clouds: Mapping[int, Plane]) -> Any:
    """A class, tags, a scalar or boxes as plain data."""
    if label.kind == "boxes":
        found = label.objects[0]
        rows = [[round(float(v), 2) for v in row] for row in found.xyxy]
        named = {"boxes": rows, "classes": [spec.classes[int(c)] for c in found.classes]}
        return named | ({"hidden": _hidden(found, clouds)} if clouds else {})
    valid = bool(label.valid.all())
    if label.kind == "class":
        return {"class": spec.classes[int(label.value[0])] if valid else None}
    if label.kind == "tags":
        return {"tags": [t for t, v in zip(spec.classes, label.value[0].tolist(), strict=True) if v > 0.5]}
    return {"value": round(float(label.value[0]), 4) if valid else None, "unit": spec.unit}


def _hidden(objects: Boxes, clouds: Mapping[int, Plane]) -> list[bool]:
    """Whether clouds lie over the whole of an object on every date: no optical image shows it."""
    clear: Plane = np.any(np.stack([plane != card.CLOUD for plane in clouds.values()]), axis=0)
    told: list[bool] = []
    for i, (x0, y0, x1, y1) in enumerate(objects.xyxy.tolist()):
        box = clear[max(0, math.floor(y0)) : math.ceil(y1), max(0, math.floor(x0)) : math.ceil(x1)]
        told.append(not bool((box if objects.masks is None else clear[objects.masks[i].numpy()]).any()))
    return told


def _write_label(folder: Path, key: str, named: tuple[str, Label], grid: Grid, clouds: Mapping[int, Plane]) -> None:
    name, label = named
    spec = LABELS[name]
    if label.kind in ("mask", "map", "image"):
        write_raster_label(folder / name / f"{key}.tif", label, spec, grid)
        return
    write_json(folder / name / f"{key}.json", _numbers(label, spec, clouds))
    if label.kind == "boxes" and label.objects[0].masks is not None:
        ids = np.zeros(grid.shape, np.int32)
        for i, mask in enumerate(label.objects[0].masks.numpy(), 1):
            ids[mask] = i
        part = _part(folder / name / f"{key}.tif")
        with rasterio.open(part, "w", **profile(grid, 1, "int32", 0)) as dst:
            dst.write(ids[None])
        _settle(part, folder / name / f"{key}.tif")


def stac_item(key: str, sensor: Sensor, grid: Grid, day: int, href: str) -> dict[str, Any]:
    """A STAC item of one image, with the projection and raster facts that readers need."""
    west, south, east, north = grid.extent
    corners = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    ring = [[round(float(v), 8) for v in globe.lonlat_of(np.array(x), np.array(y))] for x, y in corners]
    lons, lats = [p[0] for p in ring], [p[1] for p in ring]
    common = {"data_type": sensor.dtype} | ({} if sensor.nodata is None else {"nodata": sensor.nodata})
    bands = [{"name": b.name, **common, "unit": b.unit, "raster:scale": b.scale, "raster:offset": b.offset}
             | ({} if b.nm is None else {"eo:center_wavelength": round(b.nm / 1000, 6)})
             for b in sensor.bands]  # fmt: skip
    return {
        "type": "Feature", "stac_version": "1.1.0", "id": f"{key}_{date_of(day)}_{sensor.id}",
        "stac_extensions": ["https://stac-extensions.github.io/projection/v2.0.0/schema.json",
                            "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
                            "https://stac-extensions.github.io/eo/v2.0.0/schema.json"],
        "bbox": [min(lons), min(lats), max(lons), max(lats)],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"datetime": f"{date_of(day)}T10:30:00Z", "gsd": grid.gsd[0], "instruments": [sensor.id],
                       "proj:code": grid.crs, "proj:transform": list(grid.affine), "proj:shape": list(grid.shape)},
        "assets": {"data": {"href": href, "type": "image/tiff; application=geotiff", "roles": ["data"],
                            "bands": bands}},
        "links": [],
    }  # fmt: skip


def write_sample(out: Path, key: str, batch: Batch, clouds: Mapping[int, Plane]) -> None:
    """All files of one chip."""
    base = batch.where.grids[0]
    assert base is not None
    for layer in batch.layers.values():
        grid = base.rescale((layer.shape[3], layer.shape[4]))
        days = [None] if layer.times is None else [int(d) for d in layer.times[0]]
        for t, day in enumerate(days):
            name = f"{key}_{date_of(day)}_{layer.sensor.id}" if day is not None else f"{key}_{layer.sensor.id}"
            write_image(out / "images" / f"{name}.tif", layer.x[0, t].numpy(), layer.sensor, grid, day)
            if day is not None:
                item = stac_item(key, layer.sensor, grid, day, f"../images/{name}.tif")
                write_json(out / "items" / f"{name}.json", item)
    for day, plane in clouds.items():
        label = Label("mask", torch.from_numpy(plane)[None], torch.ones(1, *plane.shape, dtype=torch.bool))
        write_raster_label(out / "clouds" / f"{key}_{date_of(day)}.tif", label, LABELS["cloud"], base)
    for named in batch.labels.items():
        _write_label(out / "labels", key, named, base, clouds)


def render_chip(job: tuple[Render, int, Site]) -> str:
    """Render and write one chip; what a worker does."""
    run, index, site = job
    torch.set_num_threads(1)
    world = World(run.seed, clouds=run.clouds)
    days = days_of(run.days)
    batch = world.batch([site], run.size, run.sensors, days, run.labels, gsd=run.gsd, key=[index])
    frame = world.frame(site, run.size, run.gsd)
    optical = any(SENSORS.get(s).kind == "optical" for s in run.sensors)
    masks = {d: world.window(frame, [], [d], ["cloud"]).labels["cloud"].value[0].numpy() for d in days if optical}
    write_sample(Path(run.out), f"{index:06d}", batch, masks)
    return f"{index:06d}"


def render(run: Render, workers: int = 1) -> Iterator[str]:
    """Render a data set, yielding each chip's key as it is done."""
    sites = World(run.seed).sites(run.chips, seed=0, near=run.near)
    jobs = [(run, i, s) for i, s in enumerate(sites)]
    about = {k: v for k, v in asdict(run).items() if k != "out"}
    places = [{"key": f"{i:06d}", "lon": round(s.lon, 7), "lat": round(s.lat, 7)} for i, s in enumerate(sites)]
    if workers <= 1:
        yield from map(render_chip, jobs)
    else:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield from pool.map(render_chip, jobs)
    out, keys = Path(run.out), [str(p["key"]) for p in places]
    hidden = {n: _count_hidden(out, n, keys) for n in run.labels if LABELS[n].kind == "boxes"}
    write_json(out / "world.json", {"render": about, "chips": places, **({"hidden": hidden} if hidden else {})})
    _write_card(out, run, keys)


def _count_hidden(out: Path, name: str, keys: Sequence[str]) -> dict[str, int]:
    """How many objects of a label clouds hide on every date, of how many."""
    told = [held for _, held in card.gathered(out, name, keys)]
    return {"hidden": sum(sum(held.get("hidden", ())) for held in told), "of": sum(len(h["boxes"]) for h in told)}


def under_clouds(out: Path) -> dict[str, str]:
    """What a rendered data set says of objects that no optical image of it shows."""
    held: dict[str, dict[str, int]] = json.loads((out / "world.json").read_text(encoding="utf-8")).get("hidden", {})
    return {f"{k} under clouds on every date": f"{v['hidden']} of {v['of']}" for k, v in held.items()}


def _write_card(out: Path, run: Render, keys: Sequence[str]) -> None:
    """The card, and labels that are not rasters once more in one file."""
    masked: list[str] = []
    sensors = [SENSORS.get(s) for s in run.sensors]
    for name in run.labels:
        spec = LABELS[name]
        if spec.kind in ("class", "tags", "scalar"):
            _write_text(out / "labels" / f"{name}.csv", card.table_of(spec, card.gathered(out, name, keys)))
        elif spec.kind == "boxes" and (out / "labels" / name / f"{keys[0]}.tif").is_file():
            masked.append(name)
        elif spec.kind == "boxes":
            write_json(out / "labels" / f"{name}.json", card.coco_of(spec, card.gathered(out, name, keys), run.size))
    _write_text(
        out / "card.toml",
        card.card_of("-".join((f"world{run.seed}", run.near, *run.labels)), sensors, run.labels, masked),
    )


def _bounded() -> Any:
    """GDAL's cache of blocks at a fixed size: by default it takes a share of the machine's memory."""
    return rasterio.Env(GDAL_CACHEMAX=CACHE_MB)


def write_scene(scene: WorldScene, out: Path, key: str, labels: Sequence[str] = ()) -> Iterator[Path]:
    """A large scene block by block: one cloud-optimised GeoTIFF a date and sensor; memory does not grow with it. A card
    stands beside it. What cannot be written is refused before anything is."""
    for name in labels:
        if LABELS[name].kind != "mask":
            raise UserError(f"a scene can have masks as labels, not '{name}' ({LABELS[name].kind})", where="--label")
    for sensor in scene.sensors:
        _step(scene, sensor)
    for sensor in scene.sensors:
        days = scene.days if sensor.kind not in ("elevation", "classes") else scene.days[-1:]
        for day in days:
            part = WorldScene(scene.world, scene.frame, (sensor,), (day,))
            name = f"{key}_{date_of(day)}_{sensor.id}"
            path = out / "images" / f"{name}.tif"
            with _bounded():
                written = _stream(part, sensor, path, day)
            yield written
            write_json(out / "items" / f"{name}.json", stac_item(key, sensor, scene.grid, day, f"../images/{name}.tif"))
    for name in labels:
        with _bounded():
            written = _stream_label(scene, name, out / "labels" / name / f"{key}.tif")
        yield written
    _write_text(out / "card.toml", card.card_of(f"world-{key}", scene.sensors, labels, (), clouds=False))


def _step(scene: WorldScene, sensor: Sensor) -> int:
    """Pixels of the scene in one of the sensor's, along a side."""
    step = max(1, round(sensor.gsd / scene.frame.gsd))
    if scene.frame.height % step or scene.frame.width % step or (BLOCK % step and step > BLOCK):
        raise UserError(f"a scene of {scene.frame.height} pixels does not hold whole pixels of {sensor.id}",
                        where="--size", remedy=f"choose a multiple of {step}")  # fmt: skip
    return step


def _stream(scene: WorldScene, sensor: Sensor, path: Path, day: int) -> Path:
    step = _step(scene, sensor)
    block = BLOCK // step * step
    zoom = max(1, round(scene.frame.gsd / sensor.gsd))
    grid = scene.grid.rescale((scene.frame.height * zoom // step, scene.frame.width * zoom // step))
    loose, part = path.with_name(f".{path.stem}.{os.getpid()}.raw.tif"), _part(path)
    with rasterio.open(loose, "w", **_sensor_profile(sensor, grid)) as dst:
        for window in scene.grid.window.split(block, block):
            layer = scene.read(window).layers[sensor.id]
            h, w = layer.shape[3:]
            place = RasterWindow(window.col * zoom // step, window.row * zoom // step, w, h)  # pyright: ignore[reportCallIssue]
            dst.write(stored(layer.x[0, 0].numpy(), np.ones((1, h, w), bool), sensor), window=place)
        _describe(dst, sensor, day)
    return _optimise(loose, part, path)


def _optimise(loose: Path, part: Path, path: Path) -> Path:
    rasterio.shutil.copy(loose, part, driver="COG", COMPRESS="DEFLATE", PREDICTOR="YES", BLOCKSIZE=256,
                         OVERVIEW_RESAMPLING="AVERAGE" if "labels" not in path.parts else "MODE")  # fmt: skip
    loose.unlink()
    return _settle(part, path)


def _stream_label(scene: WorldScene, name: str, path: Path) -> Path:
    spec = LABELS[name]
    loose, part = path.with_name(f".{path.stem}.{os.getpid()}.raw.tif"), _part(path)
    bare = WorldScene(scene.world, scene.frame, (), scene.days)
    with rasterio.open(loose, "w", **profile(scene.grid, 1, "uint8", 255)) as dst:
        for window in scene.grid.window.split(BLOCK, BLOCK):
            label = bare.read(window, labels=[name]).labels[name]
            place = RasterWindow(window.col, window.row, window.width, window.height)  # pyright: ignore[reportCallIssue]
            dst.write(label.value.numpy().astype(np.uint8), window=place)
        if spec.colours:
            dst.write_colormap(1, _colours(spec))
        dst.update_tags(LABEL=name, CLASSES="|".join(spec.classes))
    return _optimise(loose, part, path)


__all__ = ["Render", "Window", "date_of", "days_of", "render", "under_clouds", "write_image", "write_scene"]
