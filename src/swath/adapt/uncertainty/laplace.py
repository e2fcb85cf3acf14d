"""Last-layer Laplace (Daxberger et al. 2021, arXiv:2106.14806), diagonal: a Gaussian over the head's weights.

Posterior precision of weight w_kd: prior + sum_n h_kn f_nd^2, with h = p(1 - p) for classes and 1/sigma^2 for values.
The predictive variance of logit k at f is sum_d f_d^2 / precision_kd, and the probit rule shrinks the logits:
z_k / sqrt(1 + pi var_k / 8).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class Laplace:
    """Accumulates curvature over training features (N, D), then gives variances of the head's outputs."""

    def __init__(self, precision: Tensor, prior: float = 1.0) -> None:
        self.precision, self.prior = precision, prior

    @classmethod
    def empty(cls, outputs: int, width: int, prior: float = 1.0) -> Laplace:
        return cls(torch.full((outputs, width + 1), prior), prior)

    @staticmethod
    def _with_one(features: Tensor) -> Tensor:
        return torch.cat([features, torch.ones_like(features[..., :1])], -1)

    def add(self, features: Tensor, curvature: Tensor) -> None:
        """Features (N, D) and the curvature of each output at them (N, K)."""
        f2 = self._with_one(features.float()).square()
        self.precision = self.precision + curvature.float().T @ f2

    def variance(self, features: Tensor) -> Tensor:
        """Variance of each output at features (..., D): (..., K)."""
        return self._with_one(features.float()).square() @ (1.0 / self.precision.to(features.device)).T

    def shrink(self, logits: Tensor, features: Tensor) -> Tensor:
        """Logits (..., K) after averaging over the posterior."""
        return logits / torch.sqrt(1.0 + math.pi / 8.0 * self.variance(features))

    def tensors(self) -> dict[str, Tensor]:
        return {"laplace.precision": self.precision}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Laplace | None:
        return cls(tensors["laplace.precision"]) if "laplace.precision" in tensors else None
