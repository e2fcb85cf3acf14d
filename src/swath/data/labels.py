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
        if value is None:
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


class Coco:
    """A COCO annotation file: boxes by the stem of the image's file name."""

    def __init__(self, path: Path, card: LabelCard) -> None:
        self.path, self.card = path, card
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8"))
            categories = {int(c["id"]): str(c["name"]) for c in data["categories"]}
            images = {int(i["id"]): Path(str(i["file_name"])).stem for i in data["images"]}
            self.found: dict[str, list[tuple[list[float], int]]] = {k: [] for k in images.values()}
            order = card.classes or tuple(categories[k] for k in sorted(categories))
            for a in data["annotations"]:
                x, y, w, h = (float(v) for v in a["bbox"])
                name = categories[int(a["category_id"])]
                if name not in order:
                    raise UserError(f"the category '{name}' is no class of '{card.name}'", where=str(path))
                if int(a["image_id"]) not in images:
                    raise UserError(f"an annotation is of image {a['image_id']}, which is not listed", where=str(path))
                self.found[images[int(a["image_id"])]].append(([x, y, x + w, y + h], order.index(name)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as why:
            raise UserError(f"the file is not COCO: {type(why).__name__} {why}", where=str(path)) from why
        self.classes = order

    def label(self, key: str, shape: tuple[int, int]) -> Label | None:
        """The boxes of a key; None when the file does not list the image."""
        return None if key not in self.found else boxes_label(self.found[key], shape)
