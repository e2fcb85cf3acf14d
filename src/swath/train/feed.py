"""The feed: which samples make step s of a run. A pure function of (seed, step), so nothing of it is saved.

The order of an epoch is drawn (`train.order`); step s takes the next
`batch_size` samples, cut into world x accumulate parts. Workers and ranks only decide who reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from swath.core.batch import Batch, collate
from swath.core.contracts import Source, Transform
from swath.core.errors import UserError
from swath.data.streams.ahead import ahead
from swath.train.config import LoopConfig
from swath.train.order import shuffled


class Part(NamedTuple):
    """One micro-batch of one rank: its step, epoch and samples."""

    step: int
    epoch: int
    samples: tuple[int, ...]


@dataclass(frozen=True)
class Feed:
    """Samples to learn from: a source, which of its indices, which bands, and a deterministic transform.

    The transform gets one sample (B = 1) and the epoch. `shuffle=False` keeps the order of the indices.
    """

    source: Source
    indices: Sequence[int] | None = None
    bands: Mapping[str, Sequence[str]] | None = None
    transform: Transform | None = None
    shuffle: bool = True

    def __len__(self) -> int:
        return len(self.source) if self.indices is None else len(self.indices)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the run reads: the source, the samples chosen from it, the bands and the transform by its name."""
        chosen = "all" if self.indices is None else ",".join(str(int(i)) for i in self.indices)
        text = getattr(self.transform, "fingerprint", None) or (self.transform and _spoken(self.transform))
        return {
            "source": self.source.fingerprint,
            "samples": len(self),
            "indices": hashlib.sha256(chosen.encode()).hexdigest()[:16],
            "bands": {k: list(v) for k, v in (self.bands or {}).items()},
            "transform": text,
        }

    def steps_per_epoch(self, config: LoopConfig, world: int = 1) -> int:
        whole, rest = divmod(len(self), config.batch_size)
        if not whole:
            if len(self) < world * config.accumulate:
                raise UserError(
                    f"{len(self)} samples cannot be cut into {world} ranks x {config.accumulate} parts",
                    where=self.source.name,
                    remedy="lower 'accumulate' or the number of ranks, or give more samples",
                )
            return 1
        return whole + (1 if not config.drop_last and rest >= world * config.accumulate else 0)

    def order(self, seed: int, epoch: int) -> list[int]:
        """All samples of an epoch in the order of the run."""
        index = range(len(self.source)) if self.indices is None else self.indices
        return shuffled(index, seed, epoch) if self.shuffle else [int(i) for i in index]

    def parts(self, config: LoopConfig, span: tuple[int, int], rank: int = 0, world: int = 1) -> Iterator[Part]:
        """The micro-batches of one rank from step `span[0]` up to `span[1]`, `accumulate` a step.

        A rank has neighbouring parts, so that what ranks gather stands in the order of the whole batch."""
        per_epoch, cut = self.steps_per_epoch(config, world), world * config.accumulate
        epoch, order = -1, list[int]()
        for step in range(*span):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = self.order(config.seed, epoch)
            at = (step % per_epoch) * config.batch_size
            chosen = order[at : at + config.batch_size]
            for micro in range(config.accumulate):
                part = rank * config.accumulate + micro
                low, high = len(chosen) * part // cut, len(chosen) * (part + 1) // cut
                yield Part(step, epoch, tuple(chosen[low:high]))

    def batches(
        self, config: LoopConfig, span: tuple[int, int], rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Part, Batch]]:
        """The micro-batches, read ahead by `config.workers` processes."""
        if span[0] >= span[1]:
            return iter(())
        parts, read = self.parts(config, span, rank, world), _Reading(self)
        if not config.workers:
            return map(read, parts)
        return ahead(read, parts, config.workers, config.start)


class _Reading:
    """What a reading process does for a part; a source that can decodes it straight into the batch."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed

    def __call__(self, job: Part, take: Callable[..., Any] = np.empty) -> tuple[Part, Batch]:
        feed, part, samples = self.feed, job, list[Batch]()
        if feed.transform is None and hasattr(feed.source, "batch"):
            whole: Any = feed.source
            return part, whole.batch(part.samples, feed.bands, take)
        for i in part.samples:
            one = feed.source.sample(i, feed.bands)
            samples.append(one if feed.transform is None else feed.transform(one, part.epoch))
        return part, collate(samples)


def _spoken(transform: Transform) -> str:
    name = getattr(transform, "__qualname__", None)
    return name if isinstance(name, str) else repr(transform)
