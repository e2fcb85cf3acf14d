"""Polygons of a 4,096 x 4,096 raster: Swath against rasterio.features.shapes -> shapely -> GeoDataFrame, CPU time.

    python benchmarks/polygons.py [--side 4096] [--rounds 5]

Also the time and size of GeoParquet against GeoJSON for the same polygons. One thread; medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import shapely
from pyarrow import parquet
from rasterio import features
from scipy.ndimage import gaussian_filter

from swath.deploy.polygons import polygonise


def raster(side: int) -> np.ndarray:
    """Four classes of smooth noise with a little grain: about 17,000 polygons and 2 million vertices at 4,096."""
    rng = np.random.default_rng(0)
    z = gaussian_filter(rng.standard_normal((side, side)).astype(np.float32), 8)
    z = z / z.std() + 0.025 * rng.standard_normal((side, side)).astype(np.float32)
    return np.digitize(z, [-0.7, 0.0, 0.7]).astype(np.uint8)


def ours(data: np.ndarray):
    parts = list(polygonise(data[r : r + 1024] for r in range(0, len(data), 1024)))
    shapes = np.concatenate([p.polygons for p in parts])
    return geopandas.GeoDataFrame({"value": np.concatenate([p.value for p in parts])}, geometry=shapes)


def theirs(data: np.ndarray):
    found = [(shapely.geometry.shape(g), int(v)) for g, v in features.shapes(data, connectivity=4)]
    return geopandas.GeoDataFrame({"value": [v for _, v in found]}, geometry=[g for g, _ in found])


def timed(run, *given):
    begin = time.process_time()
    out = run(*given)
    return time.process_time() - begin, out


def write_parquet(frame, path: Path) -> None:
    table = pa.table({"value": frame["value"].to_numpy(), "geometry": shapely.to_wkb(frame.geometry.values)})
    parquet.write_table(table, path, compression="zstd")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    data = raster(given.side)
    rows = []
    for _ in range(given.rounds):
        (a, mine), (b, other) = timed(ours, data), timed(theirs, data)
        rows.append((a, b, a / b))
    assert len(mine) == len(other) and mine.area.sum() == other.area.sum()
    a, b, ratio = (statistics.median(r[i] for r in rows) for i in range(3))
    print(f"{len(mine)} polygons, {mine.geometry.count_coordinates().sum()} vertices")
    print(f"ours {a:.2f} CPU-s, shapes -> shapely -> GeoDataFrame {b:.2f} CPU-s, ratio {ratio:.2f} (goal <= 0.7)")
    with tempfile.TemporaryDirectory() as name:
        small, large = Path(name) / "a.parquet", Path(name) / "a.geojson"
        c, _ = timed(write_parquet, mine, small)
        d, _ = timed(lambda: mine.set_crs("EPSG:32633").to_file(large, driver="GeoJSON"))
        print(
            f"GeoParquet {c:.2f} CPU-s {small.stat().st_size / 1e6:.1f} MB, GeoJSON {d:.2f} CPU-s "
            f"{large.stat().st_size / 1e6:.1f} MB, ratio {c / d:.3f} (goal <= 0.05)"
        )


if __name__ == "__main__":
    main()
