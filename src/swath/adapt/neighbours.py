"""The head of the `knn` tuning: a bank of training features that votes. Its output are log shares, read like logits."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.adapt.heads import Classes, Tags
from swath.adapt.task import TaskModule
from swath.adapt.tuning.knn import KNN
from swath.core.batch import Batch
from swath.core.contracts import Features
from swath.core.errors import UserError


class Neighbours(nn.Module):
    """`bank` (N, D) unit features and `votes` (N, K); empty until `remember`."""

    def __init__(self, config: KNN, width: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("bank", torch.zeros(0, width))
        self.register_buffer("votes", torch.zeros(0, outputs))

    def remember(self, features: Tensor, votes: Tensor) -> None:
        """Take these as the whole bank."""
        self.bank, self.votes = F.normalize(features.float(), dim=1), votes.float()

    def fit_to(self, rows: int) -> None:
        """Make room for a bank that is about to be loaded."""
        for name in ("bank", "votes"):
            old = cast("Tensor", getattr(self, name))
            setattr(self, name, old.new_zeros(rows, old.shape[1]))

    def forward(self, features: Features, batch: Batch, size: tuple[int, int]) -> Tensor:
        x = features.pooled
        bank, votes = self.bank, self.votes
        if not len(bank):
            return votes.new_zeros(len(x), votes.shape[1]) + 0.0 * x.sum(1, keepdim=True)
        near = (F.normalize(x.float(), dim=1) @ bank.T).topk(min(self.config.k, len(bank)), 1)
        weight = (near.values / self.config.temperature).softmax(1)
        share = torch.einsum("nk,nkc->nc", weight, votes[near.indices])
        return share.clamp_min(1e-6).log()


def install(task: TaskModule, config: KNN) -> None:
    """Give a task on the pooled vector a bank for a head."""
    if not isinstance(task, Classes | Tags) or getattr(task, "dense", False):
        raise UserError("knn votes on chips, not on pixels", where="tuning: knn",
                        remedy="choose linear or frozen for this task")  # fmt: skip
    task.head = Neighbours(config, task.spec.pooled, len(task.label.classes))


def votes_of(task: TaskModule, batch: Batch) -> tuple[Tensor, Tensor]:
    """Votes (B, K) of a batch's labels and which samples are labelled."""
    label = batch.labels[task.label.name]
    if label.kind == "class":
        return F.one_hot(label.value.clamp_min(0), len(task.label.classes)).float(), label.valid
    return label.value.float(), label.valid.all(1)
