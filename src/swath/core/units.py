"""Conversion between units of one quantity. What is not listed here is refused, never guessed."""

from __future__ import annotations

import math

from torch import Tensor

from swath.core.errors import UserError

_LN10 = math.log(10.0)


def convert(x: Tensor, given: str, wanted: str, *, where: str = "") -> Tensor:
    """Values in unit `given` as values in unit `wanted` (SAR: `linear` is power, `amplitude` its root)."""
    if given == wanted:
        return x
    tiny = 1e-10
    match given, wanted:
        case "linear", "db":
            return 10.0 * x.clamp_min(tiny).log10()
        case "amplitude", "db":
            return 20.0 * x.clamp_min(tiny**0.5).log10()
        case "db", "linear":
            return (x * (_LN10 / 10.0)).exp()
        case "db", "amplitude":
            return (x * (_LN10 / 20.0)).exp()
        case "amplitude", "linear":
            return x * x
        case "linear", "amplitude":
            return x.clamp_min(0.0).sqrt()
        case "kelvin", "celsius":
            return x - 273.15
        case "celsius", "kelvin":
            return x + 273.15
        case "m", "mm":
            return x * 1000.0
        case "mm", "m":
            return x / 1000.0
        case "fraction", "percent":
            return x * 100.0
        case "percent", "fraction":
            return x / 100.0
        case _:
            raise UserError(
                f"no conversion from '{given}' to '{wanted}'",
                where=where,
                remedy="declare the unit that the values really have, or choose data in the wanted unit",
            )
