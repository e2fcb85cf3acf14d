"""Decoders: pyramid maps in, one dense map out. `build(widths, strides)` gives the module; it states `width, stride`.

Encoders without a pyramid (plain transformers give several maps of one stride) get one from a learned neck.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from swath.core.family import Family

if TYPE_CHECKING:
    from torch import Tensor


class DenseDecoder(Protocol):
    """An `nn.Module` from maps to one map of `width` channels with cells of `stride` input pixels.

    `local`: a cell's answer depends on what lies near it alone, wherever the map ends; one that pools or norms over the
    whole map is not.
    """

    local: bool
    width: int
    stride: float

    def __call__(self, maps: Sequence[Tensor]) -> Tensor: ...


class Decoder(Protocol):
    """A decoder's settings."""

    kind: ClassVar[str]

    def build(self, widths: Sequence[int], strides: Sequence[float]) -> DenseDecoder: ...


DECODERS: Family[type[Decoder]] = Family("decoder", "swath.models.decoders")

__all__ = ["DECODERS", "Decoder", "DenseDecoder"]
