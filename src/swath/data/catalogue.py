"""The catalogue: shipped cards by task, sensor, size, group and licence. What a card does not say never matches."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from swath.core.errors import UnknownName, UserError
from swath.core.sensors import SENSORS
from swath.data.card import Card
from swath.data.cards import CARDS

TASKS = (
    "segment", "classify", "tag", "regress", "map", "detect", "instances", "change", "pretrain", "panoptic",
)  # fmt: skip


@dataclass(frozen=True)
class Wish:
    """What one looks for; an empty field does not filter."""

    task: str = ""
    sensor: str = ""
    max_gb: float | None = None
    group: str = ""
    licence: str = ""


def _sensors(card: Card) -> list[str]:
    return list(dict.fromkeys(x.sensor for x in card.layers))


def find(wish: Wish = Wish()) -> list[Card]:
    """The cards that fit, by name."""
    if wish.task and wish.task not in TASKS:
        raise UnknownName("task", wish.task, TASKS)
    if wish.sensor and "*" not in wish.sensor:
        known = {*SENSORS.names(), *(s for _, c in CARDS for s in _sensors(c))}
        if wish.sensor not in known:
            raise UnknownName("sensor", wish.sensor, known)
    out: list[Card] = []
    for _, card in CARDS:
        fits = (
            (not wish.task or wish.task in card.tasks)
            and (not wish.sensor or any(fnmatch(s, wish.sensor) for s in _sensors(card)))
            and (wish.max_gb is None or (card.size_gb is not None and card.size_gb <= wish.max_gb))
            and (not wish.group or wish.group in card.groups)
            and (not wish.licence or fnmatch(card.licence, wish.licence))
        )
        if fits:
            out.append(card)
    return out


def row(card: Card) -> dict[str, Any]:
    """A card as one line of the catalogue; what is unknown is None."""
    gsd = card.gsd or tuple(sorted({b.gsd for x in card.layers for b in card.stored(x).bands}))
    return {
        "name": card.name,
        "task": list(card.tasks),
        "classes": len(card.labels[0].classes) or None if card.labels else None,
        "sensors": _sensors(card),
        "gsd": list(gsd),
        "size_gb": card.size_gb,
        "coverage": card.coverage or None,
        "licence": card.licence or None,
        "samples": card.samples,
        "year": card.year,
    }


def verify(card: Card, folder: Path) -> list[dict[str, Any]]:
    """Each file whose sha256 the card gives: right, wrong or absent in the folder."""
    import hashlib

    if not card.files:
        raise UserError(f"the card '{card.name}' gives no sha256", where=card.place)
    out: list[dict[str, Any]] = []
    for name, wanted in card.files.items():
        file = folder / name
        if not file.is_file():
            out.append({"file": name, "state": "absent", "sha256": None})
            continue
        digest = hashlib.sha256()
        with file.open("rb") as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
        found = digest.hexdigest()
        out.append({"file": name, "state": "right" if found == wanted.lower() else "wrong", "sha256": found})
    return out
