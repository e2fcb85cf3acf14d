"""A record file as an append-only store: adding twice adds nothing, one identity has one value."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from swath.core.errors import UserError
from swath.core.records import Result, read

Identity = tuple[str, ...]


def identity(r: Result) -> Identity:
    """What makes two records the same measurement."""
    words = (r.protocol, r.dataset, r.split, r.encoder, r.tuning, r.decoder, str(r.seed), r.metric, r.origin, r.source)
    return words


def add(path: Path, records: Sequence[Result]) -> int:
    """Append the records that are not there yet; another value under one identity is refused. Returns how many."""
    have = {identity(r): r for r in read(path)} if path.exists() else {}
    fresh: list[Result] = []
    for r in records:
        old = have.get(identity(r))
        if old is None:
            have[identity(r)] = r
            fresh.append(r)
        elif old.value != r.value and (old.value == old.value or r.value == r.value):
            raise UserError(
                f"{r.encoder} on {r.dataset}, seed {r.seed}, is {old.value} there and {r.value} here",
                where=str(path),
                remedy="records are never overwritten: write to another file, or find out which one is right",
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as out:
        out.write("".join(r.line() + "\n" for r in fresh))
        out.flush()
        os.fsync(out.fileno())
    return len(fresh)
