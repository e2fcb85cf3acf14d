"""Hide whole timesteps, groups or sensors: what is hidden cannot be copied from its neighbours in the same slice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from swath.core import Tokens
from swath.objectives.masks._plan import TARGET, VISIBLE, quota, uniform


@dataclass(frozen=True)
class Whole:
    """`ratio` of the slices of `axis`: `time` (each sensor's timesteps apart), `group`, `sensor`, or `chunk`
    (consecutive timesteps, all sensors). Where there is one slice only, tokens are hidden at random instead."""

    kind: ClassVar[str] = "whole"
    axis: Literal["time", "group", "sensor", "chunk"] = "time"
    ratio: float = 0.5

    def states(self, place: Tensor, present: Tensor, tokens: Tokens, g: torch.Generator) -> Tensor:
        sensor, group, time = place[:, 0], place[:, 1], place[:, 2]
        match self.axis:
            case "time":
                part = sensor * 4096 + time
            case "group":
                part = sensor * 4096 + group
            case "sensor":
                part = sensor
            case "chunk":
                part = time
        there = part[present].unique()
        hide = quota(torch.ones(len(there)), self.ratio)
        if hide == 0:
            order = present.nonzero()[:, 0]
            order = order[uniform(len(order), g)][: quota(present, self.ratio)]
            state = torch.full((len(place),), VISIBLE, dtype=torch.uint8)
            state[order] = TARGET
            return state
        if self.axis == "chunk":
            start = int(torch.randint(len(there) - hide + 1, (1,), generator=g))
            hidden = there[start : start + hide]
        else:
            hidden = there[uniform(len(there), g)][:hide]
        return torch.where(torch.isin(part, hidden), TARGET, VISIBLE).to(torch.uint8)


MEMBER = Whole
