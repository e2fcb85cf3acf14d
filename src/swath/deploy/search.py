"""The k most similar places: exact, or by sign bits with exact rerank.

Similarity is the cosine of what differs from the mean of all vectors. Bits are the signs of the centred vectors along
random orthonormal directions: the share of bits in which two vectors differ estimates their angle (Charikar 2002,
https://doi.org/10.1145/509907.509965). The nearest `candidates` by bits are ranked again by their vectors; what recall
that gives on your vectors is measured by `recall`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.core import UserError, numpy_generator

Floats = NDArray[np.float32]
CHUNK = 1 << 14
MOST_BITS = 512
CANDIDATES = 2000


def rotation(dims: int) -> Floats:
    """Random orthonormal directions (D, bits), the same for the same D; 64 to 512 bits, as many as dimensions."""
    bits = min(MOST_BITS, -(-dims // 64) * 64)
    side = max(dims, bits)
    square = np.linalg.qr(numpy_generator(dims, "rotation").standard_normal((side, side)))[0]
    return square[:dims, :bits].astype(np.float32)


class Index:
    """Vectors (N, D), their mean, their lengths about it, and the signs of their rotation as words (bits / 64, N)."""

    def __init__(self, vectors: Floats, mean: Floats, lengths: Floats, codes: NDArray[np.uint64]) -> None:
        self.vectors, self.mean, self.lengths, self.codes = vectors, mean, lengths, codes
        self.rotation = rotation(vectors.shape[1])

    @classmethod
    def build(cls, vectors: Floats) -> Index:
        """Mean, lengths and signs, chunk by chunk; the vectors stay as they are."""
        if vectors.ndim != 2 or len(vectors) < 1:
            raise UserError(f"an index needs vectors (N, D), not {vectors.shape}", where="search")
        n, d = vectors.shape
        ones = np.ones(CHUNK, dtype=np.float32)
        total = np.zeros(d)
        for at in range(0, n, CHUNK):
            part = vectors[at : at + CHUNK]
            total += ones[: len(part)] @ part
        mean = (total / n).astype(np.float32)
        if not np.isfinite(mean).all():
            raise UserError("the vectors are not all finite", where="search")
        index = cls(vectors, mean, np.empty(n, dtype=np.float32), np.empty((0, 0), dtype=np.uint64))
        index.codes = np.empty((index.rotation.shape[1] // 64, n), dtype=np.uint64)
        for at in range(0, n, CHUNK):
            centred = vectors[at : at + CHUNK] - mean
            index.lengths[at : at + CHUNK] = np.sqrt(np.maximum(np.einsum("nd,nd->n", centred, centred), 1e-24))
            index.codes[:, at : at + CHUNK] = index.encode(centred)
        return index

    def encode(self, centred: Floats) -> NDArray[np.uint64]:
        """Sign bits of centred vectors as words (bits / 64, N)."""
        return np.ascontiguousarray(np.packbits(centred @ self.rotation > 0, axis=1).view(np.uint64).T)

    def unit(self, vector: Floats) -> Floats:
        """A query, centred and of unit length."""
        if vector.shape != self.mean.shape:
            raise UserError(f"the query has {vector.shape} dimensions, the index {self.mean.shape}", where="search")
        centred = vector.astype(np.float32) - self.mean
        return centred / np.float32(max(float(np.linalg.norm(centred)), 1e-12))

    def exact(self, vector: Floats, k: int = 10) -> tuple[NDArray[np.int64], Floats]:
        """Rows and cosines of the k nearest, by looking at every vector."""
        return self._best(self.unit(vector), np.arange(len(self.vectors)), k, self.vectors)

    def near(self, vector: Floats, k: int = 10, candidates: int = CANDIDATES) -> tuple[NDArray[np.int64], Floats]:
        """Rows and cosines of the k nearest among the `candidates` nearest by bits."""
        query = self.unit(vector)
        rows = self._candidates(self.encode(query[None])[:, 0], max(candidates, k))
        return self._best(query, rows, k, self.vectors[rows])

    def _best(
        self, query: Floats, rows: NDArray[np.int64], k: int, vectors: Floats
    ) -> tuple[NDArray[np.int64], Floats]:
        scores: Floats = ((vectors @ query - self.mean @ query) / self.lengths[rows]).astype(np.float32)
        k = min(k, len(scores))
        top = np.argpartition(-scores, k - 1)[:k] if k < len(scores) else np.arange(len(scores))
        top = top[np.lexsort((rows[top], -scores[top]))]
        return rows[top], scores[top]

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

    def recall(self, queries: Floats, k: int = 10, candidates: int = CANDIDATES) -> float:
        """Share of the true k nearest that `near` finds, over these queries."""
        hits = [
            len(np.intersect1d(self.exact(q, k)[0], self.near(q, k, candidates)[0])) / min(k, len(self.vectors))
            for q in queries
        ]
        return float(np.mean(hits))

    def save(self, folder: Path) -> None:
        """Four plain arrays, the mean last: without it there is no index."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mean.npy").unlink(missing_ok=True)
        for name, array in (
            ("vectors", self.vectors),
            ("lengths", self.lengths),
            ("codes", self.codes),
            ("mean", self.mean),
        ):
            np.save(folder / f"{name}.npy", array)

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Vectors stay on disk until they are looked at."""
        return cls(
            np.load(folder / "vectors.npy", mmap_mode="r"),
            np.load(folder / "mean.npy"),
            np.load(folder / "lengths.npy"),
            np.load(folder / "codes.npy"),
        )


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
    file: Path,
    place: tuple[float, float] | int | Path,
    k: int = 10,
    *,
    exact: bool = False,
    candidates: int = CANDIDATES,
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
    query = np.asarray(index.vectors[found]).mean(0)
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
