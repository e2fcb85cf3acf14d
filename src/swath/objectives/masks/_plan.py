"""The token plan: every token is visible (encoded), target (to be predicted), ignored, or missing (holds no data).

A mask only chooses among tokens that are present; missing ones stay missing whatever it says. Draws come from one
generator a sample, so the batch a sample happens to be in changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from swath.core import Tokens, UserError

VISIBLE, TARGET, IGNORE, MISSING = 0, 1, 2, 3


@dataclass(frozen=True, eq=False)
class Plan:
    """States (B, N), and the visible tokens' indices `keep` (B, K); a short row is filled with the index N."""

    state: Tensor
    keep: Tensor

    @classmethod
    def of(cls, state: Tensor) -> Plan:
        seen = state == VISIBLE
        count = seen.sum(1)
        width = max(1, int(count.max()))
        order = (~seen).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
        filled = torch.arange(width, device=state.device) < count[:, None]
        return cls(state, torch.where(filled, order, torch.full_like(order, state.shape[1])))

    @property
    def target(self) -> Tensor:
        return self.state == TARGET

    @property
    def targets(self) -> Tensor:
        """The target tokens' indices (B, M) in their order; a short row is filled with others."""
        width = max(1, int(self.target.sum(1).max()))
        return (~self.target).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]

    @property
    def visible(self) -> Tensor:
        return self.state == VISIBLE

    @property
    def used(self) -> Tensor:
        """What a predictor may look at: visible and target places."""
        return self.state <= TARGET

    def padded(self, tokens: Tokens) -> Tokens:
        """The tokens with a blank, invalid one at index N when a row of `keep` needs it."""
        if not bool((self.keep == self.state.shape[1]).any()):
            return tokens
        x = torch.cat([tokens.x, tokens.x.new_zeros(len(tokens.x), 1, tokens.x.shape[2])], 1)
        valid = torch.cat([tokens.valid, tokens.valid.new_zeros(len(tokens.valid), 1)], 1)
        return replace(tokens, x=x, valid=valid, place=torch.cat([tokens.place, tokens.place[-1:]]))

    def spread(self, kept: Tensor, filler: Tensor) -> Tensor:
        """Kept tokens (B, K, D) back in their places (B, N, D), `filler` (D,) or (B, N, D) elsewhere."""
        b, n = self.state.shape
        if bool((self.keep < n).all()):
            out = filler.to(kept.dtype).expand(b, n, kept.shape[2])
            return out.scatter(1, self.keep[..., None].expand_as(kept), kept)
        out = filler.to(kept.dtype).expand(b, n, kept.shape[2])
        out = torch.cat([out, out.new_zeros(b, 1, kept.shape[2])], 1)
        return out.scatter(1, self.keep[..., None].expand_as(kept), kept)[:, :n]


def draw(mask: Any, tokens: Tokens, draws: Sequence[torch.Generator]) -> Plan:
    """The plan of a batch from a mask; a sample that would see nothing is refused."""
    place, rows = tokens.place.cpu(), list[Tensor]()
    for present, g in zip(tokens.valid.cpu(), draws, strict=True):
        state: Tensor = mask.states(place, present, tokens, g)
        rows.append(torch.where(present, state.to(torch.uint8), torch.tensor(MISSING, dtype=torch.uint8)))
    state = torch.stack(rows)
    blind = (tokens.valid.cpu().any(1) & ~(state == VISIBLE).any(1)).nonzero()
    if len(blind):
        raise UserError(
            f"the mask leaves nothing to see in sample {int(blind[0])} of the batch",
            where=f"mask {getattr(mask, 'kind', '')}",
            remedy="lower its ratio, or give larger chips or more timesteps",
        )
    return Plan.of(state.to(tokens.x.device))


def uniform(n: int, g: torch.Generator) -> Tensor:
    """A random order of n things."""
    return torch.rand(n, generator=g).argsort()


def quota(present: Tensor, ratio: float) -> int:
    """How many present tokens to hide: at least one stays and, where two are there, at least one goes."""
    n = int(present.sum())
    return min(max(round(n * ratio), 1 if ratio > 0 else 0), max(n - 1, 0))
