"""Nearest neighbours: nothing is learned; the head votes among the training samples (Wu et al. 2018, arXiv:1805.01978).

p(c) is proportional to the sum over the k nearest of class c of exp(cos / temperature).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from swath.adapt import sites


@dataclass(frozen=True)
class KNN:
    """`k` neighbours by cosine, weighted by `temperature`."""

    kind: ClassVar[str] = "knn"
    on: ClassVar[tuple[str, ...]] = ("vit", "swin", "resnet")
    exact: ClassVar[bool] = True
    k: int = 20
    temperature: float = 0.07

    def apply(self, encoder: nn.Module) -> nn.Module:
        return sites.freeze(encoder)

    def merge(self, encoder: nn.Module) -> nn.Module:
        return encoder


MEMBER = KNN
