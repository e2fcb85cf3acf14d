"""Packed streams: any source as sharded, checksummed, compressed, band-wise chunks, and orders to read them in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swath.data.streams.order import Mixture, Stream, joined
    from swath.data.streams.packed import PackedSource
    from swath.data.streams.packing import PackConfig, pack

_HOME = {"Mixture": "order", "Stream": "order", "joined": "order", "PackConfig": "packing", "pack": "packing",
         "PackedSource": "packed"}  # fmt: skip
__all__ = ["Mixture", "PackConfig", "PackedSource", "Stream", "joined", "pack"]


def __getattr__(name: str) -> Any:
    """Load on first use."""
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'swath.data.streams' has no attribute '{name}'")
    return getattr(import_module(f"swath.data.streams.{_HOME[name]}"), name)
