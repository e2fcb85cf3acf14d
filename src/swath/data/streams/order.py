"""Orders: which sample stands at position p of an endless stream. Pure functions of (seed, p), so nothing is saved.

A block of 4096 positions holds every source in proportion to its weight, in an order drawn at (seed, "mix", block);
the o-th draw of a source of n samples is element o mod n of the permutation drawn at (seed, source, epoch o div n).
Workers and ranks only decide who reads: rank r of w takes the r-th part of every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.core.batch import Batch, collate
from swath.core.contracts import LabelSpec, Source, Transform
from swath.core.errors import UserError
from swath.core.rng import numpy_generator
from swath.core.sensor import Sensor

BLOCK = 4096


@dataclass(frozen=True)
class Draw:
    """One position: which source, which of its samples, and in which pass over that source."""

    source: int
    index: int
    epoch: int


@lru_cache(maxsize=16)
def _permutation(seed: int, source: int, epoch: int, n: int) -> NDArray[np.int64]:
    return numpy_generator(seed, epoch, "stream", source).permutation(n)


@lru_cache(maxsize=64)
def _block(seed: int, block: int, counts: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Per position of a block its source, and its rank among that source's positions of the block."""
    kinds = np.repeat(np.arange(len(counts)), counts)[numpy_generator(seed, block, "mix").permutation(BLOCK)]
    ranks = np.empty(BLOCK, np.int64)
    for k, n in enumerate(counts):
        ranks[kinds == k] = np.arange(n)
    return kinds, ranks


@dataclass(frozen=True)
class Mixture:
    """Sources of these lengths, drawn in proportion to the weights (their lengths when none are given)."""

    lengths: tuple[int, ...]
    weights: tuple[float, ...] = ()
    seed: int = 0
    shuffle: bool = True

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 1:
            raise UserError("a stream needs sources that are not empty")
        if self.weights and (len(self.weights) != len(self.lengths) or min(self.weights) <= 0):
            raise UserError(f"{len(self.lengths)} sources need as many weights above 0, not {self.weights}")
        if min(self.counts) < 1:
            raise UserError(f"a weight is below 1/{BLOCK} of the sum: {self.weights}", remedy="leave that source out")

    @property
    def counts(self) -> tuple[int, ...]:
        """Positions of each source in a block: the weights' shares by largest remainder."""
        if len(self.lengths) == 1:
            return (BLOCK,)
        weights = np.array(self.weights or self.lengths, dtype=np.float64)
        exact = weights / weights.sum() * BLOCK
        counts = np.floor(exact).astype(int)
        for k in np.argsort(counts - exact, kind="stable")[: BLOCK - int(counts.sum())]:
            counts[k] += 1
        return tuple(int(c) for c in counts)

    def at(self, position: int) -> Draw:
        """What stands at a position."""
        if len(self.lengths) == 1:
            epoch, place = divmod(position, self.lengths[0])
            index = int(_permutation(self.seed, 0, epoch, self.lengths[0])[place]) if self.shuffle else place
            return Draw(0, index, epoch)
        block, place = divmod(position, BLOCK)
        counts = self.counts
        kinds, ranks = _block(self.seed, block, counts)
        k = int(kinds[place])
        epoch, at = divmod(block * counts[k] + int(ranks[place]), self.lengths[k])
        index = int(_permutation(self.seed, k, epoch, self.lengths[k])[at]) if self.shuffle else at
        return Draw(k, index, epoch)

    def part(self, start: int, batch_size: int, rank: int = 0, world: int = 1) -> list[Draw]:
        """This rank's part of the batch that starts at position `start`."""
        low, high = batch_size * rank // world, batch_size * (rank + 1) // world
        return [self.at(p) for p in range(start + low, start + high)]


@dataclass(frozen=True)
class StreamConfig:
    """How to read: the global batch size, the seed, weights per source, and who reads."""

    batch_size: int
    seed: int = 0
    weights: tuple[float, ...] = ()
    shuffle: bool = True
    rank: int = 0
    world: int = 1
    workers: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world or self.batch_size < self.world:
            raise UserError(f"rank {self.rank} of {self.world} cannot share batches of {self.batch_size}")


class Stream:
    """Batches without end. `position` counts samples over all ranks, and is all that a resume needs."""

    def __init__(
        self,
        sources: Sequence[Source],
        config: StreamConfig,
        *,
        bands: Mapping[str, Sequence[str]] | None = None,
        transform: Transform | None = None,
    ) -> None:
        self.sources, self.config, self.bands, self.transform = tuple(sources), config, bands, transform
        lengths = tuple(len(s) for s in sources)
        self.mixture = Mixture(lengths, config.weights, config.seed, config.shuffle)
        self.position = 0

    def state(self) -> dict[str, Any]:
        """What to save: it holds for any number of workers and ranks."""
        return {"position": self.position, "seed": self.config.seed, "data": [s.fingerprint for s in self.sources],
                "counts": list(self.mixture.counts)}  # fmt: skip

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on at the exact sample; refused when data, weights or seed are others."""
        own = self.state()
        different = [k for k in own if k != "position" and state.get(k) != own[k]]
        if different:
            raise UserError(f"the stream's {', '.join(different)} are not those of the saved state")
        self.position = int(state["position"])

    def read(self, draws: Sequence[Draw], take: Callable[..., Any] = np.empty) -> Batch:
        """A batch of these draws. A source that can fills the arrays that `take(shape, dtype)` gives."""
        source = self.sources[draws[0].source]
        if self.transform is None and hasattr(source, "batch") and len({d.source for d in draws}) == 1:
            whole: Any = source
            return whole.batch([d.index for d in draws], self.bands, take)
        samples: list[Batch] = []
        for draw in draws:
            one = self.sources[draw.source].sample(draw.index, self.bands)
            samples.append(one if self.transform is None else self.transform(one, draw.epoch))
        return collate(samples)

    def __iter__(self) -> Iterator[Batch]:
        if not self.config.workers:
            while True:
                batch = self.read(self._draws(self.position))
                self.position += self.config.batch_size
                yield batch
        from swath.data.streams.ahead import ahead

        step = self.config.batch_size
        for batch in ahead(_Reading(self), count(self.position, step), self.config.workers):
            self.position += step
            yield batch

    def _draws(self, start: int) -> list[Draw]:
        return self.mixture.part(start, self.config.batch_size, self.config.rank, self.config.world)

    def draws(self, start: int) -> list[Draw]:
        """This rank's draws of the batch at a position."""
        return self._draws(start)


class _Reading:
    """What a reading process does for the position of a batch."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __call__(self, job: int, take: Callable[..., Any]) -> Batch:
        return self.stream.read(self.stream.draws(job), take)


class Joined:
    """Several sources as one: their samples one after the other."""

    def __init__(self, sources: Sequence[Source]) -> None:
        if not sources:
            raise UserError("there are no sources to join")
        self.sources = tuple(sources)
        self.name = "+".join(s.name for s in sources)
        self.licence = " AND ".join(dict.fromkeys(s.licence for s in sources))
        by_id: dict[str, Sensor] = {}
        labels: dict[str, LabelSpec] = {}
        for source in sources:
            for sensor in source.sensors:
                if by_id.setdefault(sensor.id, sensor).names != sensor.names:
                    raise UserError(
                        f"{sensor.id} has the bands {by_id[sensor.id].names} here and {sensor.names} there",
                        where=source.name, remedy="read the same bands from both",
                    )  # fmt: skip
            labels.update(source.labels)
        self.sensors, self.labels = tuple(by_id.values()), labels
        self._edges = np.cumsum([0, *(len(s) for s in sources)])

    @property
    def fingerprint(self) -> str:
        import hashlib

        return hashlib.sha256("\n".join(s.fingerprint for s in self.sources).encode()).hexdigest()

    def __len__(self) -> int:
        return int(self._edges[-1])

    def splits(self) -> Mapping[str, Sequence[int]]:
        out: dict[str, list[int]] = {}
        for start, source in zip(self._edges, self.sources, strict=False):
            for name, rows in source.splits().items():
                out.setdefault(name, []).extend(int(start) + int(i) for i in rows)
        return out

    def sample(self, index: int, bands: Mapping[str, Sequence[str]] | None = None) -> Batch:
        k = int(np.searchsorted(self._edges, index, side="right")) - 1
        return self.sources[k].sample(index - int(self._edges[k]), bands)


def joined(
    sources: Sequence[Source], weights: Sequence[float] = (), n: int = 0, seed: int = 0
) -> tuple[Joined, list[int]]:
    """The sources as one, and `n` of its indices in proportion to the weights, for loops that take indices."""
    one = Joined(sources)
    mixture = Mixture(tuple(len(s) for s in sources), tuple(weights), seed)
    edges = np.cumsum([0, *(len(s) for s in sources)])
    draws = (mixture.at(p) for p in range(n or len(one)))
    return one, [int(edges[d.source]) + d.index for d in draws]
