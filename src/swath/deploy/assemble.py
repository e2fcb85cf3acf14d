"""Cells into files: shared strips are added up in a fixed order and written as Cloud-Optimised GeoTIFF.

Restartable: everything is made under temporary names out of finished cells, read back, and renamed at the end.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import rasterio
import rasterio.shutil
import torch
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window as RasterWindow

from swath.core import SwathError
from swath.deploy.blend import Zone
from swath.deploy.commit import CellStore, disk_error
from swath.deploy.compute import SCALE, finalise, nodata_of
from swath.deploy.plan import Cell, Plan

CACHE_MB = 96
BLOCK = 512
PALETTE = ("#1b7837", "#f1a340", "#2c7fb8", "#d7301f", "#8c6bb1", "#ffd92f", "#66c2a5", "#a6761d", "#e7298a", "#bdbdbd")


def output_path(out: Path, layer: str) -> Path:
    """Where a layer goes: the first one under the given name, the others beside it."""
    return out if layer in ("class", "value") else out.with_name(f"{out.stem}_{layer}{out.suffix}")


def pieces(plan: Plan, store: CellStore) -> Iterator[tuple[Zone, Zone, dict[str, NDArray[Any]]]]:
    """Every rectangle of the map with its outputs, in row order."""
    grid = {(c.row, c.col): c for c in plan.cells}
    names = list(plan.layers)
    for zr in plan.rows.zones():
        for zc in plan.cols.zones():
            if not zr.shared and not zc.shared:
                yield zr, zc, store.read(grid[zr.cells[0], zc.cells[0]], names)
                continue
            total = torch.zeros((plan.spec.planes, zr.stop - zr.start, zc.stop - zc.start))
            veto = np.zeros(total.shape[1:], dtype=np.bool_)
            for r in zr.cells:
                for c in zc.cells:
                    share, bad = _share(plan, store, grid[r, c], zr, zc)
                    total += torch.from_numpy(share)
                    veto |= bad.view(np.bool_)
            yield zr, zc, finalise(plan, total, veto)


def _share(
    plan: Plan, store: CellStore, cell: Cell, zr: Zone, zc: Zone
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """What one cell adds to a shared rectangle."""
    (top, bottom), (left, right) = plan.rows.reach(cell.row), plan.cols.reach(cell.col)
    (r0, r1), (c0, c1) = plan.rows.own(cell.row), plan.cols.own(cell.col)
    if zr.stop <= r0:
        name, y, x = "top", top, left
    elif zr.start >= r1:
        name, y, x = "bottom", r1, left
    elif zc.stop <= c0:
        name, y, x = "left", r0, left
    else:
        name, y, x = "right", r0, c1
    assert bottom >= zr.stop and right >= zc.stop
    held = store.read(cell, [f"{name}.sum", f"{name}.veto"])
    rows, cols = slice(zr.start - y, zr.stop - y), slice(zc.start - x, zc.stop - x)
    return held[f"{name}.sum"][:, rows, cols], held[f"{name}.veto"][rows, cols]


@contextmanager
def gdal_limits() -> Generator[None]:
    """A block cache of fixed size, so that memory does not follow the scene; no sidecars read by accident."""
    with rasterio.Env(
        GDAL_CACHEMAX=CACHE_MB, GDAL_NUM_THREADS="1", GDAL_TIFF_INTERNAL_MASK="YES", GDAL_PAM_ENABLED="NO"
    ):
        yield


def assemble(plan: Plan, store: CellStore, out: Path) -> dict[str, Path]:
    """Write every layer under a temporary name, check what was written, and give name -> temporary file."""
    made: dict[str, Path] = {}
    raws = {n: _temp(output_path(out, n), "raw") for n in plan.layers}
    try:
        with gdal_limits():
            sums = _write_raw(plan, store, raws)
            for name, raw in raws.items():
                final = _temp(output_path(out, name), "cog")
                made[name] = final
                _to_cog(name, plan, raw, final)
                raw.unlink()
                if _checksum(plan, final) != sums[name]:
                    raise SwathError("the file read back differs from what was written", where=str(final))
    except BaseException as why:
        full = _is_full(out)
        for path in [*raws.values(), *made.values()]:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        if full and isinstance(why, OSError | RasterioError | SwathError):  # GDAL says only that writing failed
            raise disk_error(OSError(errno.ENOSPC, ""), out) from why
        if isinstance(why, OSError):
            raise disk_error(why, out) from why
        raise
    return made


def _is_full(out: Path) -> bool:
    stat = os.statvfs(out.parent)
    return stat.f_bavail * stat.f_frsize < 4 << 20


def _temp(path: Path, what: str) -> Path:
    return path.with_name(f".{path.stem}.{os.getpid()}.{what}.tif")


def profile(plan: Plan, name: str) -> dict[str, Any]:
    """How a layer lies in its file."""
    dtype, bands = plan.layers[name]
    return {
        "height": plan.grid.shape[0],
        "width": plan.grid.shape[1],
        "count": bands,
        "dtype": dtype,
        "crs": plan.grid.crs or None,
        "transform": Affine(*plan.grid.affine),
        "nodata": nodata_of(dtype),
    }


def _write_raw(plan: Plan, store: CellStore, raws: Mapping[str, Path]) -> dict[str, int]:
    """Cells into plain tiled rasters, and a checksum of each that does not depend on how it is cut."""
    tiled: dict[str, Any] = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "interleave": "band"}
    big: dict[str, Any] = {"BIGTIFF": "IF_SAFER", "driver": "GTiff", **tiled}
    sums = dict.fromkeys(plan.layers, 0)
    files = {n: rasterio.open(p, "w", **profile(plan, n), **big) for n, p in raws.items()}
    try:
        for name, file in files.items():
            _describe(plan, name, file)
        for zr, zc, arrays in pieces(plan, store):
            for name, array in arrays.items():
                files[name].write(array, window=_window(zr.start, zr.stop, zc.start, zc.stop))
                sums[name] = (sums[name] + place_sum(array, zr.start, zc.start)) % (1 << 64)
    finally:
        for file in files.values():
            file.close()
    return sums


def place_sum(array: NDArray[Any], row: int, col: int) -> int:
    """Checksum of a block (bands, H, W) at a place; blocks add up whatever the cut."""
    whole = np.ascontiguousarray(array)
    bits = whole.view(np.uint32) if whole.dtype == np.float32 else whole
    n, h, w = bits.shape
    odd = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        cols = (np.arange(col, col + w, dtype=np.uint64) * odd) | np.uint64(1)
        rows = (np.arange(row, row + h, dtype=np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)) | np.uint64(1)
        total = np.uint64(0)
        for b in range(n):
            lines = bits[b].astype(np.uint64) @ cols
            total += (lines * rows).sum(dtype=np.uint64) * np.uint64(2 * b + 1)
    return int(total)


def _window(r0: int, r1: int, c0: int, c1: int) -> RasterWindow:
    return RasterWindow(c0, r0, c1 - c0, r1 - r0)  # pyright: ignore[reportCallIssue]


def _to_cog(name: str, plan: Plan, raw: Path, final: Path) -> None:
    averaged = name not in ("class", "sets")
    with rasterio.open(raw, "r+") as file:  # here they lie as they are; left to the COG driver it packs them twice
        file.build_overviews(halvings(plan.grid.shape), Resampling.average if averaged else Resampling.mode)
    options = {
        "COMPRESS": "ZSTD",
        "LEVEL": "1",
        "BLOCKSIZE": str(BLOCK),
        "PREDICTOR": "STANDARD" if averaged else "NO",
        "BIGTIFF": "IF_SAFER",
        "NUM_THREADS": "1",
    }
    rasterio.shutil.copy(raw, final, driver="COG", **options)
    with open(final, "rb+") as file:
        os.fsync(file.fileno())


def halvings(shape: tuple[int, int]) -> list[int]:
    """The overviews of a COG: halved until one block holds all."""
    return [2**i for i in range(1, 32) if max(shape) > BLOCK * 2 ** (i - 1)]


def _checksum(plan: Plan, path: Path) -> int:
    total = 0
    with rasterio.open(path) as file:
        if (file.height, file.width) != plan.grid.shape:
            raise SwathError(f"the file has the shape {(file.height, file.width)}", where=str(path))
        for r in range(0, file.height, BLOCK):
            for c in range(0, file.width, BLOCK * 4):
                r1, c1 = min(r + BLOCK, file.height), min(c + BLOCK * 4, file.width)
                total += place_sum(file.read(window=_window(r, r1, c, c1)), r, c)
    return total % (1 << 64)


def colours(plan: Plan) -> list[tuple[int, int, int]]:
    """A colour per class: the label's own, else a palette of ours, repeated."""
    label = plan.spec.label
    texts = [
        label.colours[i] if i < len(label.colours) else PALETTE[i % len(PALETTE)] for i in range(len(label.classes))
    ]
    return [(int(t[1:3], 16), int(t[3:5], 16), int(t[5:7], 16)) for t in texts]


def _describe(plan: Plan, name: str, file: Any) -> None:
    label = plan.spec.label
    tags = {"SWATH_PLAN": plan.digest, "SWATH_MODEL": plan.spec.name, "SWATH_WEIGHTS": plan.spec.digest}
    if plan.spec.label.kind == "mask":
        tags["CLASSES"] = json.dumps(list(label.classes))
    file.update_tags(**tags)
    if name == "class":
        file.set_band_description(1, label.name)
        if plan.layers[name][0] == "uint8":
            table = {i: (*rgb, 255) for i, rgb in enumerate(colours(plan))}
            file.write_colormap(1, {**table, 255: (0, 0, 0, 0)})
    elif name == "proba":
        for i, c in enumerate(label.classes):
            file.set_band_description(i + 1, c)
    else:
        file.set_band_description(1, label.name if name == "value" else name)
    if name in ("proba", "entropy", "confidence"):
        file.scales = (1 / SCALE,) * file.count
    if name == "value" and label.unit:
        file.units = (label.unit,) * file.count


def attribute_table(plan: Plan) -> str:
    """GDAL's sidecar `.aux.xml`: category names and a raster attribute table, which GIS programs read."""
    rows: list[str] = []
    for i, (name, (r, g, b)) in enumerate(zip(plan.spec.label.classes, colours(plan), strict=True)):
        cells = "".join(f"<F>{escape(str(v))}</F>" for v in (i, name, r, g, b))
        rows.append(f'<Row index="{i}">{cells}</Row>')
    fields = [("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8)]
    heads = "".join(
        f"<FieldDefn index={quoteattr(str(i))}><Name>{n}</Name><Type>{t}</Type><Usage>{u}</Usage></FieldDefn>"
        for i, (n, t, u) in enumerate(fields)
    )
    names = "".join(f"<Category>{escape(c)}</Category>" for c in plan.spec.label.classes)
    return (
        f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames>'
        f'<GDALRasterAttributeTable tableType="thematic">{heads}{"".join(rows)}</GDALRasterAttributeTable>'
        "</PAMRasterBand></PAMDataset>\n"
    )


def quicklook(path: Path, layer: str, plan: Plan, size: int = 1024) -> bytes:
    """A PNG of at most `size` pixels a side, read from the overviews; nodata is transparent."""
    import io

    from PIL import Image

    with rasterio.open(path) as file:
        scale = min(1.0, size / max(file.height, file.width))
        shape = (max(1, math.ceil(file.height * scale)), max(1, math.ceil(file.width * scale)))
        how = Resampling.nearest if layer == "class" else Resampling.average
        data = file.read(1, out_shape=shape, resampling=how, masked=True)
    seen = ~np.ma.getmaskarray(data)
    save: dict[str, Any] = {}
    if layer == "class" and plan.spec.channels <= 255:
        table = colours(plan)
        image = Image.fromarray(np.where(seen, np.asarray(data), 255).astype(np.uint8))
        image.putpalette([v for rgb in [*table, *[(0, 0, 0)] * (256 - len(table))] for v in rgb])
        save["transparency"] = 255
    elif layer == "class":
        rgb = np.array(colours(plan), dtype=np.uint8)[np.where(seen, np.asarray(data), 0)]
        image = Image.fromarray(np.concatenate([rgb, seen[..., None].astype(np.uint8) * 255], -1), "RGBA")
    else:
        values = np.asarray(data, dtype=np.float64)
        low, high = np.percentile(values[seen], (2, 98)) if seen.any() else (0.0, 1.0)
        grey = np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 255
        image = Image.fromarray(np.stack([np.where(seen, grey, 0), seen * 255], -1).astype(np.uint8), "LA")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=4, **save)
    return buffer.getvalue()
