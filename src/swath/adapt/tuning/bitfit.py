"""BitFit (Ben Zaken et al. 2022, arXiv:2106.10199): only the biases move (a norm's shift is a bias)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from swath.adapt import sites
from swath.core.errors import UserError


@dataclass(frozen=True)
class BitFit:
    """Every parameter called bias."""

    kind: ClassVar[str] = "bitfit"
    on: ClassVar[tuple[str, ...]] = ("vit", "swin", "resnet")
    exact: ClassVar[bool] = True

    def apply(self, encoder: nn.Module) -> nn.Module:
        sites.freeze(encoder)
        if not sites.thaw(encoder, [n for n, _ in encoder.named_parameters() if n.rpartition(".")[2].endswith("bias")]):
            raise UserError("the encoder has no biases", where="tuning: bitfit")
        return encoder

    def merge(self, encoder: nn.Module) -> nn.Module:
        return encoder


MEMBER = BitFit
