"""Batches between processes without copies: pixels lie in shared memory that is used again once nobody holds them.

A worker decodes into its slot; the reader gets tensors that look into it. A slot goes back to the worker when the last
tensor of its batch is gone, so a page is faulted in once a run and not once a batch (ADR 0302). Everything else of a
batch travels as a pickle in which a tensor is a place in the slot.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import pickle
import tempfile
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from swath.core.errors import SwathError

ALIGN = 64
MEBI = 1 << 20


def map_new(size: int) -> tuple[int, mmap.mmap]:
    """Fresh shared memory: the handle of a file without a name, and its mapping."""
    handle = _nameless()
    try:
        if hasattr(os, "posix_fallocate"):  # reserve: a write where no memory is left would else end the process
            os.posix_fallocate(handle, 0, size)
        else:
            os.truncate(handle, size)
        return handle, mmap.mmap(handle, size)
    except OSError as why:
        os.close(handle)
        raise SwathError(f"there is no memory for a batch of {size} bytes: {why.strerror}") from why


def _nameless() -> int:
    """Linux gives memory that no mount limits (a container's /dev/shm is 64 MB); elsewhere an unlinked file."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("swath-slot")
    handle, path = tempfile.mkstemp(prefix="swath-slot-")
    os.unlink(path)
    return handle


def map_known(handle: int) -> mmap.mmap:
    """The mapping of a file that another process has made."""
    try:
        return mmap.mmap(handle, 0)
    finally:
        os.close(handle)


class Room:
    """Takes arrays out of a slot as long as they fit; `need` says how much all of them would have taken."""

    def __init__(self, memory: mmap.mmap | None) -> None:
        self.memory, self.need = memory, 0
        self._start = 0 if memory is None else np.frombuffer(memory, np.uint8).ctypes.data

    def take(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """An array whose values are not set."""
        kind = np.dtype(dtype)
        count, at = math.prod(shape), self.need
        self.need = -(-(at + count * kind.itemsize) // ALIGN) * ALIGN
        if self.memory is None or self.need > len(self.memory):
            return np.empty(shape, kind)
        return np.frombuffer(self.memory, kind, count, at).reshape(shape)

    def place(self, address: int) -> int:
        """Where in the slot an address is; -1 when it is elsewhere."""
        at = address - self._start
        return at if self.memory is not None and 0 <= at < len(self.memory) else -1


class _Writer(pickle.Pickler):
    """Pickles a batch; its tensors become places in the room, copied there unless they already lie in it."""

    def __init__(self, out: io.BytesIO, room: Room) -> None:
        super().__init__(out, protocol=pickle.HIGHEST_PROTOCOL)
        self.room, self.fits = room, True

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, torch.Tensor) or obj.numel() == 0 or obj.requires_grad or obj.device.type != "cpu":
            return None
        if obj.dtype == torch.bfloat16:
            return None
        array = obj.numpy()
        at = self.room.place(array.ctypes.data) if array.flags.c_contiguous else -1
        if at < 0:
            mine = self.room.take(array.shape, array.dtype)
            at = self.room.place(mine.ctypes.data)
            if at < 0:
                self.fits = False
                return (0, array.shape, array.dtype.str)
            np.copyto(mine, array)
        return (at, array.shape, array.dtype.str)


class _Reader(pickle.Unpickler):
    def __init__(self, data: bytes, whole: NDArray[np.uint8]) -> None:
        super().__init__(io.BytesIO(data))
        self.whole = whole

    def persistent_load(self, pid: Any) -> torch.Tensor:
        at, shape, kind = pid
        dtype = np.dtype(kind)
        flat = self.whole[at : at + math.prod(shape) * dtype.itemsize]
        return torch.from_numpy(flat.view(dtype).reshape(shape))


def write(value: Any, room: Room) -> tuple[bytes, int, Room]:
    """A value as bytes, its tensors in the room. Where they do not fit a larger one is made: its handle, else -1."""
    handle = -1
    while True:
        out = io.BytesIO()
        writer = _Writer(out, room)
        writer.dump(value)
        if writer.fits:
            return out.getvalue(), handle, room
        if handle >= 0:
            os.close(handle)
        handle, memory = map_new(-(-(room.need + room.need // 8) // MEBI) * MEBI)
        room = Room(memory)


def read(data: bytes, memory: mmap.mmap, released: Callable[[], None]) -> Any:
    """Undo `write`; `released` is called when no tensor of the value is left."""
    whole: NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
    value = _Reader(data, whole).load()
    weakref.finalize(whole, released).atexit = False
    return value
