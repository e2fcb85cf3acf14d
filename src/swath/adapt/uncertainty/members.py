"""Predictions from several members: deep ensembles (arXiv:1612.01474), MC dropout (arXiv:1506.02142).

`spread` is what the members do not agree on: mutual information for classes (and for each tag), the deviation of
their means for values.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from swath.adapt.uncertainty.calibration import entropy
from swath.core.batch import Batch
from swath.core.errors import UserError

Predict = Callable[[Batch], Mapping[str, Tensor]]


def combine(told: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One prediction of many: means, and `spread`."""
    if "probabilities" in told[0]:
        p = torch.stack([t["probabilities"] for t in told])
        mean = p.mean(0)
        # tags stand alone: each is a distribution over yes and no
        own = (lambda q: entropy(torch.stack([q, 1.0 - q], 1))) if "tags" in told[0] else entropy
        inner = torch.stack([own(one) for one in p]).mean(0)
        out = {"probabilities": mean, "spread": (own(mean) - inner).clamp_min(0.0)}
        if "classes" in told[0]:
            out["classes"] = mean.max(1).indices
        if "tags" in told[0]:
            out["tags"] = mean > 0.5
        return out
    values = torch.stack([t["values"] for t in told])
    out = {"values": values.mean(0), "spread": values.std(0, correction=0)}
    if "std" in told[0]:
        # law of total variance: what members say of themselves, and how far they stand apart
        own = torch.stack([t["std"] for t in told]).square().mean(0)
        out["std"] = (own + out["spread"].square()).sqrt()
    return out


@contextmanager
def dropping(module: nn.Module) -> Generator[int]:
    """Dropout layers on, everything else as in evaluation; gives how many there are that drop anything."""
    found = [m for m in module.modules() if isinstance(m, nn.Dropout | nn.Dropout1d | nn.Dropout2d) and m.p > 0]
    before = [m.training for m in found]
    for m in found:
        m.train()
    try:
        yield len(found)
    finally:
        for m, was in zip(found, before, strict=True):
            m.train(was)


def mc_dropout(module: nn.Module, predict: Predict, batch: Batch, times: int = 10, seed: int = 0) -> dict[str, Tensor]:
    """Mean and spread over dropout masks; a model without dropout is refused."""
    with dropping(module) as count, torch.random.fork_rng():
        if not count:
            raise UserError("the model has no dropout to sample from", where="uncertainty",
                            remedy="tune with task.dropout > 0, or use an ensemble or Laplace")  # fmt: skip
        torch.manual_seed(seed)
        return combine([predict(batch) for _ in range(times)])


def ensemble(members: Sequence[Predict], batch: Batch) -> dict[str, Tensor]:
    """Mean and spread over models tuned with different seeds."""
    if len(members) < 2:
        raise UserError("an ensemble has two members at least", where="uncertainty")
    return combine([m(batch) for m in members])
