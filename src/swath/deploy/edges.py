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

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.deploy.packed import PackedConv

ABOUT = 9
"""Cells along an edge over which the mean about each of them is taken."""

Side = tuple[slice, slice]
Padded = nn.Conv2d | PackedConv


@contextmanager
def going_on(networks: Iterable[nn.Module], sides: Tensor, dates: int = 1) -> Generator[None]:
    """While it lasts, convolutions of these networks continue their maps where `sides` (B, 4: top, bottom, left, right)
    says that the scene goes on. They are those that keep their map's size.

    A network that answers each of `dates` by itself, (B * dates) maps, a sample's dates in a row, has to say so: maps
    of any other number (pieces of a map, one an object) are left as they are, for nothing tells which tile they are of.
    """
    known = {len(sides): sides, len(sides) * dates: sides.repeat_interleave(dates, 0)}
    handles = [
        layer.register_forward_hook(partial(_mend, known))
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


def _mend(known: Mapping[int, Tensor], layer: Padded, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
    """Outputs within the padding's reach of an edge, computed again from a map that goes on.

    Left and right are top and bottom of the map turned: kernels are slow on maps of one column.
    """
    x, (down, right) = given[0], layer.padding
    sides = known.get(len(x))
    if sides is None or min(x.shape[-2:]) < 2 * max(int(down), int(right)):
        return out
    for turned, two, p, q in (
        (False, sides[:, :2], int(down), int(right)),
        (True, sides[:, 2:], int(right), int(down)),
    ):
        if not p or not bool(two.any()):
            continue
        field, answer = (x.mT, out.mT) if turned else (x, out)
        ring = _bare(layer, ends(field, p, q), turned).chunk(2)
        for k, start in ((0, 0), (1, answer.shape[2] - p)):
            own, on = answer.narrow(2, start, p), two[:, k]
            own.copy_(ring[k] if bool(on.all()) else torch.where(on.view(-1, 1, 1, 1), ring[k], own))
    return out


def ends(x: Tensor, p: int, q: int) -> Tensor:
    """Tops of maps (B, C, H, W), then their bottoms: what a convolution that reaches p rows and q columns looks at
    there, with what is thought to lie beyond; (2 B, C, 3 p, W + 2 q)."""
    b, c, h, w = x.shape
    out = torch.empty(2 * b, c, 3 * p, w + 2 * q, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    inner = out[..., q : q + w]
    inner[:b, :, p:], inner[b:, :, : 2 * p] = x[:, :, : 2 * p], x[:, :, h - 2 * p :]
    beyond = continued(torch.cat([x[:, :, :1], x[:, :, h - 1 :]]))
    inner[:b, :, :p], inner[b:, :, 2 * p :] = beyond[:b], beyond[b:]
    if q:
        out[..., :q], out[..., q + w :] = out[..., q : q + 1], out[..., q + w - 1 : q + w]
    return out


def continued(edge: Tensor) -> Tensor:
    """What lies beyond an edge (B, C, 1, W): the mean of its own values and of the means about them."""
    half, size = ABOUT // 2, edge.shape[3]
    wide = F.pad(edge.contiguous(), (half, half, 0, 0), mode="replicate").float()
    about = wide[..., :size].clone()
    for shift in range(1, ABOUT):  # far faster than pooling, which is not made for windows of one row
        about += wide[..., shift : shift + size]
    return edge.lerp(about.div_(ABOUT).to(edge.dtype), 0.5)


def _bare(layer: Padded, x: Tensor, turned: bool) -> Tensor:
    """The convolution without any padding, of maps or of maps turned."""
    if isinstance(layer, PackedConv):
        return layer.bare(x, turned)
    weight, dilation = (layer.weight.mT, layer.dilation[::-1]) if turned else (layer.weight, layer.dilation)
    return F.conv2d(x, weight, layer.bias, 1, 0, cast("Any", dilation), layer.groups)
