"""Presto (https://arxiv.org/abs/2304.14065): pixel series, four structured masks with equal chance.

Ours differs: swath-vit nano (128 wide, 4 blocks) where Presto has 2 blocks and a token a band group.
"""

from __future__ import annotations

from swath.data.sources import SourceConfig
from swath.models.encoders.swath_vit import SwathViT
from swath.objectives.mae import MAE
from swath.objectives.masks.mixed import Mixed
from swath.objectives.pretraining import PretrainRun
from swath.train import LoopConfig


def run(data: SourceConfig) -> PretrainRun:
    """The published settings on any data."""
    objective = MAE(mask=Mixed(ratio=0.75), width=128, depth=2, heads=8, norm_pix=False)
    loop = LoopConfig(epochs=20, batch_size=4096, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, warmup=0.1)
    return PretrainRun("presto", data, SwathViT(size="nano", patch=1), objective, loop)
