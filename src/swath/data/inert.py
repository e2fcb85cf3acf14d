"""Read a pickle without running anything: every class in it becomes a record, every call a note of its arguments."""

from __future__ import annotations

import ast
import datetime
import io
import pickle
from typing import Any

from swath.core.errors import UserError

_MOST = 64 << 20


class Record:
    """What stands where an object of an unknown class was: its constructor's arguments and its state."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Only NumPy's own array builders and dates are real; nothing else is imported or called."""
        import numpy as np

        name = (module_name.replace("numpy._core", "numpy.core"), global_name)
        real = {
            ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
            ("numpy.core.multiarray", "scalar"): np.float64(0).__reduce__()[0],
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("datetime", "date"): datetime.date,
            ("datetime", "datetime"): datetime.datetime,
        }
        return real.get(name, Record)

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("a persistent id")


def unpickle(data: bytes | str, where: str) -> Any:
    """The value of a pickle, or of the text of one (`b'...'`); only `UserError` leaves here."""
    try:
        raw: Any = ast.literal_eval(data) if isinstance(data, str) else data
        if not isinstance(raw, bytes) or len(raw) > _MOST:
            raise ValueError("no pickle")
        return _Reader(io.BytesIO(raw)).load()
    except Exception as why:
        raise UserError(f"the metadata cannot be read: {type(why).__name__} {str(why)[:120]}", where=where) from why
