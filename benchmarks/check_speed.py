"""`swath check` over many files: seconds, CPU seconds, files a second and peak memory, for two sizes in one run.

python benchmarks/check_speed.py --files 20000
"""

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import rasterio
from rasterio.transform import from_origin

SIDE, BANDS = 64, 4


def write(root, start, stop):
    for i in range(start, stop):
        rng = np.random.default_rng(i)
        place = from_origin(300000 + i % 500 * 1000, 4000000 + i // 500 * 1000, 10, 10)
        x = (1500 + 400 * rng.normal(size=(BANDS, 16, 16)).repeat(4, 1).repeat(4, 2)).clip(1) + rng.integers(
            0, 200, (BANDS, SIDE, SIDE)
        )
        m = rng.integers(0, 4, (8, 8)).repeat(8, 0).repeat(8, 1)
        for name, values in (("images", x.astype("uint16")), ("masks", m[None].astype("uint8"))):
            with rasterio.open(
                root / name / f"chip{i:06d}.tif", "w", driver="GTiff", height=SIDE, width=SIDE, count=len(values),
                dtype=values.dtype, crs="EPSG:32633", transform=place, compress="deflate",
            ) as out:  # fmt: skip
                out.write(values)


def measure(root):
    """Seconds, CPU seconds and peak memory of the command with its workers (sum of proportional set sizes, MiB)."""
    cpu = spent()
    args = [sys.executable, "-m", "swath.cli", "check", str(root), "--json", "-q"]
    start, peak = time.perf_counter(), 0.0
    with tempfile.TemporaryFile() as answer:
        with subprocess.Popen(args, stdout=answer) as run:
            me = psutil.Process(run.pid)
            while run.poll() is None:
                with contextlib.suppress(psutil.Error):
                    peak = max(peak, sum(p.memory_full_info().pss for p in (me, *me.children(recursive=True))))
                time.sleep(0.2)
        seconds = time.perf_counter() - start
        answer.seek(0)
        report = json.loads(answer.read())
    return seconds, spent() - cpu, peak / 2**20, report


def spent():
    """CPU seconds of children that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=20000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    for files in (options.files // 4, options.files):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for name in ("images", "masks"):
                (root / name).mkdir()
            edges = np.linspace(0, files // 2, 9).astype(int)
            with ProcessPoolExecutor(options.workers) as pool:
                list(pool.map(write, [root] * 8, edges[:-1], edges[1:]))
            seconds, cpu, peak, report = measure(root)
            print(
                f"{report['files']} files: {seconds:.1f} s, {cpu:.1f} CPU-s, {report['files'] / seconds:.0f} files/s, "
                f"peak {peak:.0f} MiB with workers, ok={report['ok']}, {len(report['findings'])} findings"
            )


if __name__ == "__main__":
    main()
