"""A thin adapter around a part of a block: adapters, prefixes and prompts hold what they wrap as `base_layer`.

The wrapped part is called with whatever its block passes, so signatures of any trunk go through unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from swath.core.errors import UserError


def width_of(part: nn.Module) -> int:
    """Width of the tokens that enter a part: the fan-in of its first linear layer."""
    for m in part.modules():
        if isinstance(m, nn.Linear):
            return m.in_features
    raise UserError(f"{type(part).__name__} has no linear layer", where="tuning")


def width_after(part: nn.Module) -> int:
    """Width of the tokens that leave a part: the fan-out of its last linear layer."""
    wide = [m.out_features for m in part.modules() if isinstance(m, nn.Linear)]
    if not wide:
        raise UserError(f"{type(part).__name__} has no linear layer", where="tuning")
    return wide[-1]


class Bottleneck(nn.Module):
    """A low-rank residual on the output of a part, computed from that output or from the part's input."""

    def __init__(self, base: nn.Module, wide: int, narrow: int, scale: float, at: Literal["output", "input"]) -> None:
        super().__init__()
        self.base_layer, self.scale, self.at = base, scale, at
        self.down, self.up = nn.Linear(wide, narrow), nn.Linear(narrow, wide)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = self.base_layer(x, *args, **kwargs)
        return y + self.scale * self.up(F.gelu(self.down(y if self.at == "output" else x)))


class _MoreKeys(TorchFunctionMode):
    """While it is on, attention sees `keys` and `values` (heads, P, d) before its own."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.seen = keys, values, 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is not F.scaled_dot_product_attention:
            return func(*args, **given)
        self.seen += 1
        q, k, v, *rest = [*args, *(given.pop(n) for n in ("query", "key", "value") if n in given)]
        mask = rest[0] if rest else given.pop("attn_mask", None)
        h, p, d = k.shape[1], self.keys.shape[0], k.shape[-1]
        heads = [t.view(p, h, d).movedim(1, 0).expand(len(k), h, p, d).to(k.dtype) for t in (self.keys, self.values)]
        if mask is not None:
            side = mask.new_ones if mask.dtype == torch.bool else mask.new_zeros
            mask = torch.cat([side((*mask.shape[:-1], p)), mask], -1)
        k, v = torch.cat([heads[0], k], -2), torch.cat([heads[1], v], -2)
        return func(q, k, v, mask, *rest[1:], **given)


class Prefixed(nn.Module):
    """An attention part with learned keys and values before its own."""

    def __init__(self, base: nn.Module, wide: int, length: int) -> None:
        super().__init__()
        self.base_layer = base
        self.prefix_keys = nn.Parameter(torch.randn(length, wide) * 0.02)
        self.prefix_values = nn.Parameter(torch.zeros(length, wide))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        with _MoreKeys(self.prefix_keys, self.prefix_values) as mode:
            y = self.base_layer(*args, **kwargs)
        if not mode.seen:
            raise UserError(
                f"{type(self.base_layer).__name__} does not use scaled_dot_product_attention",
                where="tuning: prefix",
                remedy="choose lora or an adapter for this encoder",
            )
        return y


class Prompted(nn.Module):
    """A block that sees learned tokens before its own; what comes after it never does.

    Deep prompts are this block's own. Shallow ones enter at the first block, and `hand_on` carries what the block
    made of them to the next one.
    """

    def __init__(
        self, base: nn.Module, prompts: nn.Parameter | None, hand_on: Callable[[Tensor | None], Tensor | None] | None
    ) -> None:
        super().__init__()
        self.base_layer, self.prompts = base, prompts
        self.hand_on = hand_on

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        own = self.prompts.expand(len(x), -1, -1) if self.prompts is not None else None
        if own is None and self.hand_on is not None:
            own = self.hand_on(None)
        if own is None or x.ndim != 3:
            raise UserError(f"prompts need tokens (B, N, D), not {tuple(x.shape)}", where="tuning: vpt")
        n, p = x.shape[1], own.shape[1]
        rest = [_longer(a, n, p) for a in args]
        named = {k: _longer(v, n, p) for k, v in kwargs.items()}
        y = self.base_layer(torch.cat([own.to(x.dtype), x], 1), *rest, **named)
        if self.hand_on is not None:
            self.hand_on(y[:, :p])
        return y[:, p:]


def _longer(arg: Any, n: int, p: int) -> Any:
    """Validity of N keys, with the prompts' own before it: True in a bool mask, 0 in an additive one."""
    if not isinstance(arg, Tensor) or arg.shape[-1] != n:
        return arg
    if arg.dtype != torch.bool and arg.ndim != 4:
        return arg
    if arg.ndim >= 3 and arg.shape[-2] == n:
        raise UserError("prompts cannot join an attention mask between tokens", where="tuning: vpt")
    side = arg.new_ones if arg.dtype == torch.bool else arg.new_zeros
    return torch.cat([side((*arg.shape[:-1], p)), arg], -1)
