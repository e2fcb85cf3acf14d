"""LoRA (Hu et al. 2021, arXiv:2106.09685): W + (alpha / rank) B A, on the linear layers of the blocks.

Through `peft`; on a convolutional trunk the convolutions of the blocks are the targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from swath.adapt import sites
from swath.adapt.tuning._peft import fold, inject, targets
from swath.core.config import bounded


@dataclass(frozen=True)
class LoRA:
    """`layers`: last names of the layers (such as qkv, proj); all linear layers of the blocks when empty."""

    kind: ClassVar[str] = "lora"
    on: ClassVar[tuple[str, ...]] = ("vit", "swin", "resnet")
    exact: ClassVar[bool] = True
    apart: ClassVar[bool] = False  # whether direction and length of a row are learnt apart, as in DoRA
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        bounded(self, f"tuning: {self.kind}", {"rank": (1, 1_000_000), "dropout": (0.0, 0.999)})

    def apply(self, encoder: nn.Module) -> nn.Module:
        from peft import LoraConfig

        sites.need(encoder, self.kind, self.on)
        config = LoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout,  # type: ignore[arg-type]
            target_modules=targets(encoder, self.layers, grouped=False), use_dora=self.apart,
        )  # fmt: skip
        return inject(encoder, config)

    def merge(self, encoder: nn.Module) -> nn.Module:
        return fold(encoder)


MEMBER = LoRA
