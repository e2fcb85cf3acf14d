"""One of several masks, drawn for each sample (Presto's four, Galileo's and OlmoEarth's alternations)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from swath.core import Tokens, UserError
from swath.objectives.masks import MASKS, Mask


@dataclass(frozen=True)
class Mixed:
    """`parts` with equal chance, or by `weights`. The default is Presto's: groups, timesteps, a run of timesteps,
    and tokens anywhere, each hiding three quarters."""

    kind: ClassVar[str] = "mixed"
    parts: tuple[Annotated[Mask, MASKS], ...] = ()
    weights: tuple[float, ...] = ()
    ratio: float = 0.75

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.members()):
            raise UserError(f"{len(self.weights)} weights for {len(self.members())} masks", where="mask mixed")

    def members(self) -> tuple[Mask, ...]:
        if self.parts:
            return self.parts
        whole, anywhere = MASKS.get("whole"), MASKS.get("random")
        axes = ("group", "time", "chunk")
        made = [whole(axis=a, ratio=self.ratio) for a in axes]  # type: ignore[call-arg]
        return (*made, anywhere(ratio=self.ratio))  # type: ignore[call-arg]

    def states(self, place: Tensor, present: Tensor, tokens: Tokens, g: torch.Generator) -> Tensor:
        members = self.members()
        weights = torch.tensor(self.weights or (1.0,) * len(members))
        at = int(torch.multinomial(weights, 1, generator=g))
        return members[at].states(place, present, tokens, g)


MEMBER = Mixed
