"""What `swath data show` says of a source or a card: facts, and its samples by name and split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swath.core.config import plain
from swath.data.cards import CARDS
from swath.data.open import open_source


def summary(ref: str) -> dict[str, Any]:
    """A shipped card's facts when `ref` is one's name and no path, else the source's facts and samples."""
    if not Path(ref).exists() and ref in CARDS:
        return plain(CARDS.get(ref))
    source = open_source(ref, assume=True)
    splits = {i: name for name, rows in source.splits().items() for i in rows}
    names = sample_names(source)
    return {
        "name": source.name,
        "samples_total": len(source),
        "sensors": {s.id: list(s.names) for s in source.sensors},
        "labels": {n: {"kind": s.kind, "classes": list(s.classes)} for n, s in source.labels.items()},
        "splits": {n: len(rows) for n, rows in source.splits().items()},
        "licence": source.licence or None,
        "fingerprint": source.fingerprint,
        "samples": [{"id": names[i], "split": splits.get(i, "")} for i in range(len(source))],
    }


def sample_names(source: Any) -> list[str]:
    """The samples' names, without reading pixels where the source can tell."""
    index = getattr(source, "index", None)
    if index is not None:
        return [item.key for item in index.items]
    names = getattr(source, "names", None)
    return list(names) if names is not None else [str(i) for i in range(len(source))]
