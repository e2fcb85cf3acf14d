"""Chunks: one array each, byte-shuffled and compressed by blosc2 (ADR 0301), with a crc32 of what is stored.

Physical values come back exactly: stored = round((x - offset) / scale) is kept only when
float32(stored) * scale + offset gives every valid x again, bit by bit; else x is stored as it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from swath.core.errors import UserError

Pixels = NDArray[Any]
CODECS = {"lz4hc": (blosc2.Codec.LZ4HC, 9), "zstd": (blosc2.Codec.ZSTD, 5), "lz4": (blosc2.Codec.LZ4, 5)}
_GUESSES = (
    (1.0, 0.0),
    (1e-4, 0.0),
    (1e-4, -0.1),
    (1e-3, 0.0),
    (1e-2, 0.0),
    (0.1, 0.0),
    (2.75e-5, -0.2),
    (1 / 255, 0.0),
)
_KINDS = ("uint8", "uint16", "int16")


def squeeze(array: Pixels, codec: str) -> bytes:
    """An array's bytes, compressed; `none` keeps them as they are."""
    if array.dtype == np.bool_:
        array = np.packbits(array)
    array = np.ascontiguousarray(array)
    if codec == "none" or array.nbytes == 0:
        return array.tobytes()
    if codec not in CODECS:
        raise UserError(f"unknown codec '{codec}'", remedy=f"known: {', '.join(CODECS)}, none")
    kind, level = CODECS[codec]
    blosc: Any = blosc2
    packed: Any = blosc.compress2(
        array, codec=kind, clevel=level, filters=[blosc2.Filter.SHUFFLE], typesize=array.itemsize, nthreads=1
    )
    return bytes(packed)


def expand(data: Any, out: Pixels, codec: str) -> None:
    """Undo `squeeze` into a contiguous array of the right shape and type; ValueError when it does not fit."""
    if out.dtype == np.bool_:
        bits = np.empty((out.size + 7) // 8, np.uint8)
        expand(data, bits, codec)
        out.reshape(-1)[:] = np.unpackbits(bits, count=out.size)
        return
    if out.nbytes == 0:
        return
    if codec == "none":
        if len(data) != out.nbytes:
            raise ValueError(f"{len(data)} bytes where {out.nbytes} belong")
        out.reshape(-1)[:] = np.frombuffer(data, out.dtype)
        return
    blosc: Any = blosc2
    if blosc.get_cbuffer_sizes(data)[0] != out.nbytes:
        raise ValueError(f"a chunk of {blosc.get_cbuffer_sizes(data)[0]} bytes where {out.nbytes} belong")
    blosc.decompress2(data, dst=out, nthreads=1)


def crc(data: Any) -> int:
    """The checksum of stored bytes."""
    return zlib.crc32(data)


@dataclass(frozen=True)
class Stored:
    """How a layer's numbers are kept: dtype, and per band scale and offset (empty: x itself)."""

    dtype: str
    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()


def shrink(
    x: NDArray[np.float32], valid: NDArray[np.bool_], own: Sequence[tuple[float, float]]
) -> tuple[Pixels, Stored]:
    """Bands (C, T, H, W) as the smallest whole numbers that give x again exactly, else x; `own`: the bands' storage."""
    if x.dtype == np.float32:
        for pairs in (list(own), *([g] * len(x) for g in _GUESSES)):
            found = _whole(x, valid, pairs)
            if found is not None:
                scale, offset = zip(*pairs, strict=True)
                return found, Stored(str(found.dtype), tuple(map(float, scale)), tuple(map(float, offset)))
    return x, Stored(str(x.dtype))


def _whole(x: NDArray[np.float32], valid: NDArray[np.bool_], pairs: Sequence[tuple[float, float]]) -> Pixels | None:
    numbers = np.empty(x.shape, np.float64)
    for i, (scale, offset) in enumerate(pairs):
        one = x[i, :1, :8, :8].astype(np.float64)  # a corner tells most wrong guesses apart
        near = np.rint((one - offset) / scale)
        if np.abs(near * scale + offset - one)[valid[0, :1, :8, :8]].max(initial=0) > 1e-3 * scale + 1e-6:
            return None
        numbers[i] = np.rint((x[i] - np.float64(offset)) / scale)
    numbers *= valid
    low, high = numbers.min(), numbers.max()
    kind = next((k for k in _KINDS if np.iinfo(k).min <= low and high <= np.iinfo(k).max), None)
    if kind is None:
        return None
    whole = numbers.astype(kind)
    same = all(np.array_equal(widen(whole[i], *pair)[valid[0]], x[i][valid[0]]) for i, pair in enumerate(pairs))
    return whole if same else None


def widen(stored: Pixels, scale: float, offset: float, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """float32 physical values of stored numbers, in the one order of operations that packing has checked."""
    if out is None:
        out = np.empty(stored.shape, np.float32)
    np.copyto(out, stored, casting="unsafe")
    if scale != 1.0:
        out *= np.float32(scale)
    if offset:
        out += np.float32(offset)
    return out


def smallest(values: Pixels) -> str:
    """The smallest integer type that holds these whole numbers."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    names = ("uint8", "int8", "uint16", "int16", "int32")
    return next((n for n in names if np.iinfo(n).min <= low and high <= np.iinfo(n).max), "int64")
