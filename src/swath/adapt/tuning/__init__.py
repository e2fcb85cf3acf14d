"""Tunings: how an encoder's weights may move. A member is a frozen config with `apply(encoder)` and `merge(encoder)`.

`apply` freezes, inserts or wraps and gives back the encoder to use; `merge` folds what it inserted into plain
weights where the algebra allows it (`exact`), and leaves the rest in place. Inserted modules hold what they wrap as
`base_layer`, so the base's own names can be read off by dropping that word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from swath.core.family import Family

if TYPE_CHECKING:
    from torch import nn


class TuningConfig(Protocol):
    """A way of tuning. `on`: kinds of trunk it is declared for; `exact`: merging leaves the base's own layout."""

    kind: ClassVar[str]
    on: ClassVar[tuple[str, ...]]
    exact: ClassVar[bool]

    def apply(self, encoder: nn.Module) -> nn.Module: ...

    def merge(self, encoder: nn.Module) -> nn.Module: ...


TUNINGS: Family[type[TuningConfig]] = Family("tuning", "swath.adapt.tuning")

__all__ = ["TUNINGS", "TuningConfig"]
