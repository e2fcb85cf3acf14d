"""Which families `swath list` and `swath show` know: name -> where the Family stands. Nothing is imported here."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from swath.core.errors import UnknownName
from swath.core.family import Family

FAMILIES = {
    "sensors": "swath.core.sensors:SENSORS",
    "cards": "swath.data.cards:CARDS",
    "sources": "swath.data.sources:SOURCES",
    "samplers": "swath.data.samplers:SAMPLERS",
    "encoders": "swath.models:ENCODERS",
    "weights": "swath.models.weights:WEIGHTS",
    "decoders": "swath.models.decoders:DECODERS",
    "objectives": "swath.objectives:OBJECTIVES",
    "tasks": "swath.adapt.tasks:TASKS",
    "tunings": "swath.adapt.tuning:TUNINGS",
    "mergers": "swath.adapt.merge:MERGERS",
    "suites": "swath.bench.suites:SUITES",
}


def known() -> list[str]:
    """Families whose room exists in this installation."""
    found: list[str] = []
    for name, place in FAMILIES.items():
        module = place.split(":")[0]
        try:
            if find_spec(module) is not None:
                found.append(name)
        except ModuleNotFoundError:
            continue
    return found


def family(name: str) -> Family[Any]:
    """The family of this name; the singular works too."""
    names = known()
    key = name if name in names else f"{name}s"
    if key not in names:
        raise UnknownName("family", name, names)
    module, attribute = FAMILIES[key].split(":")
    return getattr(import_module(module), attribute)
