"""IA3 (Liu et al. 2022, arXiv:2205.05638): one learned scale per channel, after linear layers or before the MLP's last.

Through `peft`: the scale stands on the output of a layer, and on the input of the last layer of an MLP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from swath.adapt import sites
from swath.adapt.tuning._peft import fold, inject, targets


@dataclass(frozen=True)
class IA3:
    """`layers`: last names of the layers; all linear (or convolution) layers of the blocks when empty."""

    kind: ClassVar[str] = "ia3"
    on: ClassVar[tuple[str, ...]] = ("vit", "swin", "resnet")
    exact: ClassVar[bool] = True
    layers: tuple[str, ...] = ()

    def apply(self, encoder: nn.Module) -> nn.Module:
        from peft import IA3Config

        sites.need(encoder, self.kind, self.on)
        names = targets(encoder, self.layers)
        into = [n for n in names if n.endswith(("fc2", "w2", "down_proj"))]
        return inject(encoder, IA3Config(target_modules=names, feedforward_modules=into))

    def merge(self, encoder: nn.Module) -> nn.Module:
        return fold(encoder)


MEMBER = IA3
