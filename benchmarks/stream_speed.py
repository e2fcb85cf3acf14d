"""Packed stream against what people have, on the same chips in one run: random access, page cache warm, two workers.

    python benchmarks/stream_speed.py --chips 400 --workers 2

Chips are 12 bands x 256^2 uint16 from the simulated ground below (relief, fields, texture, noise; bands of 20 and
60 m resampled to 10 m as delivered). `--raster FILE` cuts them from a real raster instead. Two tables:

- delivered: what the training process gets, batches of 32 chips in float32 reflectance. `x in the same slots` gives a
  competitor our own way between processes too, so that only its reading differs; plain names use torch's DataLoader.
- read: stored arrays of one chip in the reader's own process. A chunk's checksum is taken at a process's first read of
  it (before the timed rounds); `verified` takes it every time.

Every number is a median over `--rounds` rounds in which the readers take turns.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

BANDS, SIDE, BATCH = 12, 256, 32
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


def turned(make, i):
    """Chip i: one of the eight orientations of ground i div 8."""
    x = np.rot90(make(i // 8), i % 4, (1, 2))
    return np.ascontiguousarray(x[:, ::-1] if i % 8 > 3 else x)


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


def chips_of(options):
    from functools import lru_cache

    make = lru_cache(2)(ground)
    return [from_raster(options.raster, i) if options.raster else turned(make, i) for i in range(options.chips)]


class OneByOne(torch.utils.data.Dataset):
    """A reader for torch's DataLoader: a chip in float32 reflectance, as its users write it."""

    def __init__(self, name, root, bands):
        self.job, self.read, self.bands = (name, Path(root), bands), None, bands

    def __getitem__(self, i):
        if self.read is None:
            self.read = reader(*self.job)
        x = torch.as_tensor(np.asarray(self.read(int(i))).astype(np.float32)).view(-1, SIDE, SIDE)
        return x.mul_(1e-4).sub_(0.1)


class InSlots:
    """A reader for our own transport: chips widened straight into the slot."""

    def __init__(self, name, root, bands):
        self.job, self.read, self.bands = (name, Path(root), bands), None, bands

    def __call__(self, job, take):
        from swath.data.streams.codec import widen

        if self.read is None:
            self.read = reader(*self.job)
        out = take((len(job), BANDS if self.bands is None else len(self.bands), SIDE, SIDE), np.float32)
        for k, i in enumerate(job):
            chip = np.asarray(self.read(int(i))).view(np.uint16).reshape(-1, SIDE, SIDE)
            for b, band in enumerate(chip):
                widen(band, 1e-4, -0.1, out[k, b])
        return torch.from_numpy(out)


def orders(n):
    rng = np.random.default_rng(0)
    while True:
        yield rng.integers(0, n, BATCH).tolist()


def delivery(name, root, bands, options):
    """Endless batches in this process, read by the workers."""
    name, _, slots = name.partition(" in the same ")
    if name.startswith("pack"):
        from swath.data.streams import PackedSource, Stream
        from swath.data.streams.order import StreamConfig

        source = PackedSource(str(root / name))
        chosen = None if bands is None else {source.sensors[0].id: [source.sensors[0].names[b] for b in bands]}
        for batch in Stream([source], StreamConfig(BATCH, workers=options.workers), bands=chosen):
            yield batch.layers[source.sensors[0].id].x
    elif slots:
        from swath.data.streams.ahead import ahead

        yield from ahead(InSlots(name, root, bands), orders(options.chips), options.workers)
    else:
        yield from torch.utils.data.DataLoader(
            OneByOne(name, root, bands), batch_sampler=orders(options.chips), num_workers=options.workers,
            multiprocessing_context="spawn",
        )  # fmt: skip


def delivered(root, options):
    """Chips a second that arrive, per reader and bands: the readers take turns, each first emptied of what it read
    ahead while it waited."""
    names = ["pack-lz4hc", "pack-none", "pread", "pread in the same slots", "tif-strip", "tif-band"]
    if (root / "lit").is_dir():
        names[4:4] = ["litdata", "litdata in the same slots"]
    three = [("pack-lz4hc", (1, 2, 3)), ("pack-none", (1, 2, 3))]
    jobs = [*((n, None) for n in names), *three]
    lines = {job: delivery(job[0], root, job[1], options) for job in jobs}
    rates = {job: [] for job in jobs}
    for turn in range(options.rounds + 1):
        for job, line in lines.items():
            slow = job[0].startswith("tif")
            for _ in range(1 + 2 * options.workers):
                next(line)
            start, count = time.perf_counter(), 5 if slow else options.batches
            for _ in range(count):
                next(line)
            if turn:
                rates[job].append(count * BATCH / (time.perf_counter() - start))
    for line in lines.values():
        line.close()
    middle = {job: statistics.median(r) for job, r in rates.items()}
    print(f"delivered: batches of {BATCH} in float32 reflectance, {options.workers} workers, {options.rounds} rounds")
    head = ("chips/s", "of pack-lz4hc", "spread", "3/12 cost")
    print(f"{'reader':<28}" + "".join(f"{h:>15}" for h in head))
    for name in names:
        rate = middle[name, None]
        spread = (max(rates[name, None]) - min(rates[name, None])) / rate
        cost = f"{rate / middle[name, three[0][1]]:.2f}" if (name, three[0][1]) in middle else ""
        row = (f"{rate:.0f}", f"{rate / middle['pack-lz4hc', None]:.2f}", f"{spread:.0%}", cost)
        print(f"{name:<28}" + "".join(f"{v:>15}" for v in row))
    ours = middle["pack-lz4hc", None]
    told = [f"{n} {ours / middle[n, None]:.2f}" for n in names[2:]]
    print("the pack delivers, times " + ", ".join(told), flush=True)


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
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--raster", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["PYTHONWARNINGS"] = "ignore"
    warnings.simplefilter("ignore")
    os.environ["GDAL_DISABLE_READDIR_ON_OPEN"] = "EMPTY_DIR"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_all(root, chips_of(options))
        delivered(root, options)
        read_alone(root, options)


def read_alone(root, options):
    """Stored arrays, one chip at a time, in the workers' own processes."""
    raw = options.chips * BANDS * SIDE * SIDE * 2
    three = (1, 2, 3)
    names = ["pread", "copy", "pack-lz4hc", "pack-lz4hc-verified", "pack-zstd", "pack-none", "tif-strip", "tif-band"]
    names += ["litdata"] if (root / "lit").is_dir() else []
    some = ["pack-lz4hc", "pack-zstd", "pack-none", "tif-strip", "tif-band"]
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
    print(f"read: {options.chips} chips of {BANDS} x {SIDE}^2 uint16 in the workers' own processes")
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
