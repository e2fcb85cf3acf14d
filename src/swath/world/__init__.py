"""The simulated Earth: one state, every sensor rendered from it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swath.world.labels import LABELS
    from swath.world.moment import day_of
    from swath.world.noise import Frame
    from swath.world.places import NEAR, Site
    from swath.world.planet import World, WorldScene
    from swath.world.shift import AXES, Shift

_HOME = {"LABELS": "labels", "day_of": "moment", "Frame": "noise", "NEAR": "places", "Site": "places",
         "World": "planet", "WorldScene": "planet", "AXES": "shift", "Shift": "shift"}  # fmt: skip

__all__ = ["AXES", "LABELS", "NEAR", "Frame", "Shift", "Site", "World", "WorldScene", "day_of"]


def __getattr__(name: str) -> Any:
    """Load on first use: a seed and a site cost no torch import."""
    if name not in _HOME:
        raise AttributeError(f"module 'swath.world' has no attribute '{name}'")
    return getattr(import_module(f"swath.world.{_HOME[name]}"), name)
