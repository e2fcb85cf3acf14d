"""Linear maps through oneDNN on a CPU: x w^T + b in float32, faster than torch's own road.

torch sends float32 products to MKL, those of bfloat16 to oneDNN. On AMD's processors oneDNN does 7 to 10 % more
float32 products a second (benchmarks/products.py); the weight's gradient, whose operands lie across, stays with MKL. A
network that only infers also has its GELU done in the product's last pass.
A transposed convolution without overlap is such a linear map too (`Up`), and so is one of single pixels (`Point`).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

LEAST = 2**21
"""Multiplications below which the call costs more than it saves."""


def _onednn(x: Tensor, weight: Tensor, types: tuple[torch.dtype, ...]) -> bool:
    return (
        x.dtype in types
        and x.device.type == "cpu"
        and x.numel() * weight.shape[0] >= LEAST
        and _plain(weight, x.dtype)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        and not torch.is_autocast_enabled("cpu")
        and available()
    )


def _plain(weight: Tensor, dtype: torch.dtype) -> bool:
    known = type(weight) in (Tensor, nn.Parameter) and weight.device.type == "cpu"
    return known and weight.dtype == dtype and weight.is_contiguous()


def available() -> bool:
    """Whether this build has oneDNN's linear maps, and they are not switched off."""
    mkldnn = torch.backends.mkldnn
    return mkldnn.enabled and mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(x: Tensor, weight: Tensor, bias: Tensor | None, then: str = "none") -> Tensor:
    """oneDNN's linear map (..., in) by (out, in), the weight as it is or laid out by `laid_out`; nothing is checked.

    `then` "gelu" is the exact one, in the same pass."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "none")


def laid_out(weight: Tensor, rows: int) -> Tensor:
    """A weight in the order in which oneDNN reads it for products of about so many rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What `torch.nn.functional.linear` gives."""
    if not _onednn(x, weight, (torch.float32,)):
        return functional.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        out = _Linear.apply(rows, weight, bias)
    else:
        out = product(rows, weight, bias)
    return out.view(*x.shape[:-1], weight.shape[0])  # type: ignore[no-any-return]


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The exact GELU of a linear map; no gradient passes."""
    if not _onednn(x, weight, (torch.float32, torch.bfloat16)):
        return torch.ops.aten.gelu_(functional.linear(x, weight, bias))
    out = product(x.reshape(-1, x.shape[-1]).contiguous(), weight, bias, "gelu")
    return out.view(*x.shape[:-1], weight.shape[0])


def mlp(x: Tensor, weight1: Tensor, bias1: Tensor | None, weight2: Tensor, bias2: Tensor | None) -> Tensor:
    """A linear map of the exact GELU of another. A gradient of the GELU is written over what it is made from: nobody
    else holds it, and fresh memory of an MLP's width costs what the products would gain."""
    parts = (x, weight1, bias1, weight2, bias2)
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in parts)
    if not (learns and _onednn(x, weight1, (torch.float32,)) and _plain(weight2, x.dtype)):
        hidden = linear(x, weight1, bias1)
        return linear(functional.gelu(hidden), weight2, bias2)
    out = _Mlp.apply(x.reshape(-1, x.shape[-1]).contiguous(), *parts[1:])
    return out.view(*x.shape[:-1], weight2.shape[0])  # type: ignore[no-any-return]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (want_x, want_w, want_b), g = ctx.needs_input_grad, grads[0].contiguous()
        return (
            product(g, weight.t(), None) if want_x else None,
            g.t() @ x if want_w else None,
            g.sum(0) if want_b and ctx.biased else None,
        )


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *parts: Tensor | None) -> Tensor:
        weight1, bias1, weight2, bias2 = cast("tuple[Tensor, Tensor | None, Tensor, Tensor | None]", parts)
        hidden = product(x, weight1, bias1)
        active = functional.gelu(hidden)
        ctx.save_for_backward(x, weight1, weight2, hidden, active)
        return product(active, weight2, bias2)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, weight1, weight2, hidden, active = ctx.saved_tensors
        want, g = ctx.needs_input_grad, grads[0].contiguous()
        out: list[Tensor | None] = [None] * 5
        out[3], out[4] = (g.t() @ active if want[3] else None), (g.sum(0) if want[4] else None)
        if any(want[:3]):
            own = product(g, weight2.t(), None)
            torch.ops.aten.gelu_backward.grad_input(own, hidden, grad_input=own)
            out[0] = product(own, weight1.t(), None) if want[0] else None
            out[1] = own.t() @ x if want[1] else None
            out[2] = own.sum(0) if want[2] else None
        return tuple(out)


class Linear(nn.Linear):
    """`nn.Linear` by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class Up(nn.ConvTranspose2d):
    """A transposed convolution whose stride is its kernel, as what it is: a linear map of each cell onto its own
    square. For few channels of large squares: 384 onto 2 of 16 x 16 takes a seventh of torch's time on a CPU, forward;
    384 onto 384 of 2 x 2 takes longer than it, backward."""

    def __init__(self, given: int, width: int, size: int) -> None:
        super().__init__(given, width, size, size)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        del output_size  # a whole number of squares
        b, _, h, w = input.shape
        n, k = self.out_channels, self.kernel_size[0]
        bias = None if self.bias is None else self.bias.repeat_interleave(k * k)
        cells = linear(input.permute(0, 2, 3, 1), self.weight.flatten(1).t().contiguous(), bias)
        return cells.view(b, h, w, n, k, k).permute(0, 3, 1, 4, 2, 5).reshape(b, n, h * k, w * k)


class Point(nn.Conv2d):
    """A 1 x 1 convolution as what it is, one product of all pixels: of two channels on two cores it takes less than a
    tenth of oneDNN's time, of 32 onto 11 less than two thirds; on one core as long (benchmarks/products.py)."""

    def __init__(self, given: int, width: int) -> None:
        super().__init__(given, width, 1)

    def forward(self, input: Tensor) -> Tensor:
        if not (_pixels(input) and _plain(self.weight, input.dtype)):
            return super().forward(input)
        (b, n, h, w), weight = input.shape, self.weight.flatten(1).expand(len(input), -1, -1)
        rows = input.view(b, n, h * w)
        bias = None if self.bias is None else self.bias[None, :, None]
        told = torch.bmm(weight, rows) if bias is None else torch.baddbmm(bias, weight, rows)
        return told.view(b, self.out_channels, h, w)


def _pixels(x: Tensor) -> bool:
    """Whether a map's planes stand one behind the other, in float32, on a CPU where nobody else lays out the work."""
    return (
        x.ndim == 4
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.is_contiguous()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        and not torch.is_autocast_enabled("cpu")
    )
