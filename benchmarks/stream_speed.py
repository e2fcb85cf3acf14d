"""Packed stream against what people have, on the same chips in one run: random single chips, page cache warm.

    python benchmarks/stream_speed.py --chips 400 --workers 2

Chips are 12 bands x 256^2 uint16 from the simulated ground below (relief, fields, texture, noise; bands of 20 and
60 m resampled to 10 m as delivered). `--raster FILE` cuts them from a real raster instead. A chunk's checksum is taken
at a process's first read of it (before the timed rounds); `verified` takes it every time. Every number is a median over
`--rounds` rounds in which the readers take turns, each with `--workers` processes.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

BANDS, SIDE = 12, 256
COARSE = {0: 6, 4: 2, 5: 2, 6: 2, 8: 2, 9: 6, 10: 2, 11: 2}  # bands of 60 m and 20 m, resampled to 10 m (nearest)


def ground(seed):
    """One chip: large-scale relief, fields with their own spectra, texture and noise like a 10 m optical sensor's."""
    from scipy.ndimage import gaussian_filter, zoom

    rng = np.random.default_rng(seed)
    relief = zoom(rng.normal(size=(9, 9)), SIDE / 9 + 0.2, order=3)[:SIDE, :SIDE]
    fields = rng.integers(0, 40, (16, 16)).repeat(16, 0).repeat(16, 1)
    spectra = rng.normal(0, 1, (40, BANDS)).cumsum(1) * 180 + np.linspace(500, 2200, BANDS)
    texture = gaussian_filter(rng.normal(size=(SIDE, SIDE)), 1.5)
    x = spectra[fields].transpose(2, 0, 1) + 180 * relief + 220 * texture
    x = (x + rng.normal(0, 8, (BANDS, SIDE, SIDE)) + 1000).clip(1, 20000).astype(np.uint16)
    for band, step in COARSE.items():
        x[band] = x[band, ::step, ::step].repeat(step, 0).repeat(step, 1)[:SIDE, :SIDE]
    return x


def from_raster(path, seed):
    import rasterio

    with rasterio.open(path) as src:
        x = src.read()
    rng = np.random.default_rng(seed)
    x = np.pad(x, ((0, 0), (0, max(0, SIDE - x.shape[1])), (0, max(0, SIDE - x.shape[2]))), mode="reflect")
    r, c = rng.integers(0, x.shape[1] - SIDE + 1), rng.integers(0, x.shape[2] - SIDE + 1)
    chip = x[np.arange(BANDS) % len(x), r : r + SIDE, c : c + SIDE].astype(np.uint16)
    return np.ascontiguousarray(np.rot90(chip, rng.integers(4), (1, 2)))


class Chips:
    """The chips as a source of layers, so that they are packed as any source is."""

    name, licence, labels = "chips", "CC0-1.0", {}

    def __init__(self, file, n):
        from swath.core import SENSORS

        self.file, self.n, self.sensors = file, n, (SENSORS.get("sentinel2-l2a"),)
        self.fingerprint = f"chips-{n}"

    def __len__(self):
        return self.n

    def splits(self):
        return {}

    def sample(self, index, bands=None):
        from swath.core import Batch, Layer, Where
        from swath.data.streams.codec import widen

        raw = np.load(self.file, mmap_mode="r")[index]
        sensor = self.sensors[0]
        x = np.stack([widen(raw[i], b.scale, b.offset) for i, b in enumerate(sensor.bands)])
        where = Where(torch.tensor([index]), torch.zeros(1, 2, dtype=torch.float64))
        return Batch({sensor.id: Layer.of(sensor, torch.from_numpy(x)[None, None])}, where)


def write_all(root, chips):
    """The same chips in every format."""
    import rasterio

    np.save(root / "chips.npy", np.stack(chips))
    with open(root / "raw.bin", "wb") as out:
        for x in chips:
            out.write(x.tobytes())
    from swath.data.streams import PackConfig, pack

    for codec in ("lz4hc", "zstd", "none"):
        pack(Chips(root / "chips.npy", len(chips)), root / f"pack-{codec}", PackConfig(codec=codec, per_shard=128))
    formats = {"tif-strip": {"interleave": "pixel"}, "tif-band": {"interleave": "band", "predictor": 2}}
    for name, options in formats.items():
        (root / name).mkdir()
        for i, x in enumerate(chips):
            with rasterio.open(
                root / name / f"{i}.tif", "w", driver="GTiff", height=SIDE, width=SIDE, count=BANDS, dtype="uint16",
                compress="deflate", **options,
            ) as out:  # fmt: skip
                out.write(x)
    try:
        import litdata
    except ImportError:
        return
    litdata.optimize(
        fn=as_tensor, inputs=[(str(root / "chips.npy"), i) for i in range(len(chips))], output_dir=str(root / "lit"),
        chunk_bytes="64MB", num_workers=1, verbose=False,
    )  # fmt: skip


def as_tensor(job):
    return torch.from_numpy(
        np.load(job[0], mmap_mode="r")[job[1]].astype(np.int32).astype(np.uint16).view(np.int16).copy()
    )


def reader(name, root, bands):
    """A function index -> array for one format; `bands` are positions, None for all."""
    if name == "pread":
        handle, size = os.open(root / "raw.bin", os.O_RDONLY), BANDS * SIDE * SIDE * 2
        return lambda i: np.frombuffer(os.pread(handle, size, i * size), np.uint16)
    if name == "copy":
        table = np.load(root / "chips.npy", mmap_mode="r")
        return lambda i: np.array(table[i])
    if name.startswith("pack"):
        from swath.data.streams import PackedSource

        _, codec, *rest = name.split("-")
        source = PackedSource(str(root / f"pack-{codec}"), verify="always" if "verified" in rest else "once")
        sensor = source.sensors[0]
        chosen = None if bands is None else {sensor.id: [sensor.names[b] for b in bands]}
        if "physical" in rest:
            return lambda i: source.sample(i, chosen).layers[sensor.id].x.numpy()
        return lambda i: source.raw(i, chosen).arrays[sensor.id, "bands"]
    if name.startswith("tif"):
        import rasterio

        numbers = None if bands is None else [b + 1 for b in bands]

        def read(i):
            with rasterio.open(root / name / f"{i}.tif") as src:
                return src.read(numbers)

        return read
    import litdata

    data = litdata.StreamingDataset(str(root / "lit"), shuffle=False)
    # LitData gives a view of its mapped chunk: the copy makes it deliver the chip, as the others do.
    return lambda i: data[i].clone() if bands is None else data[i][list(bands)]


def weight(place, bands):
    """Share of a pack's bytes that some bands hold (chunk 0 of a sample is its head)."""
    lengths = np.load(place / "chunks.npy")["length"].reshape(-1, 1 + BANDS)
    return lengths[:, [1 + b for b in bands]].sum() / lengths.sum()


_OPEN = {}


def work(job):
    """Chips a second of one process, and its CPU seconds a chip. A reader is opened once and first reads every chip."""
    name, root, order, n, bands, gate = job
    if (name, bands) not in _OPEN:
        _OPEN[name, bands] = reader(name, Path(root), bands)
        for i in range(n):
            _OPEN[name, bands](i)
        return 0.0, 0.0
    read = _OPEN[name, bands]
    while time.time() < gate:
        time.sleep(0.001)
    start, cpu = time.perf_counter(), time.process_time()
    for i in order:
        read(int(i))
    return len(order) / (time.perf_counter() - start), (time.process_time() - cpu) / len(order)


def measure(pool, job, workers, seed, reads):
    name, root, n, bands = job
    orders = [np.random.default_rng([seed, w]).integers(0, n, reads) for w in range(workers)]
    gate = time.time() + 0.3
    found = pool.map(work, [(name, str(root), o, n, bands, gate) for o in orders], chunksize=1)
    return sum(r for r, _ in found), sum(c for _, c in found) / workers


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--chips", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reads", type=int, default=300)
    parser.add_argument("--raster", default="")
    options = parser.parse_args()
    os.environ["GDAL_DISABLE_READDIR_ON_OPEN"] = "EMPTY_DIR"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_all(root, [from_raster(options.raster, i) if options.raster else ground(i) for i in range(options.chips)])
        raw = options.chips * BANDS * SIDE * SIDE * 2
        three = (1, 2, 3)
        names = ["pread", "copy", "pack-lz4hc", "pack-lz4hc-verified", "pack-lz4hc-physical", "pack-zstd", "pack-none"]
        names += ["tif-strip", "tif-band"]
        names += ["litdata"] if (root / "lit").is_dir() else []
        some = ["pack-lz4hc", "pack-lz4hc-physical", "pack-zstd", "pack-none", "tif-strip", "tif-band"]
        rates = {(n, b): [] for n, b in [*((n, None) for n in names), *((n, three) for n in some)]}
        with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
            for turn in range(options.rounds + 1):
                for (name, bands), seen in rates.items():
                    reads = options.reads // 6 if name.startswith("tif") else options.reads
                    found = measure(pool, (name, root, options.chips, bands), options.workers, turn, reads)
                    if turn:  # the first round opens, warms the page cache and takes the checksums
                        seen.append(found)
        middle = {k: statistics.median(r for r, _ in v) for k, v in rates.items()}
        cpu = {k: statistics.median(c for _, c in v) for k, v in rates.items()}
        spread = {k: (max(v)[0] - min(v)[0]) / middle[k] for k, v in rates.items()}
        base, copy = middle["pread", None], middle["copy", None]
        places = {"pread": "raw.bin", "copy": "raw.bin", "litdata": "lit"}
        print(f"{options.chips} chips of {BANDS} x {SIDE}^2 uint16, {options.workers} workers, {options.rounds} rounds")
        print(f"load {os.getloadavg()[0]:.1f} at the end; CPU is a process's own time, so steadier on a shared machine")
        head = ("reader", "chips/s", "x pread", "x copy", "disk", "3/12 cost", "spread", "CPU us", "CPU 3/12")
        print(f"{head[0]:<22}" + "".join(f"{h:>10}" for h in head[1:]))
        for name in names:
            place = root / places.get(name, "-".join(name.split("-")[:2]))
            files = [place] if place.is_file() else [p for p in place.rglob("*") if p.is_file()]
            disk = sum(p.stat().st_size for p in files) / raw
            rate = middle[name, None]
            both = (name, three) in middle
            cost = f"{rate / middle[name, three]:.2f}" if both else ""
            own = f"{cpu[name, three] / cpu[name, None]:.2f}" if both else ""
            row = (f"{rate:.0f}", f"{rate / base:.2f}", f"{rate / copy:.2f}", f"{disk:.2f}", cost,
                   f"{spread[name, None]:.0%}", f"{cpu[name, None] * 1e6:.0f}", own)  # fmt: skip
            print(f"{name:<22}" + "".join(f"{v:>10}" for v in row))
        print(f"bands 2-4 are {weight(root / 'pack-lz4hc', three):.2f} of the packed bytes")
        pack = middle["pack-lz4hc", None]
        print(f"pack / tif-strip {pack / middle['tif-strip', None]:.1f}", end="")
        if ("litdata", None) in middle:
            print(f", pack / litdata {pack / middle['litdata', None]:.2f}", end="")
        print(f", pack / pread {pack / base:.2f}, 3 of 12 bands {pack / middle['pack-lz4hc', three]:.2f}")
        ours = cpu["pack-lz4hc", None]
        told = {n: cpu[n, None] / ours for n in ("tif-strip", "litdata", "pread") if (n, None) in cpu}
        print("by CPU time, times the pack's: " + ", ".join(f"{k} {v:.2f}" for k, v in told.items()))
        shutil.rmtree(root / "lit", ignore_errors=True)


if __name__ == "__main__":
    main()
