"""Attention, and why it has two ways.

softmax(q k^T / sqrt(d) + bias) v runs through PyTorch's fused kernel, but for one case: bf16 on a CPU. There that
kernel's backward pass takes twice the time of plain products (benchmarks/pretrain_speed.py), and without a bias its
forward a quarter to a half more (benchmarks/map_peak.py), so these are used while the probabilities, which they keep,
are not too many; they want tokens as the linear maps leave them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

MOST_KEPT = 2**24
IN_CACHE = 2**20


def attend(packed: Tensor, q: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """(B, n, heads * d) for each query, all as linear maps make them and take them.

    `packed` (B, n, 3, heads, d) holds queries, keys and values, or (B, n, 2, heads, d) keys and values for queries
    `q` (B, m, heads, d). A bool `bias` says which keys stay, another one adds to the logits."""
    b, n, _, heads, _ = packed.shape
    asks = packed if q is None else q
    if _plainly(asks, b * heads * asks.shape[1] * n, bias):
        return _Plain.apply(packed, q, bias)  # type: ignore[no-any-return]
    if bias is None and _answers(asks, b * heads * asks.shape[1] * n):
        return _answer(packed, q)
    if q is None and bias is None and _by_name(packed):
        return _Fused.apply(packed)  # type: ignore[no-any-return]
    parts = packed.permute(2, 0, 3, 1, 4).unbind(0)
    query = parts[0] if q is None else q.transpose(1, 2)
    if bias is not None and bias.dtype != torch.bool:
        bias = bias.to(query.dtype)
    return scaled_dot_product_attention(query, parts[-2], parts[-1], attn_mask=bias).transpose(1, 2).flatten(2)


def _own(q: Tensor, dtype: torch.dtype) -> bool:
    """Whether a way of our own may be taken: nobody else builds on PyTorch's, such as the compiler, or prefix tuning,
    which gives attention more keys than it was called with."""
    listeners = torch._C._len_torch_function_stack()  # pyright: ignore
    return q.dtype is dtype and q.device.type == "cpu" and not listeners and not torch.compiler.is_compiling()


def _learns(q: Tensor, dtype: torch.dtype) -> bool:
    return torch.is_grad_enabled() and q.requires_grad and _own(q, dtype)


def _plainly(q: Tensor, kept: int, bias: Tensor | None) -> bool:
    """Whether plain products pay for these queries, and so many probabilities."""
    return _learns(q, torch.bfloat16) and not (bias is not None and bias.requires_grad) and kept <= MOST_KEPT


def _by_name(packed: Tensor) -> bool:
    """Whether the fused kernel's own operations may be called by name, to learn."""
    return (
        _learns(packed, torch.float32)
        and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        and not torch.is_autocast_enabled("cpu")
        and hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu")
    )


def _answers(q: Tensor, kept: int) -> bool:
    """Whether plain products pay where nothing is learned."""
    return _own(q, torch.bfloat16) and not (torch.is_grad_enabled() and q.requires_grad) and kept <= MOST_KEPT


def _answer(packed: Tensor, q: Tensor | None) -> Tensor:
    """Plain products, nothing kept: some samples at a time, in the same few buffers."""
    b, n, _, heads, d = packed.shape
    m = n if q is None else q.shape[1]
    out, nothing = packed.new_empty(b, m, heads, d), packed.new_empty(1, 1, 1)
    cuts = _cuts(b, heads * m * n)
    room = packed.new_empty(len(out[: cuts[0].stop]) if cuts else 0, heads, m, n)
    with torch.autocast("cpu", enabled=False):
        for i in cuts:
            parts = packed[i].permute(2, 0, 3, 1, 4).flatten(1, 2)
            asks = parts[0] if q is None else q[i].transpose(1, 2).flatten(0, 1)
            p = room[: len(out[i])].flatten(0, 1)
            torch.baddbmm(nothing, asks, parts[-2].mT, beta=0, alpha=d**-0.5, out=p)
            out[i] = torch.bmm(torch.softmax(p, -1, out=p), parts[-1]).view(-1, heads, m, d).transpose(1, 2)
    return out.flatten(2)


class _Plain(torch.autograd.Function):
    """Batched products and a softmax, in the type of the tokens. Every number is moved once each way: left to autograd,
    undoing the packing takes as long as the products."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, q: Tensor | None, bias: Tensor | None) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            parts = packed.permute(2, 0, 3, 1, 4).clone(memory_format=torch.contiguous_format)
            k, v, scale = parts[-2], parts[-1], packed.shape[-1] ** -0.5
            query = parts[0].mul_(scale) if q is None else (q.transpose(1, 2) * scale).contiguous()
            b, heads, m, d = query.shape
            p, out = query.new_empty(b, heads, m, k.shape[2]), query.new_empty(b, m, heads, d)
            for i in _cuts(b, p.shape[1:].numel()):
                logits = query[i] @ k[i].transpose(-1, -2)
                if bias is not None:
                    some = bias if len(bias) == 1 else bias[i]
                    logits = logits.masked_fill_(~some, -torch.inf) if some.dtype == torch.bool else logits.add_(some)
                torch.softmax(logits, -1, out=p[i])
                out[i] = (p[i] @ v[i]).transpose(1, 2)
            ctx.save_for_backward(query, k, v, p)
            ctx.alone = q is None
            return out.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor, Tensor | None, None]:
        q, k, v, p = ctx.saved_tensors
        (b, heads, n, d), m = k.shape, q.shape[2]
        out = k.new_empty(b, n, 3 if ctx.alone else 2, heads, d)
        asked = out[:, :, 0] if ctx.alone else q.new_empty(b, m, heads, d)
        with torch.autocast("cpu", enabled=False):
            g = grads[0].view(b, m, heads, d).transpose(1, 2).contiguous()
            for i in _cuts(b, p.shape[1:].numel()):
                each = torch.ops.aten._softmax_backward_data(g[i] @ v[i].transpose(-1, -2), p[i], -1, p.dtype)
                out[i, :, -1] = (p[i].transpose(-1, -2) @ g[i]).transpose(1, 2)
                out[i, :, -2] = (each.transpose(-1, -2) @ q[i]).transpose(1, 2)
                asked[i] = (each @ k[i]).mul_(d**-0.5).transpose(1, 2)
        return out, None if ctx.alone else asked, None


class _Fused(torch.autograd.Function):
    """The fused kernel, whose gradients are laid where the linear map before wants them: left to autograd, they are
    moved twice."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor) -> Tensor:
        q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
        out, logs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
        ctx.save_for_backward(q, k, v, out, logs)
        return out.transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, out, logs = ctx.saved_tensors
        b, heads, n, d = q.shape
        g = grads[0].reshape(b, n, heads, d).transpose(1, 2)
        slopes = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(g, q, k, v, out, logs, 0.0, False)
        packed = g.new_empty(b, n, 3, heads, d)
        for i, slope in enumerate(slopes):
            packed[:, :, i] = slope.transpose(1, 2)
        return packed


def _cuts(samples: int, kept: int) -> list[slice]:
    """Samples at a time whose logits, so many a sample, stay in a core's own cache."""
    step = max(1, IN_CACHE // max(1, kept))
    return [slice(i, i + step) for i in range(0, samples, step)]
