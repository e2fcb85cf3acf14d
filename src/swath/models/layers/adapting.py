"""Named rules by which weights are fitted to other bands or sizes. The run chooses; the proof records."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from swath.core import Sensor, UserError
from swath.models.layers.positions import resize_positions


def subset(index: Sequence[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """A rule that keeps these input bands of a kernel (out, in, ...)."""

    def rule(own: Tensor, given: Tensor) -> Tensor:
        """band subset"""
        return given[:, list(index)]

    return rule


def nearest_bands(have: Sensor, want: Sensor, max_nm: float = 40.0) -> Callable[[Tensor, Tensor], Tensor]:
    """A rule that gives each band of `want` the kernel of the closest band of `have` (the weights' own)."""
    match = have.nearest(want, max_nm)
    if match.unmatched:
        raise UserError(f"no kernel within {max_nm:g} nm: {match.describe()}", where=f"weights for {have.id}")
    index = [have.index(match.pairs[b.name][0]) for b in want.bands]

    def rule(own: Tensor, given: Tensor) -> Tensor:
        """nearest wavelength"""
        return given[:, index]

    return rule


def inflate(own: Tensor, given: Tensor) -> Tensor:
    """channel inflation: the mean kernel for every band, scaled by old / new bands"""
    mean = given.mean(1, keepdim=True) * (given.shape[1] / own.shape[1])
    return mean.expand_as(own).clone()


def position_table(prefix: int = 1) -> Callable[[Tensor, Tensor], Tensor | None]:
    """A rule that resizes a square (1, prefix + N, D) table by bicubic interpolation."""

    def rule(own: Tensor, given: Tensor) -> Tensor | None:
        """bicubic resize of the position table"""
        old, new = (round((t.shape[1] - prefix) ** 0.5) for t in (given, own))
        if old * old + prefix != given.shape[1] or new * new + prefix != own.shape[1]:
            return None
        grid = resize_positions(given[:, prefix:], (old, old), (new, new))
        return torch.cat([given[:, :prefix], grid], 1)

    return rule
