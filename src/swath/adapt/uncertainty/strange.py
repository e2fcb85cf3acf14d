"""Out of distribution: Mahalanobis distance in feature space (Lee et al. 2018, arXiv:1807.03888), and kNN distance.

d2(f) = (f - mu)' S^-1 (f - mu), S shrunk towards its diagonal; the score is the share of training features that lie
nearer, so 0.5 is usual and above 0.99 is strange.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Mahalanobis:
    """Fitted on training features (N, D); scores features (..., D)."""

    def __init__(self, mean: Tensor, factor: Tensor, ranks: Tensor) -> None:
        self.mean, self.factor, self.ranks = mean, factor, ranks

    @classmethod
    def fit(cls, features: Tensor, shrink: float = 0.1) -> Mahalanobis:
        x = features.double()
        mean = x.mean(0)
        cov = (x - mean).T @ (x - mean) / max(1, len(x) - 1)
        cov = (1 - shrink) * cov + shrink * cov.diagonal().mean().clamp_min(1e-12) * torch.eye(
            len(cov), dtype=cov.dtype
        )
        factor = torch.linalg.inv(torch.linalg.cholesky(cov))
        own = cls(mean.float(), factor.float(), torch.zeros(1))
        spots = torch.linspace(0, 1, 257, dtype=torch.float64)
        own.ranks = own.distance(features).double().quantile(spots).float()
        return own

    def distance(self, features: Tensor) -> Tensor:
        centred = features.float() - self.mean.to(features.device)
        return (centred @ self.factor.T.to(features.device)).square().sum(-1)

    def score(self, features: Tensor) -> Tensor:
        """0..1: share of training features that lie nearer to their mean, without steps between the ranks kept."""
        ranks, d = self.ranks.to(features.device), self.distance(features).contiguous()
        last = len(ranks) - 1
        above = torch.searchsorted(ranks, d).clamp(1, last)
        low, high = ranks[above - 1], ranks[above]
        part = ((d - low) / (high - low).clamp_min(torch.finfo(d.dtype).tiny)).clamp(0.0, 1.0)
        return (above - 1 + part) / last

    def tensors(self) -> dict[str, Tensor]:
        return {"ood.mean": self.mean, "ood.factor": self.factor, "ood.ranks": self.ranks}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Mahalanobis | None:
        if "ood.mean" not in tensors:
            return None
        return cls(tensors["ood.mean"], tensors["ood.factor"], tensors["ood.ranks"])


def knn_distance(features: Tensor, bank: Tensor, k: int = 10) -> Tensor:
    """Cosine distance to the k-th nearest of a bank (Sun et al. 2022, arXiv:2204.06507)."""
    a = torch.nn.functional.normalize(features.float(), dim=-1)
    b = torch.nn.functional.normalize(bank.float(), dim=-1)
    return 1.0 - (a @ b.T).topk(min(k, len(b)), -1).values[..., -1]
