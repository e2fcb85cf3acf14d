"""Boxes and instances over a scene: tiles propose, one suppression decides, each object is written once.

A tile speaks for the objects whose centre lies in its share of the scene (up to the middle of each overlap) or at most
an eighth of the overlap beyond: two tiles may both propose one object, none can be lost between them, and the
suppression keeps the better, and no part of it. An object of at most three quarters of the overlap lies whole in every
tile that speaks for it, so for a detector that looks no further than that, the result does not depend on tile, batch or
cell.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress as ignore
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
import torch
from numpy.typing import NDArray
from torch import Tensor

from swath.core import SwathError, UserError, Window
from swath.deploy.area import Ground as Surface
from swath.deploy.assemble import colours
from swath.deploy.commit import CellStore, disk_error
from swath.deploy.compute import Array, Ground, Outcome, Placed, asking
from swath.deploy.objects import Objects, join, place, suppress
from swath.deploy.plan import Cell, Plan, Shaping
from swath.deploy.predictor import Predictor
from swath.deploy.vectors import DRIVERS, convert, geo_metadata, to_crs


def find_objects(plan: Plan, cell: Cell, ground: Ground, predictor: Predictor) -> Outcome:
    """What the tiles of a cell propose, in pixels of the scene."""
    todo = [(rc, t) for rc, t in zip(plan.tiles(cell), ground.tiles, strict=True) if t is not None]
    parts: list[Objects] = []
    for start in range(0, len(todo), plan.settings.batch):
        part = todo[start : start + plan.settings.batch]
        for (row, col), found in zip([rc for rc, _ in part], _ask(plan, part, predictor), strict=True):
            parts.append(
                _seen(
                    plan, place(_inside(plan, found, row, col), Window(0, 0, 1, 1), share(plan, row, col)), cell, ground
                )
            )
    return Outcome(pack(join(parts)), len(todo), ground.holes)


def share(plan: Plan, row: int, col: int) -> Window:
    """The part of the scene whose objects this tile speaks for."""
    slack = max(1, (plan.settings.overlap or 0) // 8)
    (top, bottom), (left, right) = (
        _span(axis.places, axis.tile, axis.length, i, slack) for axis, i in ((plan.rows, row), (plan.cols, col))
    )
    return Window(top, left, bottom - top, right - left)


def _span(places: Sequence[int], tile: int, length: int, i: int, slack: int) -> tuple[int, int]:
    low = -1 if i == 0 else (places[i] + places[i - 1] + tile) // 2 - slack
    high = length + 1 if i + 1 == len(places) else (places[i + 1] + places[i] + tile) // 2 + slack
    return low, high


def _inside(plan: Plan, found: Objects, row: int, col: int) -> Objects:
    """A tile's objects in pixels of the scene, cut off where the scene ends."""
    tile, (h, w) = plan.tile_window(row, col), plan.grid.shape
    xyxy = found.xyxy + np.array([tile.col, tile.row, tile.col, tile.row])
    xyxy = np.clip(xyxy, 0.0, np.array([w, h, w, h], dtype=np.float64))
    outline = found.outline
    if outline is not None:
        outline = shapely.transform(outline, lambda xy: xy + np.array([tile.col, tile.row]))
        outline = shapely.clip_by_rect(outline, 0, 0, w, h)
    whole = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    if outline is not None:
        whole &= shapely.area(outline) > 0
    return Objects(xyxy, found.score, found.label, outline).take(np.flatnonzero(whole))


def _seen(plan: Plan, objects: Objects, cell: Cell, ground: Ground) -> Objects:
    """Those whose centre was seen: what is proposed on filled ground is no object."""
    h, w = plan.grid.shape
    x = np.clip((objects.xyxy[:, 0] + objects.xyxy[:, 2]) / 2, 0, w - 1).astype(np.int64) - cell.read.col
    y = np.clip((objects.xyxy[:, 1] + objects.xyxy[:, 3]) / 2, 0, h - 1).astype(np.int64) - cell.read.row
    return objects.take(np.flatnonzero(ground.valid[y, x]))


def _ask(plan: Plan, tiles: Sequence[Placed], predictor: Predictor) -> list[Objects]:
    with asking(plan, tiles, predictor) as batch:
        given = predictor.predict(batch)
    lacking = [n for n in ("boxes", "scores", "classes", "counts") if n not in given]
    if lacking:
        raise UserError(f"predict gave {sorted(given)} and no '{lacking[0]}'", where=plan.spec.name)
    return [_objects(plan, given, i) for i in range(len(tiles))]


def _objects(plan: Plan, given: Mapping[str, Tensor], i: int) -> Objects:
    n = int(given["counts"][i])
    xyxy = given["boxes"][i, :n].double().cpu().numpy()
    score = given["scores"][i, :n].double().cpu().numpy()
    if not (np.isfinite(xyxy).all() and np.isfinite(score).all()):
        raise SwathError(
            "the model gave boxes that are not finite",
            where=plan.spec.name,
            remedy="try --precision fp32; if it stays, the weights or the normalisation are wrong",
        )
    label = given["classes"][i, :n].to(torch.int64).cpu().numpy()
    if "masks" not in given:
        return Objects(xyxy, score, label)
    masks = given["masks"][i, :n].cpu().numpy().astype(np.bool_)
    keep = np.flatnonzero(masks.any((1, 2)))
    shapes = np.array([outline(masks[k]) for k in keep], dtype=object)
    return Objects(xyxy[keep], score[keep], label[keep], shapes)


def outline(mask: NDArray[np.bool_]) -> Any:
    """The largest piece of a mask as a polygon in pixels."""
    from rasterio.features import shapes

    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    part = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    pieces = [shapely.geometry.shape(s) for s, _ in shapes(part.astype(np.uint8), mask=part)]
    largest = max(pieces, key=lambda p: p.area)
    return shapely.transform(largest, lambda xy: xy + np.array([cols[0], rows[0]]))


def pack(objects: Objects) -> dict[str, Array]:
    """Objects as plain arrays, outlines as one string of WKB and its cuts."""
    arrays: dict[str, Array] = {"xyxy": objects.xyxy, "score": objects.score, "label": objects.label}
    if objects.outline is not None:
        texts = [bytes(b) for b in shapely.to_wkb(objects.outline)]
        arrays["wkb"] = np.frombuffer(b"".join(texts), dtype=np.uint8)
        arrays["cuts"] = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return arrays


def unpack(arrays: Mapping[str, Array]) -> Objects:
    """The way back from `pack`."""
    outline = None
    if "wkb" in arrays:
        whole, cuts = arrays["wkb"].tobytes(), arrays["cuts"].tolist()
        outline = np.array(shapely.from_wkb([whole[a:b] for a, b in pairwise(cuts)]), dtype=object)
    return Objects(arrays["xyxy"], arrays["score"], arrays["label"], outline)


def gather(plan: Plan, store: CellStore, iou: float) -> Objects:
    """All proposals of all cells, suppressed, from the north-west to the south-east."""
    parts = [unpack(store.read(cell)) for cell in plan.cells]
    kept = suppress(join([p for p in parts if len(p)]), iou)
    return kept.take(np.lexsort((kept.label, kept.xyxy[:, 0], kept.xyxy[:, 1])))


def shapes_of(objects: Objects) -> Array:
    """Outlines, or boxes where there are none, in pixels."""
    return shapely.box(*objects.xyxy.T) if objects.outline is None else objects.outline


def sketch(plan: Plan, objects: Objects, size: int = 1024) -> bytes:
    """Outlines in the colours of their classes over nothing, a PNG of at most `size` pixels a side."""
    import io

    from PIL import Image, ImageDraw

    scale = min(1.0, size / max(plan.grid.shape))
    high, wide = (max(1, math.ceil(n * scale)) for n in plan.grid.shape)
    image = Image.new("RGBA", (wide, high), (0, 0, 0, 0))
    pen, table = ImageDraw.Draw(image), colours(plan)
    for shape, label in zip(shapes_of(objects), objects.label.tolist(), strict=True):
        rgb = table[label % len(table)]
        ring = [(float(x), float(y)) for x, y in shapely.get_coordinates(shape.exterior) * scale]
        pen.polygon(ring, fill=(*rgb, 90), outline=(*rgb, 255))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def write_objects(plan: Plan, objects: Objects, out: Path, shaping: Shaping) -> Objects:
    """Objects as GeoParquet, GeoPackage or FlatGeobuf: class, score, area on the ellipsoid, outline or box.

    Gives those that were written: none is smaller than the shaping's `min_area`.
    """
    from pyarrow import parquet

    grid, names = plan.grid, plan.spec.label.classes
    pixels = shapes_of(objects)
    area = Surface(grid).areas(pixels) if len(objects) else np.zeros(0)
    keep = np.flatnonzero(area >= shaping.min_area)
    shapes = shapely.transform(pixels[keep], lambda xy: to_crs(grid, xy))
    if shaping.simplify > 0:
        shapes = shapely.simplify(shapes, shaping.simplify, preserve_topology=True)
    label = objects.label[keep]
    table = pa.table(
        {
            "value": pa.array(label, pa.int32()),
            "class": pa.array([names[v] if v < len(names) else str(v) for v in label.tolist()], pa.string()),
            "score": pa.array(objects.score[keep], pa.float32()),
            "area_m2": pa.array(area[keep], pa.float64()),
            "geometry": pa.array(shapely.to_wkb(shapely.orient_polygons(shapes)), pa.binary()),
        }
    ).replace_schema_metadata(geo_metadata(grid.crs, ("Polygon",)))
    temp = out.with_name(f".{out.stem}.{os.getpid()}.tmp{out.suffix}")
    rows = temp.with_suffix(".rows.parquet") if out.suffix in DRIVERS else temp
    try:
        parquet.write_table(table, str(rows), compression="zstd")
        if out.suffix in DRIVERS:
            convert(rows, temp, DRIVERS[out.suffix], out.stem, grid.crs)
        os.replace(temp, out)
    except OSError as why:
        raise disk_error(why, out) from why
    finally:
        for path in (temp, rows):
            with ignore(OSError):
                path.unlink(missing_ok=True)
    return objects.take(keep)
