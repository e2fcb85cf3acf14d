"""Read ahead with worker processes, in order: what a worker does not decide is which sample comes next."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from swath.core.batch import Batch

if TYPE_CHECKING:
    from swath.data.streams.order import Stream


class _Reader(Dataset[Any]):
    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __getitem__(self, start: int) -> Batch:
        return self.stream.read(self.stream.draws(start))


class _Positions(Sampler[Any]):
    def __init__(self, start: int, step: int) -> None:
        self.start, self.step = start, step

    def __iter__(self) -> Iterator[int]:
        position = self.start
        while True:
            yield position
            position += self.step


def read_ahead(stream: Stream, start: int) -> Iterator[Batch]:
    """Batches from a position on, read by the stream's workers."""
    loader: DataLoader[Any] = DataLoader(
        _Reader(stream),
        batch_size=None,
        sampler=_Positions(start, stream.config.batch_size),
        num_workers=stream.config.workers,
        multiprocessing_context=multiprocessing.get_context("spawn"),
        generator=torch.Generator().manual_seed(stream.config.seed),
    )
    return iter(loader)
