"""The opening of a tuning run: the files of the samples it looks at first, and of its first batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from swath.data import opening
from swath.data.opening import end


def begin(raw: Mapping[str, Any]) -> opening.Opening | None:
    """Start to read for a run's plain values; what is wrong with them is said when they are parsed."""
    data = raw.get("data")
    if not isinstance(data, Mapping) or data.get("kind") != "folder":
        return None  # other layouts ask for torch to know their files
    return opening.begin(lambda: _plan(raw))


def _plan(raw: Mapping[str, Any]) -> Iterator[Path]:
    from swath.adapt.splits import LOOKS, MOST_LOOKS, choose_splits, spread
    from swath.core.config import parse_member
    from swath.data.sources import SOURCES
    from swath.train.config import LoopConfig
    from swath.train.order import shuffled

    source = parse_member(raw["data"], SOURCES).build()
    loop = raw.get("loop") or {}
    seed, size = int(loop.get("seed", LoopConfig.seed)), int(loop.get("batch_size", LoopConfig.batch_size))
    train = choose_splits(source, raw.get("splits", "source"), seed).train
    for i in (*spread(train, MOST_LOOKS)[:LOOKS], *shuffled(train, seed, 0)[:size]):
        yield from source.files(i)


__all__ = ["begin", "end"]
