"""The vocabulary of Swath. No input or output happens here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swath.core.batch import Batch, Boxes, Label, Layer, Where, collate
    from swath.core.contracts import (
        Encoder,
        EncoderSpec,
        Features,
        Input,
        LabelSpec,
        Scene,
        Source,
        Step,
        TokenEncoder,
        Tokens,
    )
    from swath.core.errors import SwathError, SwathWarning, UnknownName, UserError
    from swath.core.family import Family
    from swath.core.grid import Grid, Window
    from swath.core.records import Protocol, Result
    from swath.core.rng import generator, numpy_generator, per_sample, seed_of
    from swath.core.sensor import Band, BandMatch, Sensor
    from swath.core.sensors import SENSORS
    from swath.core.units import convert

_HOME = {
    "batch": ("Batch", "Boxes", "Label", "Layer", "Where", "collate"),
    "contracts": (
        "Encoder",
        "EncoderSpec",
        "Features",
        "Input",
        "LabelSpec",
        "Scene",
        "Source",
        "Step",
        "TokenEncoder",
        "Tokens",
    ),
    "errors": ("SwathError", "SwathWarning", "UnknownName", "UserError"),
    "family": ("Family",),
    "grid": ("Grid", "Window"),
    "records": ("Protocol", "Result"),
    "rng": ("generator", "numpy_generator", "per_sample", "seed_of"),
    "sensor": ("Band", "BandMatch", "Sensor"),
    "sensors": ("SENSORS",),
    "units": ("convert",),
}
_WHERE = {name: home for home, names in _HOME.items() for name in names}

__all__ = [
    "SENSORS",
    "Band",
    "BandMatch",
    "Batch",
    "Boxes",
    "Encoder",
    "EncoderSpec",
    "Family",
    "Features",
    "Grid",
    "Input",
    "Label",
    "LabelSpec",
    "Layer",
    "Protocol",
    "Result",
    "Scene",
    "Sensor",
    "Source",
    "Step",
    "SwathError",
    "SwathWarning",
    "TokenEncoder",
    "Tokens",
    "UnknownName",
    "UserError",
    "Where",
    "Window",
    "collate",
    "convert",
    "generator",
    "numpy_generator",
    "per_sample",
    "seed_of",
]


def __getattr__(name: str) -> Any:
    """Load on first use, so that sensors and grids cost no torch import."""
    if name not in _WHERE:
        raise AttributeError(f"module 'swath.core' has no attribute '{name}'")
    return getattr(import_module(f"swath.core.{_WHERE[name]}"), name)
