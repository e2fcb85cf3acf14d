"""Write any source as shards of chunks. A shard is finished or absent, so a killed pack goes on where it stopped."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from swath.core.contracts import Source
from swath.core.errors import SwathError, UserError
from swath.data.streams.codec import CODECS, crc, squeeze
from swath.data.streams.form import sensor_plain, take_apart

FORMAT = "swath-pack-1"
CHUNK = np.dtype([("offset", "<u8"), ("length", "<u4"), ("crc", "<u4")])
SAMPLE = np.dtype([("key", "<i8"), ("lon", "<f8"), ("lat", "<f8"), ("first", "<u8"), ("chunks", "<u4"),
                   ("shard", "<u4"), ("form", "<u4"), ("split", "<i4")])  # fmt: skip
SHARD_BYTES = 256 << 20


@dataclass(frozen=True)
class PackConfig:
    """`codec`: lz4hc (fast to read), zstd (a tenth smaller), lz4 (fast to write), none. `per_shard` samples a
    shard (0: as many as give about 256 MiB raw). `workers` processes write shards side by side."""

    codec: str = "lz4hc"
    per_shard: int = 0
    workers: int = 1


def pack(
    source: Source,
    out: str | Path,
    config: PackConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the source into the folder `out`; running it again finishes what a killed run has left."""
    config = config or PackConfig()
    if config.codec not in (*CODECS, "none"):
        raise UserError(f"unknown codec '{config.codec}'", remedy=f"known: {', '.join(CODECS)}, none")
    if not len(source):
        raise UserError("there is nothing to pack: the source has no sample", where=source.name)
    root = Path(out)
    root.mkdir(parents=True, exist_ok=True)
    per_shard = config.per_shard or max(1, SHARD_BYTES // max(1, _weight(source)))
    plan = {
        "format": FORMAT, "fingerprint": source.fingerprint, "samples": len(source), "codec": config.codec,
        "per_shard": per_shard,
    }  # fmt: skip
    _agree(root, plan)
    if (root / "pack.json").is_file():
        return root
    shards = -(-len(source) // per_shard)
    missing = [k for k in range(shards) if not _done(root, k)]
    jobs = [(k, list(range(k * per_shard, min(len(source), (k + 1) * per_shard)))) for k in missing]
    finished = shards - len(missing)
    for done, _ in enumerate(_run(source, root, config, jobs), finished + 1):
        if progress is not None:
            progress(min(len(source), done * per_shard), len(source))
    _finish(source, root, plan, shards)
    return root


def _weight(source: Source) -> int:
    one = source.sample(0)
    return sum(v.x.numel() * 2 + v.valid.numel() for v in one.layers.values())


def _agree(root: Path, plan: dict[str, Any]) -> None:
    """The plan of an earlier run in this folder must be this one."""
    file = root / "plan.json"
    if file.is_file():
        old = json.loads(file.read_text(encoding="utf-8"))
        different = [k for k in plan if old.get(k) != plan[k]]
        if different:
            raise UserError(
                f"another pack lies here: its {', '.join(different)} differ", where=str(root),
                remedy="choose another folder, or remove this one",
            )  # fmt: skip
        return
    if any(root.glob("shard-*")):
        raise UserError("there are shards without a plan here", where=str(root), remedy="choose an empty folder")
    _write(file, json.dumps(plan).encode())


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    os.replace(part, path)


def _names(k: int) -> tuple[str, str]:
    return f"shard-{k:05d}.bin", f"shard-{k:05d}.npz"


def _done(root: Path, k: int) -> bool:
    return all((root / n).is_file() for n in _names(k)) or (root / "pack.json").is_file()


def _run(source: Source, root: Path, config: PackConfig, jobs: list[tuple[int, list[int]]]) -> Any:
    if config.workers <= 1 or len(jobs) <= 1:
        for k, rows in jobs:
            yield write_shard(source, root, config.codec, k, rows)
        return
    frozen = pickle.dumps(source)
    with ProcessPoolExecutor(config.workers, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(_remote, frozen, root, config.codec, k, rows) for k, rows in jobs]
        for future in as_completed(running):
            yield future.result()


_held: list[tuple[bytes, Source]] = []


def _remote(frozen: bytes, root: Path, codec: str, k: int, rows: list[int]) -> int:
    import torch

    torch.set_num_threads(1)
    if not _held or _held[0][0] != frozen:
        _held[:] = [(frozen, pickle.loads(frozen))]
    return write_shard(_held[0][1], root, codec, k, rows)


def write_shard(source: Source, root: Path, codec: str, k: int, rows: Sequence[int]) -> int:
    """One shard: chunks of samples one after the other; its index is renamed into place before the shard is."""
    binary, index = _names(k)
    sensors = {s.id: s for s in source.sensors}
    samples = np.zeros(len(rows), SAMPLE)
    chunks: list[tuple[int, int, int]] = []
    forms: dict[str, int] = {}
    at = 0
    with (root / (binary + ".part")).open("wb") as out:
        for row, i in enumerate(rows):
            batch = source.sample(i)
            head, form, arrays = take_apart(batch, sensors)
            first = len(chunks)
            for data in (json.dumps(head, separators=(",", ":")).encode(), *(squeeze(a, codec) for a in arrays)):
                out.write(data)
                chunks.append((at, len(data), crc(data)))
                at += len(data)
            lon, lat = (float(v) for v in batch.where.lonlat[0])
            number = forms.setdefault(form.text(), len(forms))
            samples[row] = (int(batch.where.key[0]), lon, lat, first, len(chunks) - first, k, number, -1)
        out.flush()
        os.fsync(out.fileno())
    with (root / (index + ".part")).open("wb") as out:
        np.savez(out, samples=samples, chunks=np.array(chunks, CHUNK), forms=np.array(list(forms)))
    os.replace(root / (index + ".part"), root / index)
    os.replace(root / (binary + ".part"), root / binary)
    return k


def _finish(source: Source, root: Path, plan: dict[str, Any], shards: int) -> None:
    samples: list[Any] = []
    chunks: list[Any] = []
    forms: dict[str, int] = {}
    first = 0
    for k in range(shards):
        with np.load(root / _names(k)[1], allow_pickle=False) as part:
            rows, own = part["samples"], [forms.setdefault(str(t), len(forms)) for t in part["forms"]]
            rows["first"] += first
            rows["form"] = np.array(own, np.uint32)[rows["form"]]
            samples.append(rows)
            chunks.append(part["chunks"])
            first += len(part["chunks"])
    table, every = np.concatenate(samples), np.concatenate(chunks)
    names = list(source.splits())
    for code, rows in enumerate(source.splits().values()):
        table["split"][list(rows)] = code
    for name, array in (("samples.npy", table), ("chunks.npy", every)):
        with (root / (name + ".part")).open("wb") as out:
            np.save(out, array)
        os.replace(root / (name + ".part"), root / name)
    sizes = [(root / _names(k)[0]).stat().st_size for k in range(shards)]
    ends = [int(c["offset"][-1] + c["length"][-1]) for c in chunks]
    if sizes != ends:
        raise SwathError("a shard is not as long as its index says", where=str(root), remedy="remove it and pack again")
    manifest = {
        **plan, "name": source.name, "licence": source.licence, "splits": names, "shards": sizes, "forms": list(forms),
        "sensors": [sensor_plain(s) for s in source.sensors],
        "labels": {k: asdict(v) for k, v in source.labels.items()},
    }  # fmt: skip
    _write(root / "pack.json", json.dumps(manifest).encode())
    for k in range(shards):
        (root / _names(k)[1]).unlink()
