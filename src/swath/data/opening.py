"""Opening: while this process imports torch or builds a network, another one reads the files that a run asks for first.

Importing torch takes longer than reading a hundred chips, and leaves every other core idle. `begin(plan)` forks, best
before torch is there; the fork imports rasterio, makes the plan (the paths, in the order of use) and reads each file
into memory that both share. `raster.chip` takes them from there. What could not be read, or was not planned, is read
from the file as ever, with its errors. The fork ends by itself when its plan or the room is used up, or its parent is
gone; `end` ends it at once.
"""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from swath.core.grid import Grid
from swath.data import place, raster
from swath.data.raster import Held

ROOM = 256 * 2**20
"""Bytes of files read ahead, at most."""
PARENT_DEATH = 1
"""Linux's PR_SET_PDEATHSIG: the signal to get when the parent is gone, however that came."""
Told = tuple[str, str, tuple[int, ...], int, Grid | None, float | None, tuple[float, float], tuple[str | None, ...]]
"""Path, type, shape, place in the shared memory, grid, nodata, lon/lat of the centre and names of the bands of a
file that was read."""


def begin(plan: Callable[[], Iterable[Path]], room: int = ROOM) -> Opening | None:
    """Start to read what `plan` names; None where a fork would not help or not be safe, or where one has begun."""
    lone = threading.active_count() == 1 and not multiprocessing.current_process().daemon
    if sys.platform != "linux" or not lone or len(os.sched_getaffinity(0)) < 2 or BEGUN:
        return None
    BEGUN.append(Opening(plan, room))
    return BEGUN[0]


def end() -> None:
    """What was begun is over."""
    for opening in list(BEGUN):
        opening.close()


BEGUN: list[Opening] = []


class Opening:
    """The files of a plan, each held until its last planned use; a file that is not of the plan ends it."""

    def __init__(self, plan: Callable[[], Iterable[Path]], room: int) -> None:
        context = multiprocessing.get_context("fork")
        self.room, self.owner = mmap.mmap(-1, room), os.getpid()
        self.line, far = context.Pipe(duplex=False)
        self.process = context.Process(target=_read, args=(far, plan, self.room, self.owner), daemon=True)
        self.process.start()
        far.close()
        self.uses: Counter[str] | None = None
        self.held: dict[str, Held | None] = {}
        raster.BEFOREHAND.append(self.take)

    def take(self, path: str) -> Held | None:
        """The file, as soon as it is read; None when it must be opened."""
        if os.getpid() != self.owner:  # a worker of the run: the line and the room are its parent's
            return None
        if self.uses is None:
            self.uses = Counter(self._receive() or ())
        if not self.uses[path]:
            self.close()
            return None
        while path not in self.held and (told := self._receive()) is not None:
            self.held[told[0]] = self._of(told)
        found = self.held.get(path)
        self.uses[path] -= 1
        if not self.uses[path]:
            self.held.pop(path, None)
        return found

    def _receive(self) -> Any:
        try:
            return self.line.recv()
        except (EOFError, OSError):
            return None

    def _of(self, told: Told | tuple[str]) -> Held | None:
        if len(told) == 1:
            return None
        path, kind, shape, at, grid, nodata, centre, names = told
        if grid is not None:
            place.KNOWN[grid] = centre
        pixels = np.frombuffer(self.room, kind, int(np.prod(shape)), at).reshape(shape)
        return Held(path, pixels, grid, nodata, names)

    def close(self) -> None:
        """Forget everything, and end the fork."""
        if self in BEGUN:
            BEGUN.remove(self)
            raster.BEFOREHAND.remove(self.take)
            self.held.clear()
            place.KNOWN.clear()
            self.line.close()
            self.process.kill()
            self.process.join(5)


def _read(line: Connection, plan: Callable[[], Iterable[Path]], room: mmap.mmap, parent: int) -> None:
    """The fork's life: the plan, then every file of it that there is room for."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PARENT_DEATH, signal.SIGKILL)
    nowhere = os.open(os.devnull, os.O_WRONLY)  # what is to be said is said by the run, once
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        if os.getppid() != parent:  # it died before the line above
            return
        paths = [str(p) for p in plan()]
        line.send(paths)
        at = 0
        for path in dict.fromkeys(paths):
            told = _one(path, room, at)
            if told is None:
                break
            line.send(told)
            at = told[3] + int(np.prod(told[2])) * np.dtype(told[1]).itemsize if len(told) > 1 else at
    except Exception:  # whoever needs the data meets the same mistake, and says it
        return


def _one(path: str, room: mmap.mmap, at: int) -> Told | tuple[str] | None:
    """A file read into the room from `at` on; its name alone where it cannot be read, None when the room is full."""
    at = -(-at // 64) * 64
    try:
        with raster.opened(path) as data:
            size = data.count * data.height * data.width * max(np.dtype(d).itemsize for d in data.dtypes)
            if at + size > len(room):
                return None
            pixels = raster.read_open(data)
            np.frombuffer(room, pixels.dtype, pixels.size, at).reshape(pixels.shape)[:] = pixels
            grid = raster.grid_of(data)
            names = tuple(data.descriptions)
            return path, pixels.dtype.str, pixels.shape, at, grid, data.nodata, place.lonlat(grid), names
    except Exception:
        return (path,)
