"""The shared transformer trunk: pre-norm blocks whose parameter names are those of the published ViTs.

x = x + ls1(attn(norm1(x))); x = x + ls2(mlp(norm2(x))). Attention is `attend`.
An Image is Worth 16x16 Words, https://arxiv.org/abs/2010.11929
"""

from __future__ import annotations

from typing import TypeGuard, cast

import torch
from torch import Tensor, nn

from swath.models.layers.attention import attend
from swath.models.layers.products import Linear, linear, linear_gelu, mlp


class Attention(nn.Module):
    """Multi-head self-attention with one `qkv` projection. `bias` adds to the logits, a bool one masks (True stays)."""

    def __init__(self, dim: int, heads: int, qkv_bias: bool = True, proj_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim, bias=proj_bias)

    def some(self, x: Tensor, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """What `forward` gives at the `rows` (B, M) of x, which ask all of x."""
        b, n, d = x.shape
        if bias is not None and bias.shape[-2] > 1:  # one that differs by row
            full = bias.expand(b, *bias.shape[1:])
            bias = full.gather(2, rows[:, None, :, None].expand(-1, full.shape[1], -1, n))
        asks = x.gather(1, rows[..., None].expand(-1, -1, d))
        (wq, wk) = self.qkv.weight.split((d, 2 * d))
        bias_of = cast("Tensor | None", self.qkv.bias)  # there is none with qkv_bias=False
        (bq, bk) = (None, None) if bias_of is None else bias_of.split((d, 2 * d))
        q = linear(asks, wq, bq).view(b, -1, self.heads, d // self.heads)
        kv = linear(x, wk, bk).view(b, n, 2, self.heads, d // self.heads)
        return self.proj(attend(kv, q, bias))

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        b, n, d = x.shape
        return self.proj(attend(self.qkv(x).view(b, n, 3, self.heads, d // self.heads), bias=bias))


def gelu(x: Tensor) -> Tensor:
    """Exact GELU, into `x` when no gradient is asked for: a fresh buffer of an MLP's size costs page faults."""
    return torch.nn.functional.gelu(x) if torch.is_grad_enabled() else torch.ops.aten.gelu_(x)


def mlp_of(fc1: nn.Module, fc2: nn.Module, x: Tensor) -> Tensor:
    """`fc2` of the GELU of `fc1`, in as few passes as can be where nobody (a tuning, a hook) stands in between."""
    if not _bare(fc1):
        return fc2(gelu(fc1(x)))
    if not torch.is_grad_enabled():
        return fc2(linear_gelu(x, fc1.weight, fc1.bias))
    return mlp(x, fc1.weight, fc1.bias, fc2.weight, fc2.bias) if _bare(fc2) else fc2(gelu(fc1(x)))


def _bare(layer: nn.Module) -> TypeGuard[Linear]:
    hooked = layer._forward_hooks or layer._forward_pre_hooks  # pyright: ignore[reportPrivateUsage]
    return type(layer) is Linear and not hooked


def added(x: Tensor, part: Tensor) -> Tensor:
    """`x + part`, into `x` when no gradient is asked for; `x` must be the caller's own."""
    return x + part if torch.is_grad_enabled() else x.add_(part)


class Mlp(nn.Module):
    """Two linear maps with exact GELU between."""

    def __init__(self, dim: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = Linear(hidden, out or dim)

    def forward(self, x: Tensor) -> Tensor:
        exact = type(self.act) is nn.GELU and self.act.approximate == "none"
        return mlp_of(self.fc1, self.fc2, x) if exact else self.fc2(self.act(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned scale per feature."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """One pre-norm transformer block; `init_scale` adds LayerScale."""

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        *,
        qkv_bias: bool = True,
        eps: float = 1e-6,
        init_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        if init_scale is not None:
            self.ls1, self.ls2 = LayerScale(dim, init_scale), LayerScale(dim, init_scale)
        self.scaled = init_scale is not None

    def forward(self, x: Tensor, bias: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """`rows` (B, M): only these tokens go on; nothing is computed for the others but their keys and values."""
        if rows is None:
            a = self.attn(self.norm1(x), bias)
        else:
            a = self.attn.some(self.norm1(x), rows, bias)
            x = x.gather(1, rows[..., None].expand(-1, -1, x.shape[2]))
        x = x + (self.ls1(a) if self.scaled else a)
        m = self.mlp(self.norm2(x))
        return added(x, self.ls2(m) if self.scaled else m)
