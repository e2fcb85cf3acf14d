"""The order of an epoch: a permutation drawn at the address (seed, epoch, "order"). Known without torch."""

from __future__ import annotations

from collections.abc import Sequence

from swath.core.rng import numpy_generator


def shuffled(index: Sequence[int], seed: int, epoch: int) -> list[int]:
    """These samples in the order of an epoch."""
    draw = numpy_generator(seed, epoch, "order").permutation(len(index))
    return [int(index[int(i)]) for i in draw]


__all__ = ["shuffled"]
