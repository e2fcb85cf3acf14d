"""Losses that know what is valid: every one averages over observed values only, and an empty batch costs zero.

Class losses take logits `(B, K, *S)`, int64 classes `(B, *S)`, valid `(B, *S)`; tag losses `(B, K)` thrice; value
losses `(B, outputs * K, *S)`, `(B, K, *S)`, valid `(B, 1, *S)`. `weights` is one number a class, where it applies.
A loss that does not divide by the number of valid items says by what: `count(target, valid, weights)`. Region losses
(dice, Tversky, Lovász, boundary) are of the batch they are given: a batch cut into parts has the mean of its parts'.
A class loss with `shares = True` also takes shares `(B, K)` of a chip that was mixed of several.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor

from swath.core.family import Family


class Loss(Protocol):
    """A term of a task's loss: a frozen config that is callable. `target` says what kind of answer it judges."""

    kind: ClassVar[str]
    target: ClassVar[str]
    outputs: ClassVar[int]

    @property
    def weight(self) -> float: ...

    def __call__(self, out: Tensor, target: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor: ...


LOSSES: Family[type[Loss]] = Family("loss", "swath.adapt.losses")

__all__ = ["LOSSES", "Loss"]
