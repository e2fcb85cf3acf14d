"""Samplers: published recipes for choosing places, as data. One TOML file each; `draw(recipe, table)` runs any of them.

A recipe is pure: the same table and seed give the same sample, on a table of real tiles or on the simulated Earth.
"""

from __future__ import annotations

from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any

from swath.core.family import Family

if TYPE_CHECKING:
    from swath.data.samplers.recipe import Recipe


def _read(name: str, path: Traversable) -> Recipe:
    from swath.data.samplers.recipe import read_recipe

    return read_recipe(path.read_text(encoding="utf-8"), str(path), name)


SAMPLERS: Family[Any] = Family("sampler", "swath.data.samplers", _read, suffix=".toml")

__all__ = ["SAMPLERS"]
