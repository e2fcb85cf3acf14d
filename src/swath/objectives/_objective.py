"""ObjectiveModule: what every objective here is, and the access it has to its encoder."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from swath.core import Batch, Step, Tokens, UserError, per_sample
from swath.objectives.masks import Mask, Plan, draw


class ObjectiveModule(nn.Module, ABC):
    """Meets `core.contracts.Objective`. `batch_coupled`: samples of a batch meet in the loss."""

    batch_coupled: bool = False

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    @abstractmethod
    def forward(self, batch: Batch, generator: torch.Generator) -> Step: ...

    def after_step(self, step: int, total: int) -> None:
        """What follows an optimiser step: moving averages and queues."""

    @torch.no_grad()
    def tokens_of(self, batch: Batch) -> int:
        """How many tokens hold the batch, hidden ones too; 0 for an encoder without tokens."""
        return tokenize(self.encoder, batch).valid.numel() if hasattr(self.encoder, "tokenize") else 0

    def pictures(self, batch: Batch, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Images for the report, by name; empty where the objective makes none."""
        return {}


def tokenize(encoder: nn.Module, batch: Batch) -> Tokens:
    """The encoder's tokens of a batch; an encoder without tokens is refused in words."""
    make: Any = getattr(encoder, "tokenize", None)
    if make is None:
        raise UserError(
            f"{type(encoder).__name__} has no tokens to hide",
            where="objective",
            remedy="masked objectives need a transformer; take inpaint, moco, dino, seco, triplet or decur for this",
        )
    return make(batch)


def masked(encoder: nn.Module, mask: Mask, batch: Batch, generator: torch.Generator) -> tuple[Tokens, Plan]:
    """The encoder's tokens of a batch, and what a mask does to them: each sample by its own draw."""
    tokens = tokenize(encoder, batch)
    return tokens, draw(mask, tokens, per_sample(generator, batch.where.key, "mask"))


def encode(encoder: nn.Module, tokens: Tokens, keep: Tensor | None = None) -> Tensor:
    """Encoded tokens (B, K, D)."""
    run: Any = encoder
    return run.encode(tokens, keep)


def token_width(encoder: nn.Module) -> int:
    """The width of encoded tokens."""
    spec: Any = encoder
    return int(spec.spec.widths[-1])


def pooled_width(encoder: nn.Module) -> int:
    """The width of an encoder's pooled vector."""
    spec: Any = encoder
    return int(spec.spec.pooled)


def momentum(first: float, last: float, step: int, total: int) -> float:
    """A moving average's factor, by a cosine from `first` to `last` over the run."""
    return last - (last - first) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, total))))


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, m: float) -> None:
    """slow = m slow + (1 - m) fast over parameters; buffers are copied."""
    for a, b in zip(slow.parameters(), fast.parameters(), strict=True):
        a.lerp_(b.detach().to(a.dtype), 1 - m)
    for a, b in zip(slow.buffers(), fast.buffers(), strict=True):
        a.copy_(b)


def tapped(encoder: nn.Module, tokens: Tokens) -> list[Tensor]:
    """Token states before the blocks and after each, found by hooks on the encoder's repeated blocks."""
    from swath.train.optim import blocks_of

    n, states = len(tokens.place), [tokens.x]
    hooks = [
        block.register_forward_hook(lambda _m, _i, out: states.append(out[:, -n:]))  # prefix tokens come first
        for _, block in blocks_of(encoder)
    ]
    encode(encoder, tokens)
    for hook in hooks:
        hook.remove()
    return states


def frozen_eval(module: nn.Module) -> nn.Module:
    """A module that learns nothing and never enters training mode's randomness."""
    return module.requires_grad_(False).eval()
