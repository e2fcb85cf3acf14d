"""The k most similar places: exact, or by sign bits with exact rerank.

Similarity is the cosine of what differs from the mean of all vectors. Bits are signs along random orthonormal
directions of the centred vectors (Charikar 2002, https://doi.org/10.1145/509907.509965), after their principal
components are brought nearer to one size: real embeddings often vary along a few directions only, and their bits say
little otherwise. How far, and how many of the nearest by bits are ranked again by their vectors, is chosen while
building, on queries drawn from the rows, so that the true nearest are found with the recall asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from swath.core import UserError, numpy_generator
from swath.models.layers.products import linear

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
CHUNK = 1 << 14
ENOUGH = 1 << 20
"""Rows whose mean is near enough to that of all."""
ROWS = 1 << 11
"""Vectors that are worked on at once while building: as many as stay in the caches."""
MOST_BITS = 512
SAMPLE = 1 << 14
TRIALS = 32
NEIGHBOURS = 10
FLOORS = (1.0, 1e-2, 1e-3)
"""Principal variances below this share of the largest count as this share when they are brought to one size; 1: none
is changed."""
MARGIN = 1.25
MOST_HELD = 1 << 18
FAISS_FROM = 50_000


@dataclass(frozen=True)
class Tuned:
    """What building found: the floor, the candidates to rank again for ten neighbours, the recall on the trials."""

    floor: float
    candidates: int
    recall: float


@lru_cache(maxsize=4)
def rotation(dims: int) -> Floats:
    """Random orthonormal directions (D, bits), the same for the same D; 64 to 512 bits, as many as dimensions."""
    bits = min(MOST_BITS, -(-dims // 64) * 64)
    side = max(dims, bits)
    square = np.linalg.qr(numpy_generator(dims, "rotation").standard_normal((side, side)))[0]
    return square[:dims, :bits].astype(np.float32)


def directions(sample: Floats, floors: Sequence[float]) -> list[Floats]:
    """For each floor the directions (D, bits) whose signs are the bits, for unit vectors like these."""
    turn = rotation(sample.shape[1])
    size, axes = np.linalg.eigh((sample.T @ sample).astype(np.float64) / len(sample))
    out: list[Floats] = []
    for floor in floors:
        scale = 1 / np.sqrt(np.maximum(size, floor * max(float(size[-1]), 1e-12)))
        out.append(turn if floor >= 1 else ((axes * scale) @ turn).astype(np.float32))
    return out


def bits(x: Floats, along: Floats) -> NDArray[np.uint64]:
    """Signs of vectors (N, D) as words (N, bits / 64)."""
    return np.packbits(x @ along > 0, axis=1).view(np.uint64)


class Index:
    """Vectors (N, D), their mean, their lengths about it, and their bits as words (N, bits / 64)."""

    def __init__(
        self, vectors: Floats, mean: Floats, lengths: Floats, codes: NDArray[np.uint64], *, along: Floats, tuned: Tuned
    ) -> None:
        self.vectors, self.mean, self.lengths, self.codes = vectors, mean, lengths, codes
        self.along, self.tuned = along, tuned

    @classmethod
    def build(cls, vectors: Floats, recall: float = 0.985) -> Index:
        """Mean, lengths and bits, chunk by chunk; the vectors stay as they are."""
        if vectors.ndim != 2 or len(vectors) < 1:
            raise UserError(f"an index needs vectors (N, D), not {vectors.shape}", where="search")
        if not 0 < recall <= 1:
            raise UserError(f"a recall of {recall} cannot be reached", where="search", remedy="choose 0 to 1")
        mean = _middle(vectors)
        trials, sample = (_units(vectors, mean, count) for count in (TRIALS, SAMPLE))
        lengths, found = _truth(vectors, mean, trials, sample)
        near = (vectors[found.ravel()] - mean).reshape(*found.shape, -1)
        ways = directions(sample, FLOORS)
        needs = [_need(sample, trials, near, way, recall) for way in ways]
        floor, along = FLOORS[int(np.argmin(needs))], ways[int(np.argmin(needs))]
        index = cls(vectors, mean, lengths, _encode(vectors, mean, along), along=along, tuned=Tuned(floor, 0, 1.0))
        index.tuned = index._tune(trials, found, recall)
        return index

    def _tune(self, trials: Floats, found: Rows, recall: float) -> Tuned:
        """Candidates that hold the trials' true neighbours, with a margin for queries that were not tried."""
        n, k = len(self.codes), found.shape[1]
        codes = bits(trials, self.along)
        ranks = np.concatenate([_ranks(self._distances(code), rows) for code, rows in zip(codes, found, strict=True)])
        need = int(np.quantile(ranks, recall, method="higher"))
        count = min(n, max(40 * k, round(MARGIN * need)))
        return Tuned(self.tuned.floor, count, float((ranks <= count).mean()))

    def unit(self, vector: Floats) -> Floats:
        """A query, centred and of unit length."""
        if vector.shape != self.mean.shape:
            raise UserError(f"the query has {vector.shape} dimensions, the index {self.mean.shape}", where="search")
        centred = vector.astype(np.float32) - self.mean
        return centred / np.float32(max(float(np.linalg.norm(centred)), 1e-12))

    def exact(self, vector: Floats, k: int = 10) -> tuple[Rows, Floats]:
        """Rows and cosines of the k nearest, by looking at every vector."""
        return self._best(self.unit(vector), np.arange(len(self.vectors)), k, self.vectors)

    def near(self, vector: Floats, k: int = 10, candidates: int = 0) -> tuple[Rows, Floats]:
        """Rows and cosines of the k nearest among the `candidates` nearest by bits (0: as building found)."""
        query = self.unit(vector)
        count = candidates or round(self.tuned.candidates * max(1.0, k / NEIGHBOURS))
        rows = self._candidates(bits(query[None], self.along), max(count, k))
        return self._best(query, rows, k, self.vectors[rows])

    def _best(self, query: Floats, rows: Rows, k: int, vectors: Floats) -> tuple[Rows, Floats]:
        scores: Floats = ((vectors @ query - self.mean @ query) / self.lengths[rows]).astype(np.float32)
        k = min(k, len(scores))
        top = np.argpartition(-scores, k - 1)[:k] if k < len(scores) else np.arange(len(scores))
        top = top[np.lexsort((rows[top], -scores[top]))]
        return rows[top], scores[top]

    def _candidates(self, code: NDArray[np.uint64], count: int) -> Rows:
        """Rows, in order, of at least the `count` nearest by bits."""
        n = len(self.codes)
        if count >= n:
            return np.arange(n)
        if self._faiss is not None:
            return np.sort(self._faiss.search(code.view(np.uint8), count)[1][0])
        distance = self._distances(code[0])
        low, high = 0, self.along.shape[1]
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if np.count_nonzero(distance <= middle) >= count else (middle + 1, high)
        return np.flatnonzero(distance <= low)

    @cached_property
    def _faiss(self) -> Any:
        """Faiss scans bits two to three times faster; without it NumPy does. None where neither pays."""
        if len(self.codes) < FAISS_FROM:
            return None
        try:
            import faiss
        except ImportError:
            return None
        flat = faiss.IndexBinaryFlat(self.along.shape[1])
        flat.use_heap = False  # pyright: ignore[reportAttributeAccessIssue]
        flat.add(self.codes.view(np.uint8))
        return flat

    @cached_property
    def _words(self) -> NDArray[np.uint64]:
        """Bits word by word, as NumPy scans them fastest."""
        return np.ascontiguousarray(self.codes.T)

    def _distances(self, code: NDArray[np.uint64]) -> NDArray[Any]:
        words, n = self._words, len(self.codes)
        distance = np.empty(n, dtype=np.uint16 if len(code) * 64 > 256 else np.uint8)  # 256 wraps to 0: one row more
        differ, count = np.empty(CHUNK, np.uint64), np.empty(CHUNK, np.uint8)
        for at in range(0, n, CHUNK):
            part = distance[at : at + CHUNK]
            part[:] = 0
            for w in range(len(code)):
                a = np.bitwise_xor(words[w, at : at + CHUNK], code[w], out=differ[: len(part)])
                part += np.bitwise_count(a, out=count[: len(part)])
        return distance

    def recall(self, queries: Floats, k: int = 10, candidates: int = 0) -> float:
        """Share of the true k nearest that `near` finds, over these queries."""
        hits = [
            len(np.intersect1d(self.exact(q, k)[0], self.near(q, k, candidates)[0])) / min(k, len(self.vectors))
            for q in queries
        ]
        return float(np.mean(hits))

    def save(self, folder: Path) -> None:
        """Plain arrays and what was tuned, the latter last: without it there is no index."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tuned.json").unlink(missing_ok=True)
        for name in ("vectors", "lengths", "codes", "along", "mean"):
            np.save(folder / f"{name}.npy", getattr(self, name))
        (folder / "tuned.json").write_text(json.dumps(asdict(self.tuned)))

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Vectors stay on disk until they are looked at."""
        held = {n: np.load(folder / f"{n}.npy") for n in ("mean", "lengths", "codes", "along")}
        tuned = Tuned(**json.loads((folder / "tuned.json").read_text()))
        return cls(np.load(folder / "vectors.npy", mmap_mode="r"), **held, tuned=tuned)


def _units(vectors: Floats, mean: Floats, count: int) -> Floats:
    """Some rows, centred and of unit length."""
    n = len(vectors)
    rows = np.arange(n)
    if count < n:
        rows = np.sort(numpy_generator(n, "search", count).choice(n, count, replace=False))
    x = vectors[rows] - mean
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12).astype(np.float32)


def _middle(vectors: Floats) -> Floats:
    """The mean, of rows spread over all where they are very many: a thousandth of a deviation moves no sign."""
    some = vectors[:: max(1, len(vectors) // ENOUGH)]
    total = np.zeros(vectors.shape[1])
    ones = np.ones(CHUNK, dtype=np.float32)
    for at in range(0, len(some), CHUNK):
        part = some[at : at + CHUNK]
        total += ones[: len(part)] @ part
    return (total / len(some)).astype(np.float32)


def _best_of(scores: Floats, rows: Rows, trials: Rows, count: int, k: int) -> Rows:
    """Places in these lists of each trial's k best, best first (count, k); of equals the first row."""
    order = np.lexsort((rows, -scores, trials))
    first = np.searchsorted(trials[order], np.arange(count))
    return order[first[:, None] + np.arange(k)]


def _ranks(distance: NDArray[Any], rows: Rows) -> Rows:
    """How many rows are as near by bits as each of these."""
    return np.cumsum(np.bincount(distance))[distance[rows]]


def _truth(vectors: Floats, mean: Floats, trials: Floats, sample: Floats) -> tuple[Floats, Rows]:
    """Lengths of all rows about the mean, and the trials' true neighbours (trials, k); `sample`: some of all rows,
    whose k-th best bounds what has to be looked at."""
    n, count, k = len(vectors), len(trials), min(NEIGHBOURS, len(vectors))
    least = np.partition(sample @ trials.T, len(sample) - k, axis=0)[len(sample) - k] - np.float32(1e-3)
    every, asked, held = np.empty(n, np.float32), torch.from_numpy(trials), 0
    some: list[tuple[Floats, Rows, Rows]] = []
    for at, x in _centred(vectors, mean):
        lengths = x.norm(dim=1).clamp_min_(1e-12)
        every[at : at + len(x)] = lengths.numpy()
        scores = (linear(x, asked) / lengths[:, None]).numpy()
        hits = np.flatnonzero(scores > least)
        some.append((scores.ravel()[hits], at + hits // count, hits % count))
        held += len(hits)
        if held > MOST_HELD:  # far more than the sample let expect: equal vectors, for one
            parts = [np.concatenate(p) for p in zip(*some, strict=True)]
            if (np.bincount(parts[2], minlength=count) >= k).all():
                best = _best_of(*parts, count, k)
                some = [(parts[0][best].ravel(), parts[1][best].ravel(), parts[2][best].ravel())]
                least, held = np.maximum(least, parts[0][best[:, -1]]), best.size
    if not np.isfinite(every).all():
        raise UserError("the vectors are not all finite", where="search")
    scores, rows, who = (np.concatenate(p) for p in zip(*some, strict=True))
    return every, rows[_best_of(scores, rows, who, count, k)]


def _centred(vectors: Floats, mean: Floats) -> Iterator[tuple[int, torch.Tensor]]:
    """Rows about the mean, as many at once as stay in the caches, each time in the same place."""
    centre, place = torch.from_numpy(mean), torch.empty(ROWS, mean.size)
    for at in range(0, len(vectors), ROWS):
        part = vectors[at : at + ROWS]
        part = part if part.flags.writeable and part.flags.c_contiguous else np.array(part)  # torch asks for both
        yield at, torch.sub(torch.from_numpy(part), centre, out=place[: len(part)])


def _encode(vectors: Floats, mean: Floats, along: Floats) -> NDArray[np.uint64]:
    """Bits of all rows; in bfloat16 where the processor has it, which flips few bits and those at random."""
    n = len(vectors)
    codes = np.empty((n, along.shape[1] // 64), dtype=np.uint64)
    fast = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[attr-defined]
    way = torch.from_numpy(along).bfloat16() if fast else torch.from_numpy(along)
    for at, x in _centred(vectors, mean):
        turned = x.to(way.dtype) @ way
        signs = turned.view(torch.int16).numpy() > 0 if fast else turned.numpy() > 0  # the sign is bfloat16's first bit
        codes[at : at + len(x)] = np.packbits(signs, axis=1).view(np.uint64)
    return codes


def _need(sample: Floats, trials: Floats, near: Floats, along: Floats, recall: float) -> float:
    """The share of a sample that is nearer to the trials, by bits along these directions, than their neighbours."""
    words = np.ascontiguousarray(bits(sample, along).T)
    ranks: list[NDArray[Any]] = []
    for code, mine in zip(bits(trials, along), near, strict=True):
        distance = np.zeros(len(sample), dtype=np.uint16)
        for word, part in zip(words, code, strict=True):
            distance += np.bitwise_count(word ^ part)
        own = np.bitwise_count(bits(mine, along) ^ code).sum(1, dtype=np.int64)
        ranks.append(np.cumsum(np.bincount(distance, minlength=along.shape[1] + 1))[own])
    return float(np.quantile(np.concatenate(ranks), recall))


def open_index(file: Path) -> tuple[Index, dict[str, Any]]:
    """The index of an embedding file, kept beside it and built again when the file is another one; and its columns."""
    from swath.deploy.embed_files import read_vectors

    stat = file.stat() if file.is_file() else None
    if stat is None:
        raise UserError("there is no such file of embeddings", where=str(file), remedy="make one with swath embed")
    folder = file.with_suffix(".index")
    mark = json.dumps([stat.st_size, stat.st_mtime_ns])
    vectors, columns, _ = read_vectors(file)
    stamp = folder / "of.json"
    if (folder / "tuned.json").is_file() and stamp.is_file() and stamp.read_text() == mark:
        return Index.load(folder), columns
    index = Index.build(vectors)
    index.save(folder)
    stamp.write_text(mark)
    return index, columns


def similar(
    file: Path,
    place: tuple[float, float] | int | Path,
    k: int = 10,
    *,
    exact: bool = False,
    candidates: int = 0,
) -> list[dict[str, Any]]:
    """The k places most like a longitude and latitude, a key, or the mean of what polygons of a file meet."""
    import shapely

    from swath.deploy.lance_table import is_lance, similar_in_lance

    if k < 1:
        raise UserError(f"{k} places cannot be found", where="-k", remedy="1 or more")
    if is_lance(file):
        return similar_in_lance(file, place, k, exact=exact)
    index, columns = open_index(file)
    shapes = shapely.from_wkb(columns["geometry"])
    if isinstance(place, int):
        found, what = np.flatnonzero(columns["key"] == place), f"key {place}"
    elif isinstance(place, Path):
        found, what = np.flatnonzero(shapely.intersects(shapes, union_of(place))), str(place)
    else:
        found, what = np.flatnonzero(shapely.intersects(shapes, shapely.Point(*place)))[:1], f"{place[0]}, {place[1]}"
    if not len(found):
        west, south, east, north = shapely.total_bounds(shapes)
        raise UserError(f"nothing was embedded at {what}", where=str(file), remedy="the embeddings lie between "
                        f"{west:.4f}, {south:.4f} and {east:.4f}, {north:.4f} (longitude, latitude)")  # fmt: skip
    query = np.asarray(index.vectors[found]).mean(0)
    rows, scores = index.exact(query, k) if exact else index.near(query, k, candidates)
    return ranked(columns["key"][rows], scores, shapes[rows])


def ranked(keys: Any, scores: Any, shapes: Any) -> list[dict[str, Any]]:
    """What was found, best first, as plain data."""
    import shapely

    middle = shapely.get_coordinates(shapely.centroid(shapes))
    return [
        {
            "rank": i + 1,
            "similarity": round(float(s), 4),
            "key": int(key),
            "lon": round(float(x), 6),
            "lat": round(float(y), 6),
        }
        for i, (key, s, (x, y)) in enumerate(zip(keys, scores, middle, strict=True))
    ]


def union_of(file: Path) -> Any:
    """The shapes of a vector file as one, in longitude and latitude."""
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
