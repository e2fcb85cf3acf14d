"""Predict the samples of a source: rasters on the sample's own grid, everything else as JSON lines."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from swath.adapt.bundle import Bundle
from swath.adapt.metrics import names_of
from swath.adapt.task import observed
from swath.core.batch import Batch
from swath.core.contracts import Source
from swath.core.errors import SwathWarning, UnknownName
from swath.core.grid import Grid


def predict(bundle: Bundle, source: Source, out: Path, *, split: str = "", uncertainty: bool = False) -> dict[str, Any]:
    """Write one GeoTIFF a sample and array for dense answers, and `predictions.jsonl` for the rest.

    A sensor that the model knows and a sample lacks is named in its line (`lacks`), and all of them are warned of."""
    splits = source.splits()
    if split and split not in splits:
        raise UnknownName("split", split, splits, where=source.name)
    index = list(splits[split]) if split else list(range(len(source)))
    bands = {i.sensor: tuple(b.name for b in i.bands) for i in bundle.card.inputs}
    out.mkdir(parents=True, exist_ok=True)
    every = bundle.task.every_date
    lines: list[str] = []
    rasters, lacking = 0, {s: list[str]() for s in bands}
    for i in index:
        batch = source.sample(int(i), bands)
        name = names_of(batch)[0]
        row: dict[str, Any] = {"name": name}
        if lacks := [s for s in bands if s not in batch.layers or not batch.layers[s].valid.any()]:
            row["lacks"] = lacks
            for s in lacks:
                lacking[s].append(name)
        for key, value in bundle.predict(batch, uncertainty).items():
            array = value[0].float().cpu().numpy() if value.dtype.is_floating_point else value[0].cpu().numpy()
            if value.ndim >= 3 and key not in ("boxes", "masks"):
                file = out / f"{name.replace('/', '_')}-{key}.tif"
                planes = array[None] if array.ndim == 2 else array
                seen = None if bundle.label.kind == "image" else observed(batch, planes.shape[1:], every)
                names = bundle.label.classes if key == "classes" else ()
                write_raster(file, planes, _grid(batch, value), (names, None if seen is None else seen[0].numpy()))
                row[key], rasters = file.name, rasters + 1
            else:
                row[key] = np.asarray(array).tolist()
        if "classes" in row and isinstance(row["classes"], int):
            row["class"] = bundle.label.classes[row["classes"]]
        lines.append(json.dumps(row))
    then = "they are answered from what is left" if len(bands) > 1 else "their answers tell nothing of them"
    for sensor, those in lacking.items():
        if those:
            head = f"{len(those)} of {len(index)} samples show nothing of {sensor} (the first: {those[0]})"
            warnings.warn(f"{head}: {then}", SwathWarning, stacklevel=2)
    target = out / "predictions.jsonl"
    part = target.with_name(target.name + ".part")
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(part, target)
    return {"samples": len(index), "rasters": rasters, "lines": str(target)}


def _grid(batch: Batch, value: Tensor) -> Grid | None:
    grid = batch.where.grids[0] if batch.where.grids else None
    return None if grid is None else grid.rescale((value.shape[-2], value.shape[-1]))


def write_raster(path: Path, planes: Any, grid: Grid | None, what: tuple[tuple[str, ...], Any]) -> None:
    """A GeoTIFF of planes (C, H, W), georeferenced where the sample's grid is known. `what`: the names of classes, and
    the pixels that the input shows (None: all of them); an answer about others is no data."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.transform import Affine

    classes, seen = what
    if planes.dtype == np.bool_ or (planes.dtype == np.int64 and planes.max(initial=0) < 255):
        planes = planes.astype(np.uint8)
    empty: Any = np.nan if planes.dtype.kind == "f" else 255 if planes.dtype == np.uint8 else -1
    if seen is not None and planes.shape[1:] == seen.shape:
        planes = np.where(seen, planes, np.asarray(empty, dtype=planes.dtype))
    place: dict[str, Any] = {"crs": grid.crs, "transform": Affine(*grid.affine)} if grid is not None else {}
    profile: dict[str, Any]
    profile = {"driver": "GTiff", "dtype": str(planes.dtype), "count": len(planes), "compress": "deflate",
               "height": planes.shape[1], "width": planes.shape[2], "nodata": empty, **place}  # fmt: skip
    part = path.with_name(f".{path.stem}.part.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(part, "w", **profile) as dst:
            dst.write(planes)
            if classes:
                dst.update_tags(classes=", ".join(f"{i} {c}" for i, c in enumerate(classes)))
    os.replace(part, path)
