"""The k most similar places: exact, or by sign bits with exact rerank.

Vectors are centred and made unit length, so that similarity is the cosine of what differs from the mean. Bits are the
signs after a random rotation (sign flips, a permutation, orthogonal blocks of 64): the share of bits in which two
vectors differ estimates their angle (Charikar 2002, https://doi.org/10.1145/509907.509965). The nearest `candidates`
by bits are ranked again by their vectors; what recall that gives on your vectors is measured by `recall`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.core import UserError, numpy_generator

Floats = NDArray[np.float32]
SIDE = 64
CHUNK = 1 << 15


@dataclass(frozen=True, eq=False)
class Rotation:
    """A random rotation of D dimensions, padded to whole blocks, the same for the same D."""

    dims: int

    @property
    def bits(self) -> int:
        return -(-self.dims // SIDE) * SIDE

    def parts(self) -> tuple[NDArray[np.int64], Floats, Floats]:
        """Order of the dimensions, their signs, and the blocks (bits / 64, 64, 64)."""
        rng = numpy_generator(self.dims, "rotation")
        order = rng.permutation(self.bits)
        signs = rng.choice(np.array([-1.0, 1.0], dtype=np.float32), self.bits)
        blocks = np.stack([np.linalg.qr(rng.standard_normal((SIDE, SIDE)))[0] for _ in range(self.bits // SIDE)])
        return order, signs, blocks.astype(np.float32)


class Index:
    """Unit vectors about their mean (N, D) and the signs of their rotation as words (bits / 64, N)."""

    def __init__(self, vectors: Floats, mean: Floats, codes: NDArray[np.uint64]) -> None:
        self.vectors, self.mean, self.codes = vectors, mean, codes
        self.rotation = Rotation(vectors.shape[1])
        self._parts = self.rotation.parts()

    @classmethod
    def build(cls, vectors: Floats) -> Index:
        """Centre, normalise, rotate, take signs; chunk by chunk."""
        if vectors.ndim != 2 or len(vectors) < 1 or not np.isfinite(vectors[:: max(1, len(vectors) // 1000)]).all():
            raise UserError("an index needs finite vectors (N, D)", where="search")
        n, d = vectors.shape
        mean = _mean(vectors)
        unit = np.empty((n, d), dtype=np.float32)
        index = cls(unit, mean, np.empty((Rotation(d).bits // 64, n), dtype=np.uint64))
        for at in range(0, n, CHUNK):
            part = vectors[at : at + CHUNK] - mean
            part /= np.maximum(np.sqrt(np.einsum("nd,nd->n", part, part)), 1e-12)[:, None]
            unit[at : at + CHUNK] = part
            index.codes[:, at : at + CHUNK] = index.encode(part)
        return index

    def encode(self, unit: Floats) -> NDArray[np.uint64]:
        """Sign bits of unit vectors as words (bits / 64, N)."""
        order, signs, blocks = self._parts
        n, d = unit.shape
        wide = unit if d == len(order) else np.pad(unit, ((0, 0), (0, len(order) - d)))
        mixed = (wide[:, order] * signs).reshape(n, -1, SIDE)
        words = np.empty((len(blocks), n), dtype=np.uint64)
        for w, block in enumerate(blocks):
            bits = np.ascontiguousarray(mixed[:, w]) @ block > 0
            words[w] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
        return words

    def unit(self, vector: Floats) -> Floats:
        """A query as the index holds its vectors."""
        if vector.shape != self.mean.shape:
            raise UserError(f"the query has {vector.shape} dimensions, the index {self.mean.shape}", where="search")
        centred = vector.astype(np.float32) - self.mean
        return centred / max(float(np.linalg.norm(centred)), 1e-12)

    def exact(self, vector: Floats, k: int = 10) -> tuple[NDArray[np.int64], Floats]:
        """Rows and cosines of the k nearest, by looking at every vector."""
        return _best(self.vectors @ self.unit(vector), np.arange(len(self.vectors)), k)

    def near(self, vector: Floats, k: int = 10, candidates: int = 500) -> tuple[NDArray[np.int64], Floats]:
        """Rows and cosines of the k nearest among the `candidates` nearest by bits."""
        query = self.unit(vector)
        rows = self._candidates(self.encode(query[None])[:, 0], max(candidates, k))
        return _best(self.vectors[rows] @ query, rows, k)

    def _candidates(self, code: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
        n = self.codes.shape[1]
        if count >= n:
            return np.arange(n)
        wide = len(code) * 64 > 255
        distance = np.empty(n, dtype=np.uint16 if wide else np.uint8)
        for at in range(0, n, CHUNK):
            part = distance[at : at + CHUNK]
            part[:] = np.bitwise_count(self.codes[0, at : at + CHUNK] ^ code[0])
            for w in range(1, len(code)):
                part += np.bitwise_count(self.codes[w, at : at + CHUNK] ^ code[w])
        low, high = 0, len(code) * 64
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if np.count_nonzero(distance <= middle) >= count else (middle + 1, high)
        return np.flatnonzero(distance <= low)

    def recall(self, queries: Floats, k: int = 10, candidates: int = 500) -> float:
        """Share of the true k nearest that `near` finds, over these queries."""
        hits = [
            len(np.intersect1d(self.exact(q, k)[0], self.near(q, k, candidates)[0])) / min(k, len(self.vectors))
            for q in queries
        ]
        return float(np.mean(hits))

    def save(self, folder: Path) -> None:
        """Three plain arrays, the mean last: without it there is no index."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mean.npy").unlink(missing_ok=True)
        for name, array in (("vectors", self.vectors), ("codes", self.codes), ("mean", self.mean)):
            np.save(folder / f"{name}.npy", array)

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Vectors stay on disk until they are looked at."""
        return cls(
            np.load(folder / "vectors.npy", mmap_mode="r"),
            np.load(folder / "mean.npy"),
            np.load(folder / "codes.npy"),
        )


def _mean(vectors: Floats) -> Floats:
    total = np.zeros(vectors.shape[1])
    for at in range(0, len(vectors), CHUNK):
        total += vectors[at : at + CHUNK].sum(0, dtype=np.float64)
    return (total / len(vectors)).astype(np.float32)


def _best(scores: Floats, rows: NDArray[np.int64], k: int) -> tuple[NDArray[np.int64], Floats]:
    k = min(k, len(scores))
    top = np.argpartition(-scores, k - 1)[:k] if k < len(scores) else np.arange(len(scores))
    top = top[np.lexsort((rows[top], -scores[top]))]
    return rows[top], scores[top]


def open_index(file: Path) -> tuple[Index, dict[str, Any]]:
    """The index of an embedding file, kept beside it and built again when the file is another one; and its columns."""
    import json

    from swath.deploy.embed_files import read_vectors

    stat = file.stat() if file.is_file() else None
    if stat is None:
        raise UserError("there is no such file of embeddings", where=str(file), remedy="make one with swath embed")
    folder = file.with_suffix(".index")
    mark = json.dumps([stat.st_size, stat.st_mtime_ns])
    vectors, columns, _ = read_vectors(file)
    if (folder / "mean.npy").is_file() and (folder / "of.json").is_file() and (folder / "of.json").read_text() == mark:
        return Index.load(folder), columns
    index = Index.build(vectors)
    index.save(folder)
    (folder / "of.json").write_text(mark)
    return index, columns


def similar(
    file: Path, place: tuple[float, float] | int | Path, k: int = 10, *, exact: bool = False, candidates: int = 500
) -> list[dict[str, Any]]:
    """The k places most like a longitude and latitude, a key, or the mean of what polygons of a file meet."""
    import shapely

    index, columns = open_index(file)
    shapes = shapely.from_wkb(columns["geometry"])
    if isinstance(place, int):
        found, what = np.flatnonzero(columns["key"] == place), f"key {place}"
    elif isinstance(place, Path):
        found, what = np.flatnonzero(shapely.intersects(shapes, _union(place))), str(place)
    else:
        found, what = np.flatnonzero(shapely.intersects(shapes, shapely.Point(*place)))[:1], f"{place[0]}, {place[1]}"
    if not len(found):
        raise UserError(f"nothing was embedded at {what}", where=str(file))
    query = np.asarray(index.vectors[found]).mean(0) + index.mean
    rows, scores = index.exact(query, k) if exact else index.near(query, k, candidates)
    middle = shapely.get_coordinates(shapely.centroid(shapes[rows]))
    return [
        {
            "rank": i + 1,
            "similarity": round(float(s), 4),
            "key": int(columns["key"][r]),
            "lon": round(float(x), 6),
            "lat": round(float(y), 6),
        }
        for i, (r, s, (x, y)) in enumerate(zip(rows, scores, middle, strict=True))
    ]


def _union(file: Path) -> Any:
    import geopandas

    try:
        frame = geopandas.read_parquet(file) if file.suffix == ".parquet" else geopandas.read_file(file)
        return frame.to_crs("OGC:CRS84").union_all()
    except Exception as why:
        raise UserError(f"the polygons cannot be read: {why}", where=str(file)) from why


def place_from(point: str, key: int | None, polygon: Path | None) -> tuple[float, float] | int | Path:
    """The one place that was asked for."""
    given = [v for v in (point or None, key, polygon) if v is not None]
    if len(given) != 1:
        raise UserError(
            f"{len(given)} places were given", where="embed search", remedy="one of --point, --key, --polygon"
        )
    if not isinstance(given[0], str):
        return given[0]
    try:
        lon, lat = (float(v) for v in given[0].split(","))
    except ValueError as why:
        raise UserError(
            f"'{point}' is no place", where="--point", remedy="write longitude,latitude: 11.25,48.5"
        ) from why
    return lon, lat
