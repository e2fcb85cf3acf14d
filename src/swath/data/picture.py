"""A layer as a picture for a report: three of its bands, and one stretch for all that are one picture's colours.

A value that was never measured decides nothing and has a colour of its own, neither the ground's nor a mask's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.core import Batch, Layer, Sensor

Picture = NDArray[np.uint8]
MISSING = (214, 204, 226)


def three(names: Sequence[str], count: int) -> list[int]:
    """Which of `count` bands to show as red, green and blue: these, else infrared in red, else what is there."""
    for wanted in (("red", "green", "blue"), ("nir", "red", "green"), ("nir08", "red", "green")):
        if len(names) == count and set(wanted) <= set(names):
            return [list(names).index(n) for n in wanted]
    return [0, 1, 2] if count >= 3 else [0, 1, 1] if count == 2 else [0, 0, 0]


def coloured(sensor: Sensor | None) -> bool:
    """Whether three bands are one picture's colours, and so have one stretch."""
    return sensor is not None and sensor.kind == "optical"


def limits(x: NDArray[Any], together: bool = False) -> tuple[NDArray[Any], NDArray[Any]]:
    """The 2nd and 98th percentile of each of (3, ...) planes, what is NaN left out; `together` for all as one, so
    that a grey ground stays grey."""
    flat = x.reshape(1 if together else len(x), -1)
    if np.isnan(flat).all():
        return np.zeros(len(x)), np.ones(len(x))
    low, high = (np.broadcast_to(np.nanpercentile(flat, q, axis=1), len(x)) for q in (2, 98))
    return low, high


def stretch(x: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> Picture:
    """(3, H, W) as bytes (H, W, 3)."""
    y = (x - low[:, None, None]) / np.maximum(high - low, 1e-6)[:, None, None]
    return np.rint(np.clip(np.nan_to_num(y), 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)


def blank(picture: Picture, there: NDArray[Any]) -> Picture:
    """The picture with what was never measured in its own colour."""
    return np.where(there[..., None], picture, np.array(MISSING, np.uint8))


def finest(batch: Batch) -> Layer:
    """The layer to show a sample by: the finest optical one, else the finest."""
    return max(batch.layers.values(), key=lambda v: (v.sensor.kind == "optical", v.shape[3]))


def seen(layer: Layer) -> Picture:
    """A layer's last date that shows anything (B = 1)."""
    some = layer.valid[0].flatten(1).any(1).nonzero().flatten()
    t = int(some[-1]) if len(some) else 0
    x = layer.x[0, t].float().numpy()[three(layer.sensor.names, layer.shape[2])]
    there = layer.valid[0, t, 0].numpy()
    return blank(stretch(x, *limits(np.where(there, x, np.nan), coloured(layer.sensor))), there)


def save(picture: Picture, path: Path, side: int) -> str:
    """PNG, enlarged by whole pixels to about `side` in height; its name."""
    from PIL import Image

    times = max(1, side // picture.shape[0])
    Image.fromarray(picture.repeat(times, 0).repeat(times, 1)).save(path)
    return path.name


__all__ = ["MISSING", "Picture", "blank", "coloured", "finest", "limits", "save", "seen", "stretch", "three"]
