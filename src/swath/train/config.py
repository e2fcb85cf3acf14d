"""What a run of the loop is: the `loop:` section of a run file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from swath.core.config import bounded, plain
from swath.core.errors import UserError

if TYPE_CHECKING:
    from torch import nn

Section = Literal["config", "code", "data", "environment", "frozen"]
Logger = Literal["tensorboard", "wandb", "mlflow"]
HOW_ONLY = ("workers", "start", "save_every", "keep", "log_every", "progress", "device", "energy", "parallel",
            "accumulate", "compile", "loggers", "allow")  # fmt: skip


_LEAST, _ANY = 1e-300, math.inf
BOUNDS = {
    "epochs": (_LEAST, _ANY), "steps": (1, _ANY), "lr": (0, 1e300), "weight_decay": (0, 1e300), "warmup": (0, _ANY),
    "floor": (0, 1), "layer_decay": (_LEAST, 1), "clip": (_LEAST, _ANY), "ema": (0, 1), "patience": (1, _ANY),
    "plateau_patience": (0, _ANY), "validate_every": (1, _ANY), "save_every": (1, _ANY), "workers": (0, _ANY),
}  # fmt: skip
"""A negative rate or clip would climb where it should descend, and say nothing."""


@dataclass(frozen=True)
class LoopConfig:
    """How to train. `batch_size` is the global one: an optimiser step sees it whatever the ranks and accumulation.

    `epochs` or `steps` says how long; `warmup` and `milestones` below 1 are fractions of the run, else steps.
    `lr` is reached after the warm-up and moves by `schedule` towards `lr * floor`. `patience` counts validations.
    `nonfinite: skip` leaves out a step whose loss or gradient is not finite, counts it and logs its samples.
    `allow` names fingerprint sections that may differ from those of the checkpoint that is resumed.
    """

    epochs: float | None = None
    steps: int | None = None
    batch_size: int = 16
    lr: float = 1e-3
    weight_decay: float = 0.05
    optimizer: Literal["adamw", "sgd", "lars"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["constant", "cosine", "linear", "multistep", "plateau"] = "cosine"
    warmup: float = 0.0
    floor: float = 0.0
    milestones: tuple[float, ...] = (0.6, 0.8)
    gamma: float = 0.1
    plateau_patience: int = 3
    layer_decay: float = 1.0
    clip: float | None = None
    accumulate: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    ema: float | None = None
    patience: int | None = None
    validate_every: int | None = None
    seed: int = 0
    drop_last: bool = True
    nonfinite: Literal["stop", "skip"] = "stop"
    microbatch_negatives: bool = False
    workers: int = 0
    start: Literal["fork", "spawn", "forkserver"] = "fork"
    save_every: int | None = None
    keep: int = 2
    log_every: int = 10
    progress: bool = True
    loggers: tuple[Logger, ...] = ()
    device: str = "auto"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    compile: bool = False
    energy: Literal["estimate", "codecarbon", "off"] = "estimate"
    allow: tuple[Section, ...] = ()

    def __post_init__(self) -> None:
        where = "loop"
        if (self.epochs is None) == (self.steps is None):
            raise UserError("give either 'epochs' or 'steps'", where=where)
        bounded(self, where, BOUNDS)
        for name in ("batch_size", "accumulate", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"'{name}' is {getattr(self, name)}; at least 1 is needed", where=where)
        if self.batch_size % self.accumulate:
            raise UserError(
                f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}",
                where=where,
                remedy="batch_size is the global one; accumulate says into how many parts a step is cut",
            )

    def total(self, steps_per_epoch: int) -> int:
        """Optimiser steps of the whole run."""
        if self.steps is not None:
            return self.steps
        return max(1, round(float(self.epochs or 0) * steps_per_epoch))

    def identity(self) -> dict[str, Any]:
        """What decides the weights: everything but how the work is carried out."""
        return {k: v for k, v in plain(self).items() if k not in HOW_ONLY}


assert set(HOW_ONLY) <= {f.name for f in fields(LoopConfig)}


@dataclass(frozen=True)
class Validation:
    """`run(module)` gives scores by name, on the weights to be judged (EMA when there is one), in eval mode.

    `metric` decides best weights, early stopping and the plateau; without one the scores are only written down.
    Every rank calls `run` with the same samples. `after` hears of each validation's step, with the same weights.
    """

    run: Callable[[nn.Module], Mapping[str, float]]
    metric: str | None
    direction: Literal["max", "min"] = "max"
    after: Callable[[int], None] | None = None

    def better(self, new: float, old: float | None) -> bool:
        if old is None:
            return True
        return new > old if self.direction == "max" else new < old
