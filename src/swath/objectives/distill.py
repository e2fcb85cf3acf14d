"""Distillation from a frozen teacher that sees everything: L = 1 - cos(W z_student, z_teacher).

The student may see a masked sample. With `mae` or `simmim` in a `sum` it is the second term of GFM
(https://arxiv.org/abs/2302.04476), DOFA and Clay; `level` reads the teacher at one of its stages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from swath.core import Batch, Step, UserError
from swath.objectives import Kit
from swath.objectives._objective import (
    ObjectiveModule,
    encode,
    frozen_eval,
    masked,
    pooled_width,
    token_width,
)
from swath.objectives.losses.pixels import cosine_distance
from swath.objectives.masks import MASKS, Mask


@dataclass(frozen=True)
class Distill:
    """`mask` None: the student sees everything. `level` None: the teacher's pooled vector, else the mean of a map."""

    kind: ClassVar[str] = "distill"
    mask: Annotated[Mask | None, MASKS] = None
    level: int | None = None

    def build(self, kit: Kit) -> Student:
        return Student(self, kit)


class Student(ObjectiveModule):
    """The module of `Distill`; the teacher's weights stay out of checkpoints, their hash goes in."""

    constant: ClassVar[tuple[str, ...]] = ("teacher",)

    def __init__(self, config: Distill, kit: Kit) -> None:
        super().__init__(kit.encoder)
        if kit.teacher is None:
            raise UserError(
                "distillation needs a teacher",
                where="objective distill",
                remedy="name one in the run: teacher: {encoder: ..., weights: ...}",
            )
        self.config, self.teacher = config, frozen_eval(kit.teacher)
        given = pooled_width(kit.encoder) if config.mask is None else token_width(kit.encoder)
        with torch.no_grad():
            wanted = self.taught(kit.example).shape[1]
        self.proj = nn.Linear(given, wanted)

    def train(self, mode: bool = True) -> Student:
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def taught(self, batch: Batch) -> Tensor:
        """The teacher's vector (B, D)."""
        run: Any = self.teacher
        features = run(batch)
        return features.pooled if self.config.level is None else features.maps[self.config.level].mean((2, 3))

    def learnt(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The student's vector."""
        run: Any = self.encoder
        if self.config.mask is None:
            return run(batch).pooled
        tokens, plan = masked(self.encoder, self.config.mask, batch, generator)
        kept = encode(self.encoder, plan.padded(tokens), plan.keep)
        seen = (plan.keep < plan.state.shape[1]).to(kept.dtype)[..., None]
        return (kept * seen).sum(1) / seen.sum(1).clamp_min(1)

    def forward(self, batch: Batch, generator: torch.Generator) -> Step:
        loss = cosine_distance(self.proj(self.learnt(batch, generator)), self.taught(batch)).mean()
        return Step(loss, {}, len(batch))


MEMBER = Distill
