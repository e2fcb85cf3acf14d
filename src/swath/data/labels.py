"""Labels that are not rasters: vectors burnt onto a grid, tables of scalars and classes, COCO boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from swath.core.batch import Boxes, Label
from swath.core.errors import UserError
from swath.core.grid import Grid
from swath.data.card import LabelCard
from swath.data.decode import Pixels, class_label, mask_label, scalar_label, tags_label
from swath.data.index import key_of
from swath.data.loose import parts


def read_vector(path: Path, bbox: tuple[float, float, float, float] | None = None) -> Any:
    """A GeoDataFrame of a vector file (GeoJSON, GeoPackage, GeoParquet, ...)."""
    import geopandas

    try:
        if path.suffix in (".parquet", ".geoparquet"):
            return geopandas.read_parquet(path)
        return geopandas.read_file(path, bbox=bbox)
    except Exception as why:
        raise UserError(f"the vector file cannot be read: {str(why)[:200]}", where=str(path)) from why


def burn(frame: Any, grid: Grid, card: LabelCard, where: str) -> Pixels:
    """Polygons as stored class values on the grid; what no polygon covers is 0 (the first class: background).

    With a `column`, its value (a class name or a stored value) is burnt; without one every polygon is class 1.
    """
    from rasterio.features import rasterize
    from rasterio.transform import Affine

    if frame.crs is not None and grid.crs:
        frame = frame.to_crs(grid.crs)
    shapes: list[tuple[Any, int]] = []
    values = card.values or tuple(range(len(card.classes)))
    for row, shape in enumerate(frame.geometry):
        if shape is None or shape.is_empty:
            continue
        value = 1
        if card.column:
            if card.column not in frame.columns:
                raise UserError(
                    f"there is no column '{card.column}'",
                    where=where,
                    remedy=f"columns: {', '.join(map(str, frame.columns))}",
                )
            cell: Any = frame[card.column].iloc[row]
            if isinstance(cell, str) and cell in card.classes:
                value = values[card.classes.index(cell)]
            else:
                value = _whole(cell, where, card)
        shapes.append((shape, value))
    out = np.zeros(grid.shape, dtype=np.int32)
    if shapes:
        out = rasterize(shapes, out_shape=grid.shape, transform=Affine(*grid.affine), fill=0, dtype="int32")
    return cast(Pixels, out)


def _whole(cell: Any, where: str, card: LabelCard) -> int:
    try:
        return int(cell)
    except (TypeError, ValueError):
        raise UserError(
            f"'{cell}' in column '{card.column}' is neither a class of '{card.name}' nor a number",
            where=where,
            remedy=f"classes: {', '.join(card.classes[:12]) or 'none declared'}",
        ) from None


def vector_label(frame: Any, grid: Grid | None, card: LabelCard, where: str) -> Label:
    """A vector layer as a mask on the image's grid."""
    if grid is None:
        raise UserError("the image has no georeference, so a vector label cannot be laid on it", where=where)
    return mask_label(burn(frame, grid, card, where), card, where)


def laid_on(frame: Any, grid: Grid | None, card: LabelCard, where: str) -> Label:
    """A vector layer on the image's grid: as a mask, or every polygon as an object."""
    if card.kind != "boxes":
        return vector_label(frame, grid, card, where)
    from rasterio.features import rasterize
    from rasterio.transform import Affine

    if grid is None:
        raise UserError("the image has no georeference, so a vector label cannot be laid on it", where=where)
    frame = frame.to_crs(grid.crs) if frame.crs is not None and grid.crs else frame
    west, south, east, north = grid.extent
    shapes = [s for s in frame.cx[west:east, south:north].geometry if s is not None and not s.is_empty]
    size, affine = grid.shape, Affine(*grid.affine)
    masks = [cast(Pixels, rasterize([s], out_shape=size, transform=affine, dtype="uint8")) > 0 for s in shapes]
    masks = [m for m in masks if m.any()]
    boxes = [(_around(m), 0) for m in masks]
    stack = np.stack(masks) if masks else np.zeros((0, *size), dtype=bool)
    return boxes_label(boxes, size, torch.from_numpy(stack))


def _around(mask: Pixels) -> list[float]:
    """The box (xyxy) about a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


class Table:
    """A CSV or Parquet table with one row per key. Tags stand in one column, or as 0 and 1 in a column each."""

    def __init__(self, path: Path, card: LabelCard) -> None:
        import pyarrow
        import pyarrow.csv
        from pyarrow import parquet

        self.path, self.card = path, card
        try:
            if path.suffix == ".parquet":
                table: Any = parquet.read_table(path)
            else:  # the key stays text: 007 is not 7
                options: Any = pyarrow.csv.ConvertOptions(column_types={card.key: pyarrow.string()})
                table = pyarrow.csv.read_csv(path, convert_options=options)
        except Exception as why:
            raise UserError(f"the table cannot be read: {str(why)[:200]}", where=str(path)) from why
        flags = card.classes if card.kind == "tags" and not card.column else ()
        for column in (card.key, *(flags or (card.column,))):
            if column not in table.column_names:
                raise UserError(
                    f"the table has no column '{column}'",
                    where=str(path),
                    remedy=f"columns: {', '.join(table.column_names)}; name it in the card",
                )
        keys = [key_of(str(k)) for k in table.column(card.key).to_pylist()]
        if len(set(keys)) != len(keys):
            twice = sorted({k for k in keys if keys.count(k) > 1})[:3] if len(keys) < 5000 else []
            raise UserError(f"keys occur twice: {', '.join(twice)}", where=str(path))
        if flags:
            rows = zip(*(table.column(c).to_pylist() for c in flags), strict=True)
            cells: list[Any] = [[c for c, flag in zip(flags, row, strict=True) if flag] for row in rows]
        else:
            cells = table.column(card.column).to_pylist()
        self.values: dict[str, Any] = dict(zip(keys, cells, strict=True))

    def label(self, key: str) -> Label | None:
        """The label of a key; None when the table has no row for it."""
        if key not in self.values:
            return None
        return label_of(self.values[key], self.card, f"{self.path}, key {key}")


def label_of(value: Any, card: LabelCard, where: str) -> Label:
    """A table's cell as a label of the card's kind."""
    if card.kind == "scalar":
        try:
            return scalar_label(None if value is None else float(value), card)
        except (TypeError, ValueError):
            raise UserError(f"'{value}' is not a number", where=where) from None
    if card.kind == "class":
        if value is None or value == "":
            return Label("class", torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool))
        return class_label(value, card, where)
    if card.kind == "tags":
        return tags_label(parts(value) if isinstance(value, str) else list(value or []), card, where)
    raise UserError(f"a table cannot hold a label of kind '{card.kind}'", where=where)


def boxes_label(found: Sequence[tuple[Sequence[float], int]], shape: tuple[int, int], masks: Any = None) -> Label:
    """Boxes (xyxy in pixels, class index) of one image as a label."""
    xyxy = torch.tensor([list(b) for b, _ in found], dtype=torch.float32).reshape(-1, 4)
    classes = torch.tensor([c for _, c in found], dtype=torch.int64)
    valid = torch.ones(1, 2, dtype=torch.bool)
    return Label("boxes", torch.tensor([list(shape)]), valid, (Boxes(xyxy, classes, masks),))


def numbered_label(ids: Pixels, card: LabelCard, nodata: float | None) -> Label:
    """A raster of objects' numbers (H, W) as boxes with masks, all of the card's first class; 0 is no object."""
    empty = {0, *(int(v) for v in card.ignore), *(() if nodata is None or not np.isfinite(nodata) else (int(nodata),))}
    numbers = [int(v) for v in np.unique(ids) if int(v) not in empty]
    masks = np.stack([ids == n for n in numbers]) if numbers else np.zeros((0, *ids.shape), dtype=bool)
    return boxes_label(
        [(_around(m), 0) for m in masks], (int(ids.shape[0]), int(ids.shape[1])), torch.from_numpy(masks)
    )


def drawn(shape: Any, size: tuple[int, int], where: str) -> Pixels:
    """COCO's segmentation as a mask: polygons in pixels, or run lengths down the columns."""
    try:
        return _drawn(shape, size, where)
    except (IndexError, ValueError, TypeError, OverflowError) as why:
        raise UserError(
            f"a segmentation cannot be read: {str(why)[:120]}", where=where, remedy="write the annotation file again"
        ) from why


def _drawn(shape: Any, size: tuple[int, int], where: str) -> Pixels:
    from rasterio.features import rasterize

    h, w = size
    if isinstance(shape, list):
        polygons = cast("list[list[float]]", shape)
        rings = [[(float(x), float(y)) for x, y in zip(p[::2], p[1::2], strict=True)] for p in polygons if len(p) >= 6]
        shapes: Any = [{"type": "Polygon", "coordinates": [[*r, r[0]]]} for r in rings]
        return cast(Pixels, rasterize(shapes, size, dtype="uint8")) > 0 if shapes else np.zeros(size, dtype=bool)
    runs: Any = shape.get("counts") if isinstance(shape, dict) else None
    if isinstance(runs, str):
        runs = _run_lengths(runs)
    if not isinstance(runs, list) or sum(cast("list[int]", runs)) != h * w:
        raise UserError(f"a segmentation does not fill its image of {h} x {w} pixels", where=where)
    flat = np.repeat(np.arange(len(cast("list[int]", runs))) % 2, cast("list[int]", runs))
    return flat.reshape(w, h).T.astype(bool)


def _run_lengths(text: str) -> list[int]:
    """COCO's compressed run lengths: six bits a character, the fifth says "more", and from the third on differences
    to the one before the last."""
    out: list[int] = []
    at = 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            bits = ord(text[at]) - 48
            value |= (bits & 31) << shift
            more, shift, at = bool(bits & 32), shift + 5, at + 1
            if not more and bits & 16:
                value -= 1 << shift
        out.append(value + (out[-2] if len(out) > 2 else 0))
    return out


class Coco:
    """A COCO annotation file: boxes by the stem of the image's file name; with their masks where the card's column is
    `segmentation`."""

    def __init__(self, path: Path, card: LabelCard) -> None:
        self.path, self.card = path, card
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8"))
            categories = {int(c["id"]): str(c["name"]) for c in data["categories"]}
            images = {int(i["id"]): Path(str(i["file_name"])).stem for i in data["images"]}
            self.found: dict[str, list[tuple[list[float], int]]] = {k: [] for k in images.values()}
            self.shapes: dict[str, list[Any]] = {k: [] for k in images.values()}
            order = card.classes or tuple(categories[k] for k in sorted(categories))
            for a in data["annotations"]:
                x, y, w, h = (float(v) for v in a["bbox"])
                name = categories.get(int(a["category_id"]))
                if name is None:
                    raise UserError(
                        f"annotation {a.get('id', '?')} is of category {a['category_id']}, which is not listed",
                        where=str(path),
                        remedy=f"categories: {', '.join(f'{k} {v}' for k, v in sorted(categories.items()))}",
                    )
                if name not in order:
                    raise UserError(f"the category '{name}' is no class of '{card.name}'", where=str(path))
                if int(a["image_id"]) not in images:
                    raise UserError(f"an annotation is of image {a['image_id']}, which is not listed", where=str(path))
                self.found[images[int(a["image_id"])]].append(([x, y, x + w, y + h], order.index(name)))
                self.shapes[images[int(a["image_id"])]].append(a.get("segmentation"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as why:
            said = f"it lacks {why}" if isinstance(why, KeyError) else f"{type(why).__name__}: {why}"
            raise UserError(f"the file is not COCO: {said}", where=str(path)) from why
        self.classes = order

    def label(self, key: str, shape: tuple[int, int]) -> Label | None:
        """The boxes of a key; None when the file does not list the image."""
        if key not in self.found:
            return None
        if self.card.column != "segmentation":
            return boxes_label(self.found[key], shape)
        where = f"{self.path}, image {key}"
        if not all(self.shapes[key]):
            raise UserError("an annotation has no segmentation", where=where, remedy="choose the task detect")
        masks = [drawn(s, shape, where) for s in self.shapes[key]]
        stack = np.stack(masks) if masks else np.zeros((0, *shape), dtype=bool)
        return boxes_label(self.found[key], shape, torch.from_numpy(stack))
