"""A network made ready to answer on a processor: weights once in the layout (and type) of oneDNN's kernels, activation
in the same pass, channels last. The mathematics is the module's own; in fp32 the last bits may move.

`pack` replaces in place what it knows (linear layers, convolutions, transposed ones without overlap, each with the ReLU
behind it, and the MLP of our transformer) and leaves all else. What rounding to bf16 would cost most stays in fp32: the
last layer, whose outputs are told apart by their differences, and sums along a residual stream, which autocast leaves
alone.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cached_property
from itertools import chain
from typing import Any, TypeGuard, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from swath.core import UserError
from swath.models.layers.products import Linear, Up, available, laid_out, product
from swath.models.layers.transformer import Mlp

LINEAR = (nn.Linear, Linear)
UPS = (nn.ConvTranspose2d, Up)
_READY: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
LEAST = 4096
"""Weights of fewer numbers are left as they are."""
ROWS = 1024
_ONE: Any = torch.ops.mkldnn


def supported(precision: str) -> bool:
    """Whether this build and processor have the kernels."""
    bf16 = getattr(_ONE, "_is_mkldnn_bf16_supported", None)
    return (
        available()
        and hasattr(_ONE, "_convolution_pointwise")
        and (precision == "fp32" or (bf16 is not None and bool(bf16())))
    )


class PackedLinear(nn.Module):
    """`after(W x + b)` in one pass."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype, after: str = "none") -> None:
        super().__init__()
        self.dtype, self.after = dtype, after
        self.packed = laid_out(layer.weight.detach().to(dtype).contiguous(), ROWS)
        bias = cast("Tensor | None", layer.bias)
        self.bias = None if bias is None else bias.detach().to(dtype)

    @property
    def weight(self) -> Tensor:
        """The weight as it was, for code that asks for it."""
        return self.packed.to_dense(torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        return product(x.to(self.dtype), self.packed, self.bias, self.after)


class PackedConv(nn.Module):
    """A convolution, and the ReLU behind it, channels last."""

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype, after: str = "none") -> None:
        super().__init__()
        self.dtype, self.after = dtype, after
        self.kernel_size, self.padding, self.stride, self.dilation = (
            list(cast("tuple[int, int]", v)) for v in (layer.kernel_size, layer.padding, layer.stride, layer.dilation)
        )
        self.groups, self.padding_mode = layer.groups, layer.padding_mode
        self.packed = self._laid_out(layer.weight.detach())
        self.bias = None if layer.bias is None else layer.bias.detach().to(dtype)

    def _laid_out(self, weight: Tensor) -> Tensor:
        weight = weight.to(self.dtype).contiguous()
        return _ONE._reorder_convolution_weight(weight, self.padding, self.stride, self.dilation, self.groups, None)

    @property
    def weight(self) -> Tensor:
        """The weight as it was."""
        return self.packed.to_dense(torch.float32)

    @cached_property
    def turned(self) -> Tensor:
        """The weight for maps whose rows and columns have changed places."""
        return self._laid_out(self.weight.mT)

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x, self.packed, self.padding, self.dilation)

    def bare(self, x: Tensor, turned: bool) -> Tensor:
        """The answer without any padding, for maps or maps turned; of a layer without strides."""
        weight, dilation = (self.turned, self.dilation[::-1]) if turned else (self.packed, self.dilation)
        return self._run(x, weight, [0, 0], dilation)

    def _run(self, x: Tensor, weight: Tensor, padding: list[int], dilation: list[int]) -> Tensor:
        x = x.to(self.dtype).contiguous(memory_format=torch.channels_last)
        return _ONE._convolution_pointwise(
            x, weight, self.bias, padding, self.stride, dilation, self.groups, self.after, [], "none"
        )


class PackedPatches(nn.Module):
    """A convolution whose stride is its kernel: a linear map of each square. oneDNN's own, channels last, takes three
    times as long where they are few (6 bands in squares of 16 onto 384)."""

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.size = layer.kernel_size
        flat = nn.Linear(layer.weight[0].numel(), layer.out_channels, bias=layer.bias is not None)
        flat.weight.data = layer.weight.detach().flatten(1)
        if layer.bias is not None:
            flat.bias.data = layer.bias.detach()
        self.flat, self.shape = PackedLinear(flat, dtype), layer.weight.shape

    @property
    def weight(self) -> Tensor:
        """The weight as it was."""
        return self.flat.weight.view(self.shape)

    @property
    def bias(self) -> Tensor | None:
        return self.flat.bias

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.shape
        kh, kw = self.size
        h, w = x.shape[2] // kh, x.shape[3] // kw
        squares = x[:, :, : h * kh, : w * kw].reshape(b, c, h, kh, w, kw).permute(0, 2, 4, 1, 3, 5)
        return self.flat(squares.reshape(b, h, w, c * kh * kw)).permute(0, 3, 1, 2)


class PackedUp(nn.Module):
    """A transposed convolution whose stride is its kernel: a linear map of each cell onto its own square."""

    def __init__(self, layer: nn.ConvTranspose2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.size, self.width = layer.kernel_size[0], layer.out_channels
        n = self.size * self.size * self.width
        flat = nn.Linear(layer.in_channels, n, bias=layer.bias is not None)
        flat.weight.data = layer.weight.detach().permute(2, 3, 1, 0).reshape(n, layer.in_channels)
        if layer.bias is not None:
            flat.bias.data = layer.bias.detach().repeat(self.size * self.size)
        self.flat = PackedLinear(flat, dtype)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        k = self.size
        cells = self.flat(x.permute(0, 2, 3, 1).contiguous()).view(b, h, w, k, k, self.width)
        return cells.permute(0, 1, 3, 2, 4, 5).reshape(b, h * k, w * k, self.width).permute(0, 3, 1, 2)


class Exact(nn.Module):
    """A layer that answers in fp32, whatever is around it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.layer(x.float())


def pack(module: nn.Module, precision: str, last: nn.Module | None = None) -> bool:
    """Make a network in eval mode ready for a processor, in place; the last layer of `last` (or of all) stays in fp32.

    False, and nothing done: this machine has no such kernels.
    """
    if not supported(precision):
        return False
    if (before := _READY.get(module)) is not None:
        if before != precision:
            raise UserError(
                f"the network was made ready for {before} and cannot go back",
                where=f"precision {precision}",
                remedy="open it again for the other precision",
            )
        return True
    _READY[module] = precision
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    layers = [m for m in (module if last is None else last).modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    _walk(module, dtype, layers[-1] if layers else None)
    return True


def packed(module: nn.Module, precision: str) -> nn.Module:
    """A copy made ready, for a network that others still hold (its digest, its training); a tensor that stays as it is
    is the module's own."""
    own = {id(t): t for t in chain(module.parameters(), module.buffers())}
    ready = deepcopy(module, own)
    pack(ready, precision, nn.Identity())
    return ready


def _walk(module: nn.Module, dtype: torch.dtype, last: nn.Module | None) -> None:
    before: str | None = None
    for name, child in list(module.named_children()):
        if isinstance(module, nn.Sequential) and type(child) is nn.ReLU and before is not None:
            conv = module.get_submodule(before)
            if isinstance(conv, PackedConv):
                conv.after = "relu"
                setattr(module, name, nn.Identity())
                continue
        if dtype is torch.bfloat16 and (child is last or _is_patches(child)):
            setattr(module, name, Exact(_packed(child, torch.float32) or child))
        elif (ready := _packed(child, dtype)) is not None:
            setattr(module, name, ready)
        else:
            _walk(child, dtype, last)
        before = name


def _is_patches(child: nn.Module) -> TypeGuard[nn.Conv2d]:
    """A patch embedding: what is rounded here is the picture itself, and it costs little."""
    if type(child) is not nn.Conv2d or child.groups > 1 or set(child.dilation) != {1}:
        return False
    bare = not isinstance(child.padding, str) and not any(child.padding)
    return bare and child.kernel_size == child.stride and child.kernel_size[0] > 1


def _packed(child: nn.Module, dtype: torch.dtype) -> nn.Module | None:
    """The same layer on oneDNN's side; None for what has to be left."""
    if not _free(child):
        return None
    if type(child) is Mlp and type(child.act) is nn.GELU and child.act.approximate == "none":
        if not all(type(f) in LINEAR and _free(f) and _large(f) for f in (child.fc1, child.fc2)):
            return None
        mlp: Any = child
        mlp.fc1, mlp.act, mlp.fc2 = PackedLinear(mlp.fc1, dtype, "gelu"), nn.Identity(), PackedLinear(mlp.fc2, dtype)
        return child
    if isinstance(child, nn.Linear) and type(child) in LINEAR and _large(child):
        return PackedLinear(child, dtype)
    if _is_patches(child) and _large(child):
        return PackedPatches(child, dtype)
    if type(child) is nn.Conv2d and _large(child) and child.padding_mode == "zeros":
        return PackedConv(child, dtype) if not isinstance(child.padding, str) else None
    if isinstance(child, nn.ConvTranspose2d) and type(child) in UPS and _large(child) and child.groups == 1:
        square = child.kernel_size == child.stride and len(set(child.kernel_size)) == 1
        bare = not any(child.padding) and not any(child.output_padding) and set(child.dilation) == {1}
        return PackedUp(child, dtype) if square and bare else None
    return None


def _free(layer: nn.Module) -> bool:
    """Whether nobody watches a layer or reckons its weight."""
    watched = layer.__dict__.get("_forward_hooks") or layer.__dict__.get("_forward_pre_hooks")
    return not watched and not nn.utils.parametrize.is_parametrized(layer)


def _large(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> bool:
    weight = layer.weight
    return weight.numel() >= LEAST and weight.dtype is torch.float32 and weight.device.type == "cpu"
