"""Embeddings as files: GeoParquet, a COG of bands, a picture of the first three principal components.

int8 follows the convention of AlphaEarth Foundations: unit vectors, q = round(127.5 sign(x) sqrt|x|) in -127..127, -128
for nodata, back by x = sign(q) (q / 127.5)^2.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
import shapely
from numpy.typing import NDArray
from rasterio.transform import Affine
from rasterio.windows import Window as RasterWindow

from swath.core import Encoder, Grid, Scene, UserError
from swath.deploy.assemble import BLOCK, gdal_limits
from swath.deploy.commit import CellStore, disk_error, publish
from swath.deploy.compute import to_lonlat
from swath.deploy.embed import NO_DAY, EmbedPlan, finished_rows, run_embed

Array = NDArray[Any]
Tell = Callable[[int, int], None]
NODATA = -128


def quantise(x: NDArray[np.float32]) -> NDArray[np.int8]:
    """Vectors (N, D) as int8, made unit length first."""
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return np.clip(np.rint(np.sign(unit) * np.sqrt(np.abs(unit)) * 127.5), -127, 127).astype(np.int8)


def dequantise(q: NDArray[np.int8]) -> NDArray[np.float32]:
    """int8 as float32."""
    v = q.astype(np.float32) / np.float32(127.5)
    return v * np.abs(v)


def write_parquet(plan: EmbedPlan, store: CellStore, out: Path) -> int:
    """One row a vector: key, place in pixels, share seen, dates, vector, footprint in longitude and latitude."""
    from pyarrow import parquet

    temp = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    count, writer = 0, None
    try:
        for rows in finished_rows(plan, store):
            table = _table(plan, rows)
            writer = writer or parquet.ParquetWriter(str(temp), table.schema, compression="zstd")
            writer.write_table(table)
            count += table.num_rows
        if writer is None:
            h, w = plan.grid.shape
            raise UserError(
                f"there is nothing to embed: no chip of the scene, {h} x {w} pixels, was seen well enough",
                where="--chip",
                remedy=f"{plan.settings.min_valid:.0%} of a chip must be seen: choose a smaller --chip, or --per patch",
            )
        writer.close()
        os.replace(temp, out)
    except OSError as why:
        raise disk_error(why, out) from why
    finally:
        with suppress(OSError):
            temp.unlink(missing_ok=True)
    return count


def _table(plan: EmbedPlan, rows: Mapping[str, Array]) -> Any:
    import pyarrow as pa

    vectors = rows["vector"]
    stored = quantise(vectors) if plan.settings.int8 else vectors.astype(np.float32)
    n, d = stored.shape
    flat = pa.array(np.ascontiguousarray(stored).reshape(-1))
    columns: dict[str, Any] = {}
    if plan.settings.per == "polygon":
        columns["key"] = pa.array(rows["id"].astype(np.int64))
        shapes = np.array(plan.polygons, dtype=object)[rows["id"]]
    else:
        columns["key"] = pa.array((rows["row"].astype(np.int64) << 32) | rows["col"].astype(np.int64))
        columns |= {k: pa.array(rows[k].astype(np.int32)) for k in ("row", "col", "size")}
        shapes = shapely.box(
            rows["col"], rows["row"], rows["col"] + rows["size"], rows["row"] + rows["size"], ccw=False
        )
    columns["valid"] = pa.array(rows["valid"].astype(np.float32))
    for name, days in (("time_start", rows["first"]), ("time_end", rows["last"])):
        columns[name] = pa.array(days.astype(np.int32), mask=days == NO_DAY).cast(pa.date32())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, d)
    columns["geometry"] = pa.array(shapely.to_wkb(to_lonlat_shapes(plan.grid, shapes)), type=pa.binary())
    table = pa.table(columns)
    assert table.num_rows == n
    return table.replace_schema_metadata(_metadata(plan))


def to_lonlat_shapes(grid: Grid, shapes: Array) -> Array:
    """Shapes in pixels as shapes in longitude and latitude (in the grid's own crs where it has none)."""

    def change(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = grid.xy(xy[:, 1], xy[:, 0])  # pyright: ignore[reportArgumentType]
        way = to_lonlat(grid.crs) if grid.crs else None
        return np.stack([x, y] if way is None else way.transform(x, y), 1)

    return shapely.transform(shapes, change)


def _metadata(plan: EmbedPlan) -> dict[bytes, bytes]:
    from swath.deploy.vectors import geo_metadata

    facts = {
        **plan.manifest(),
        "plan": plan.digest,
        "encoder": plan.spec.name,
        "licence": plan.spec.licence,
        "scene": plan.fingerprint,
        "quantised": "x = sign(q) (q / 127.5)^2" if plan.settings.int8 else "",
    }
    geo = geo_metadata("OGC:CRS84" if plan.grid.crs else "", ("Polygon", "MultiPolygon"))
    return {**geo, b"swath": json.dumps(facts).encode()}


def write_cog(plan: EmbedPlan, store: CellStore, out: Path) -> None:
    """Vectors as bands of a raster whose pixels are patches (or chips)."""
    if plan.settings.per == "polygon":
        raise UserError("vectors of polygons are no raster", where="--cog")
    first = next(iter(finished_rows(plan, store)), None)
    if first is None:
        raise UserError("there is nothing to embed", where="--chip")
    size, d = int(first["size"][0]), first["vector"].shape[1]
    h, w = (-(-n // size) for n in plan.grid.shape)
    a, b, c, e, f, g = plan.grid.affine
    dtype, nodata = ("int8", NODATA) if plan.settings.int8 else ("float32", float("nan"))
    profile: dict[str, Any] = {
        "driver": "GTiff", "height": h, "width": w, "count": d, "dtype": dtype, "nodata": nodata, "tiled": True,
        "crs": plan.grid.crs or None, "transform": Affine(a * size, b * size, c, e * size, f * size, g),
        "blockxsize": BLOCK, "blockysize": BLOCK, "interleave": "band", "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    raw, final = (out.with_name(f".{out.stem}.{os.getpid()}.{k}.tif") for k in ("raw", "cog"))
    try:
        with gdal_limits():
            _bands(plan, store, raw, profile)
            options = {"COMPRESS": "ZSTD", "LEVEL": "1", "BLOCKSIZE": str(BLOCK), "BIGTIFF": "IF_SAFER"}
            how = "NEAREST" if plan.settings.int8 else "AVERAGE"
            rasterio.shutil.copy(raw, final, driver="COG", OVERVIEW_RESAMPLING=how, **options)
        os.replace(final, out)
    except OSError as why:
        raise disk_error(why, out) from why
    finally:
        for path in (raw, final):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _bands(plan: EmbedPlan, store: CellStore, raw: Path, profile: dict[str, Any]) -> None:
    with rasterio.open(raw, "w", **profile) as file:
        file.update_tags(SWATH_ENCODER=plan.spec.name, SWATH_WEIGHTS=plan.weights, SWATH_PLAN=plan.digest)
        for rows in finished_rows(plan, store):
            r, c = rows["row"] // rows["size"], rows["col"] // rows["size"]
            r0, c0 = int(r.min()), int(c.min())
            shape = (profile["count"], int(r.max()) - r0 + 1, int(c.max()) - c0 + 1)
            block = np.full(shape, profile["nodata"], dtype=profile["dtype"])
            values = quantise(rows["vector"]) if plan.settings.int8 else rows["vector"]
            block[:, r - r0, c - c0] = values.T
            file.write(block, window=RasterWindow(c0, r0, shape[2], shape[1]))  # pyright: ignore[reportCallIssue]


def principal(parts: Iterator[Mapping[str, Array]], n: int = 3) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and first principal directions (D, n) of all vectors, streamed; signs are fixed by the largest entry."""
    count, total, square = 0, 0.0, 0.0
    for rows in parts:
        x = rows["vector"].astype(np.float64)
        count, total, square = count + len(x), total + x.sum(0), square + x.T @ x
    mean = np.asarray(total) / max(count, 1)
    _, vectors = np.linalg.eigh(np.asarray(square) / max(count, 1) - np.outer(mean, mean))
    top = vectors[:, ::-1][:, :n]
    top = np.pad(top, ((0, 0), (0, n - top.shape[1])))
    return mean, top * np.where(top[np.abs(top).argmax(0), np.arange(n)] < 0, -1.0, 1.0)


def picture(plan: EmbedPlan, store: CellStore, out: Path, size: int = 1024) -> None:
    """The first three principal components as red, green and blue, stretched between the 2nd and 98th percentile."""
    from PIL import Image

    mean, top = principal(finished_rows(plan, store))
    parts: list[tuple[Array, Array, Array]] = []
    for rows in finished_rows(plan, store):
        parts.append((rows["row"] // rows["size"], rows["col"] // rows["size"], (rows["vector"] - mean) @ top))
    r, c, rgb = (np.concatenate([p[i] for p in parts]) for i in range(3))
    low, high = np.percentile(rgb, (2, 98), axis=0)
    shade = np.clip((rgb - low) / np.maximum(high - low, 1e-12), 0, 1) * 255
    canvas = np.zeros((int(r.max()) + 1, int(c.max()) + 1, 4), dtype=np.uint8)
    canvas[r, c, :3] = shade.astype(np.uint8)
    canvas[r, c, 3] = 255
    image = Image.fromarray(canvas)
    zoom = max(1, size // max(canvas.shape[:2]))
    image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    image.thumbnail((size, size))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    publish(out, buffer.getvalue())


def read_vectors(file: Path) -> tuple[NDArray[np.float32], dict[str, Array], dict[str, Any]]:
    """Vectors (N, D) of an embedding file, its other columns, and what it says of itself."""
    from pyarrow import parquet

    try:
        table = parquet.read_table(str(file))
        facts = json.loads((table.schema.metadata or {})[b"swath"])
    except (OSError, KeyError, ValueError) as why:
        raise UserError(f"this is no file of embeddings: {why}", where=str(file)) from why
    column = table.column("vector").combine_chunks()
    flat = column.values.to_numpy(zero_copy_only=False) if hasattr(column, "values") else np.concatenate(
        [c.values.to_numpy() for c in column.chunks])  # fmt: skip
    vectors = flat.reshape(table.num_rows, -1)
    if vectors.dtype == np.int8:
        vectors = dequantise(vectors)
    others: Sequence[str] = [n for n in table.column_names if n != "vector"]
    columns = {n: table.column(n).to_numpy(zero_copy_only=False) for n in others}
    return np.ascontiguousarray(vectors, dtype=np.float32), columns, facts


def embed_scene(
    plan: EmbedPlan, scene: Scene, encoder: Encoder, out: Path, *, also: Sequence[str] = (), tell: Tell | None = None
) -> dict[str, Any]:
    """Embed a scene into the folder `out`: embeddings.parquet, a picture, a record of it all; `also` a cog, lance."""
    wanted = {"cog": "embeddings.tif", "lance": "embeddings.lance"}
    extra = [wanted[a] for a in also]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as why:
        raise disk_error(why, out) from why
    record = out / "embeddings.json"
    with suppress(OSError, ValueError, KeyError):
        known = json.loads(record.read_bytes())
        if known["plan"] == plan.digest and all((out / f).exists() for f in known["files"]):
            if set(extra) <= set(known["files"]):
                return {**known, "already": True}
    store = CellStore(out / "cells", plan)
    store.open()
    for done, _ in enumerate(run_embed(plan, scene, encoder, store), 1):
        if tell is not None:
            tell(done, len(plan.cells))
    record.unlink(missing_ok=True)
    count = write_parquet(plan, store, out / "embeddings.parquet")
    files = ["embeddings.parquet"]
    if "cog" in also:
        write_cog(plan, store, out / "embeddings.tif")
    if "lance" in also:
        from swath.deploy.lance_table import write_lance

        write_lance(out / "embeddings.parquet", out / "embeddings.lance")
    files += extra
    if plan.settings.per != "polygon":
        picture(plan, store, out / "embeddings.png")
        files.append("embeddings.png")
    lost = {"polygons left out": len(plan.polygons) - count} if len(plan.polygons) > count else {}
    facts = {
        "plan": plan.digest,
        "vectors": count,
        **lost,
        "encoder": plan.spec.name,
        **plan.manifest(),
        "files": files,
    }
    publish(record, (json.dumps(facts, indent=1) + "\n").encode())
    store.remove()
    return {**facts, "already": False}
