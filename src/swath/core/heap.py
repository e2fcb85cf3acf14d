"""Memory of a process: freed memory that stays, and imports without garbage collection.

A loop that takes and frees the same large buffers should not fault their pages in anew.

glibc maps each buffer above a threshold (of 32 MB at most) from fresh pages and gives them back when it is freed; a
training step on a CPU then spends 3 to 8 % of its time in page faults, a map whose blocks are larger 5 %. So nothing is
mapped alone any more: buffers of any size come from the heap, which does not shrink. Other systems are left as they
are. It stands in core because training and mapping both ask for it, and a map's worker that imported `swath.train`
would hold 70 MB more.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

_TRIM, _MAPS = -1, -4
SET = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_"}


def keep_freed() -> bool:
    """Ask the C library, for the rest of this process; True when it agreed. What was set in the environment stands."""
    if sys.platform != "linux" or SET & set(os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl and others have none
    return mallopt is not None and bool(mallopt(_TRIM, -1)) and bool(mallopt(_MAPS, 0))


@contextmanager
def importing() -> Generator[None]:
    """No search for garbage while large libraries are imported (torch: 12 % of its time); what they made is then set
    aside until the end, so that no later search goes through it."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # some libraries complain of what is still there at the very end
        if was:
            gc.enable()


__all__ = ["importing", "keep_freed"]
