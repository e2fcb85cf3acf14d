"""What a run's batches hold: one sample with every sensor, and the same sensors in the same order in every batch.

Rasters are seldom complete. An objective makes its heads from the sensors of an example, so the first sample that
happens to lack one must not decide; and a batch in which nobody has a sensor still has its layer, with nothing valid.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from swath.core import Batch, Layer, Source, SwathWarning, UserError
from swath.train import Feed

MOST = 256
"""Samples that are looked at before a sensor that none of them has is left out."""


class Having:
    """A source of which some samples are in no split: those without a single one of the wanted layers."""

    def __init__(self, source: Source, kept: frozenset[int]) -> None:
        self.source, self.kept = source, kept
        self.name, self.licence, self.labels, self.sensors = source.name, source.licence, source.labels, source.sensors

    def __len__(self) -> int:
        return len(self.source)

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint

    def splits(self) -> Mapping[str, Sequence[int]]:
        found = {k: [i for i in v if int(i) in self.kept] for k, v in self.source.splits().items()}
        return {k: v for k, v in found.items() if v}

    def sample(self, index: int, bands: Mapping[str, Sequence[str]] | None = None) -> Batch:
        return self.source.sample(index, bands)


def having(source: Source, bands: Mapping[str, Sequence[str]] | None) -> Source:
    """The source, or what of it has any of the wanted layers, where the source can tell without reading."""
    holds: Any = getattr(source, "holds", None)
    if holds is None or not bands:
        return source
    kept = frozenset(i for i in range(len(source)) if holds(i) & set(bands))
    if not kept:
        raise UserError(f"no sample has any of {', '.join(bands)}", where=source.name, remedy="correct `bands`")
    if len(kept) == len(source):
        return source
    words = f"{source.name}: {len(source) - len(kept)} of {len(source)} samples have nothing of {', '.join(bands)}"
    warnings.warn(f"{words}; they are left out", SwathWarning, stacklevel=3)
    return Having(source, kept)


def example_of(feed: Feed, index: Sequence[int]) -> Batch:
    """The first sample, with the layers that it lacks taken from the first ones that have them."""
    wanted = set(feed.bands or [s.id for s in feed.source.sensors])
    found: Batch | None = None
    for i in list(index)[:: max(1, len(index) // MOST)][:MOST]:
        one = feed.source.sample(int(i), feed.bands)
        one = one if feed.transform is None else feed.transform(one, 0)
        found = one if found is None else replace(found, layers={**one.layers, **found.layers})
        if wanted <= set(found.layers):
            break
    assert found is not None
    order = [s.id for s in feed.source.sensors if s.id in found.layers]
    order += [n for n in found.layers if n not in order]
    return replace(found, layers={n: found.layers[n] for n in order})


@dataclass(frozen=True)
class Complete:
    """A batch with all layers of the example, in its order; what a batch lacks is there and invalid."""

    example: Batch

    def __call__(self, batch: Batch) -> Batch:
        wanted = self.example.layers
        if list(batch.layers) == list(wanted):
            return batch
        held = next(iter(batch.layers.values()))
        layers = {n: batch.layers[n] if n in batch.layers else _nothing(like, held) for n, like in wanted.items()}
        return replace(batch, layers={**layers, **batch.layers})

    def before(self, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """As a hook before a module's forward."""
        return (self(given[0]), *given[1:])


def _nothing(like: Layer, held: Layer) -> Layer:
    """A layer like `like` for as many samples as `held`, on its device, without a valid pixel."""
    rows = (held.shape[0], *like.shape[1:])
    x, valid = held.x.new_zeros(rows), held.valid.new_zeros((rows[0], rows[1], 1, *rows[3:]))
    times = None if like.times is None else like.times[:1].expand(rows[0], -1).to(held.x.device)
    return Layer(like.sensor, x, valid, times)
