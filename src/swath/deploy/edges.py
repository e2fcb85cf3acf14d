"""What a decoder sees beyond the edge of a tile where the scene goes on: more of what lies at the edge, not zeros.

A padded convolution takes what lies beyond its map for zero. At the edge of a chip that is what the network learned; at
the edge of a tile inside a scene it is a cliff that is not there, and most of what a tile errs near its edge. What the
neighbouring tile has there is best guessed half by the edge's own value and half by the mean about it: features that
vary smoothly are continued by the one, those that do not are not told something false by the other. Chosen among zeros,
repeated, mirrored, extrapolated and mixed edges by `benchmarks/map_seams.py` on other scenes than it reports. Only a
ring as wide as the padding differs at each layer, so only that is computed again: four strips a convolution. At the
edge of the scene nothing changes, nor for whoever asks the network for a chip.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.deploy.packed import PackedConv

ABOUT = 9
"""Cells of a map (a side) over which the mean about its edge is taken."""

Side = tuple[slice, slice]
Padded = nn.Conv2d | PackedConv


@contextmanager
def going_on(networks: Iterable[nn.Module], sides: Tensor) -> Generator[None]:
    """While it lasts, convolutions of these networks continue their maps where `sides` (B, 4: top, bottom, left, right)
    says that the scene goes on. They are those that keep their map's size; a map that is not of B samples (several
    dates at once) is left as it is, for nothing tells which tile it is of."""
    handles = [
        layer.register_forward_hook(partial(_mend, sides))
        for network in networks
        for layer in network.modules()
        if type(layer) in (nn.Conv2d, PackedConv) and _keeps_size(cast("Padded", layer))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keeps_size(layer: Padded) -> bool:
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        return False
    spans = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return any(spans) and set(layer.stride) == {1} and [2 * p for p in layer.padding] == spans


def _mend(sides: Tensor, layer: Padded, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
    """Outputs within the padding's reach of an edge, computed again from a map that goes on."""
    x = given[0]
    if len(x) != len(sides):
        return out
    (down, right), (h, w) = cast("tuple[int, int]", layer.padding), (x.shape[-2], x.shape[-1])
    everything = slice(None)
    strips: list[tuple[int, int, Side, tuple[int, int, int, int], Side]] = [
        (0, down, (slice(0, 2 * down), everything), (right, right, down, 0), (slice(0, down), everything)),
        (1, down, (slice(-2 * down, None), everything), (right, right, 0, down), (slice(h - down, h), everything)),
        (2, right, (everything, slice(0, 2 * right)), (right, 0, down, down), (everything, slice(0, right))),
        (3, right, (everything, slice(-2 * right, None)), (0, right, down, down), (everything, slice(w - right, w))),
    ]
    for side, reach, near, pad, place in strips:
        if not reach or not bool(sides[:, side].any()) or min(h, w) < 2 * max(down, right):
            continue
        ring = _bare(layer, continued(x[(..., *near)], pad))
        own = out[(..., *place)]
        own.copy_(torch.where(sides[:, side].view(-1, 1, 1, 1), ring.to(out.dtype), own))
    return out


def continued(x: Tensor, pad: tuple[int, int, int, int]) -> Tensor:
    """A map and, on its sides (left, right, top, bottom), the mean of its edge repeated and of its blurred edge."""
    around = [ABOUT // 2] * 4
    blurred = F.avg_pool2d(F.pad(x, around, mode="replicate"), ABOUT, 1)
    out = F.pad((x + blurred) / 2, pad, mode="replicate")
    left, _, top, _ = pad
    out[..., top : top + x.shape[-2], left : left + x.shape[-1]] = x
    return out


def _bare(layer: Padded, x: Tensor) -> Tensor:
    """The convolution without any padding."""
    if isinstance(layer, PackedConv):
        return layer.run(x, [0, 0])
    return F.conv2d(x, layer.weight, layer.bias, 1, 0, cast("Any", layer.dilation), layer.groups)
