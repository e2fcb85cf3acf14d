"""Correlation losses over a batch of embeddings: Barlow Twins and DeCUR.

c = norm(a)' norm(b) / n. Barlow Twins (https://arxiv.org/abs/2103.03230) asks c = I. DeCUR
(https://arxiv.org/abs/2309.05300) asks that of the common block and c_ii = 0 of the part unique to a modality.
"""

from __future__ import annotations

from torch import Tensor


def correlation(a: Tensor, b: Tensor, count: float, eps: float = 1e-5) -> Tensor:
    """Cross-correlation (D, D) of two batches (N, D), each feature normalised over the batch; `count` divides."""

    def norm(z: Tensor) -> Tensor:
        return (z - z.mean(0)) * (z.var(0, unbiased=False) + eps).rsqrt()

    return norm(a).T @ norm(b) / count


def diagonal_terms(c: Tensor, target: float) -> tuple[Tensor, Tensor]:
    """Squared distance of the diagonal from `target`, and the squares off it."""
    on = (c.diagonal() - target).square().sum()
    return on, c.square().sum() - c.diagonal().square().sum()


def barlow_twins(c: Tensor, weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, diagonal term, off-diagonal term."""
    on, off = diagonal_terms(c, 1.0)
    return on + weight * off, on, off


def decur(c: Tensor, common: int, weight: float) -> tuple[Tensor, ...]:
    """Loss, diagonal, off-diagonal of the common block, then of the unique block."""
    on, off = diagonal_terms(c[:common, :common], 1.0)
    own_on, own_off = diagonal_terms(c[common:, common:], 0.0)
    return on + weight * off, on, off, own_on + weight * own_off, own_on, own_off
