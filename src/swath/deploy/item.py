"""The STAC item of an output: where, when, what, made from which scene by which weights, with checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from swath.core import Grid
from swath.deploy.assemble import colours
from swath.deploy.compute import SCALE, lonlat_of, nodata_of
from swath.deploy.plan import Plan

COG = "image/tiff; application=geotiff; profile=cloud-optimized"
EXTENSIONS = (
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
)
ROLES = {
    "class": "data",
    "value": "data",
    "proba": "data",
    "quicklook": "overview",
    "vectors": "data",
    "objects": "data",
}


def iso(days: int) -> str:
    """Days since 1970 as an RFC 3339 moment."""
    return (date(1970, 1, 1) + timedelta(days=days)).isoformat() + "T00:00:00Z"


def footprint(grid: Grid, steps: int = 8) -> tuple[dict[str, Any], list[float]]:
    """GeoJSON geometry and bbox in longitude and latitude; edges are densified, the antimeridian is cut."""
    h, w = grid.shape
    ks = range(steps)
    edge = [
        *((0.0, w * k / steps) for k in ks),
        *((h * k / steps, float(w)) for k in ks),
        *((float(h), w - w * k / steps) for k in ks),
        *((h - h * k / steps, 0.0) for k in ks),
    ]
    ring = [lonlat_of(grid.crs, *grid.xy(r, c)) for r, c in edge]
    lons = [x for x, _ in ring]
    if max(lons) - min(lons) <= 180:
        lats = [y for _, y in ring]
        closed = [*ring, ring[0]]
        if sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(closed)) < 0:
            closed.reverse()
        shape = {"type": "Polygon", "coordinates": [[list(p) for p in closed]]}
        return shape, [min(lons), min(lats), max(lons), max(lats)]
    import shapely  # rare, and dear to import

    whole = shapely.Polygon([(x % 360, y) for x, y in ring])
    east = shapely.clip_by_rect(whole, 0, -90, 180, 90)
    west = shapely.transform(shapely.clip_by_rect(whole, 180, -90, 360, 90), lambda xy: xy - (360.0, 0.0))
    parts = shapely.orient_polygons(shapely.union(east, west))
    return shapely.geometry.mapping(parts), [east.bounds[0], whole.bounds[1], west.bounds[2], whole.bounds[3]]


def map_item(
    plan: Plan, files: Mapping[str, Path], folder: Path, sources: Sequence[str], holes: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """The item as plain data; `files` maps a layer (or quicklook, vectors) to its finished file."""
    from swath import __version__

    geometry, box = footprint(plan.grid) if plan.grid.crs else (None, None)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    first, last = (iso(plan.dates[0]), iso(plan.dates[1])) if plan.dates else (now, now)
    properties: dict[str, Any] = {
        "datetime": first if first == last else None,
        "created": now,
        "proj:shape": list(plan.grid.shape),
        "proj:transform": list(plan.grid.affine),
        "processing:software": {"swath": __version__},
        "swath:plan": plan.digest,
        "swath:joined": plan.phase > 0,
        "swath:model": plan.spec.name,
        "swath:weights": plan.spec.digest,
        "swath:weights_licence": plan.spec.licence,
        "swath:scene": plan.fingerprint,
        "swath:holes": [list(h) for h in holes if len(h) == 4],
        "swath:gaps": [[*h[:4], iso(h[4])[:10]] for h in holes if len(h) == 5],
    }
    if first != last:
        properties |= {"start_datetime": first, "end_datetime": last}
    if plan.grid.crs.upper().startswith("EPSG:"):
        properties["proj:code"] = plan.grid.crs.upper()
    elif plan.grid.crs:
        properties["proj:wkt2"] = plan.grid.crs
    links = [{"rel": "derived_from", "href": s} for s in sources]
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": list(EXTENSIONS),
        "id": next(iter(files.values())).stem,
        "geometry": geometry,
        "properties": properties,
        "links": links,
        "assets": {name: _asset(plan, name, path, folder) for name, path in files.items()},
    }
    if box is not None:
        item["bbox"] = box
    return item


def _asset(plan: Plan, name: str, path: Path, folder: Path) -> dict[str, Any]:
    kinds = {".png": "image/png", ".parquet": "application/vnd.apache.parquet", ".xml": "text/xml"}
    kinds |= {".gpkg": "application/geopackage+sqlite3", ".fgb": "application/vnd.flatgeobuf"}
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            sha.update(part)
    asset: dict[str, Any] = {
        "href": f"./{path.relative_to(folder)}" if path.is_relative_to(folder) else str(path),
        "type": kinds.get(path.suffix, COG if name in plan.layers else "application/octet-stream"),
        "roles": [ROLES.get(name, "metadata")],
        "file:checksum": f"1220{sha.hexdigest()}",
        "file:size": path.stat().st_size,
    }
    if name not in plan.layers:
        return asset
    dtype, count = plan.layers[name]
    nodata = nodata_of(dtype)
    band: dict[str, Any] = {"data_type": dtype, "nodata": "nan" if dtype == "float32" else int(nodata)}
    if name in ("proba", "entropy", "confidence"):
        band |= {"raster:scale": 1 / SCALE, "raster:offset": 0}
    label = plan.spec.label
    names = label.classes if name == "proba" else (label.name if name in ("class", "value") else name,) * count
    asset["bands"] = [{"name": n, **band} for n in names]
    if name == "class":
        asset["classification:classes"] = [
            {"value": i, "name": _slug(c), "title": c, "color_hint": "{:02X}{:02X}{:02X}".format(*rgb)}
            for i, (c, rgb) in enumerate(zip(label.classes, colours(plan), strict=True))
        ]
    return asset


def _slug(text: str) -> str:
    return "".join(ch if ch.isalnum() or ch in "-_" else "_" for ch in text)


def encode(item: Mapping[str, Any]) -> bytes:
    """JSON bytes."""
    return (json.dumps(item, indent=1) + "\n").encode()
