"""FG-MAE (https://arxiv.org/abs/2310.18653): edges and spectral indices as targets, mask 0.7."""

from __future__ import annotations

from swath.data.sources import SourceConfig
from swath.models.encoders.swath_vit import SwathViT
from swath.objectives.fgmae import FGMAE
from swath.objectives.masks.random import Random
from swath.objectives.pretraining import PretrainRun
from swath.train import LoopConfig


def run(data: SourceConfig) -> PretrainRun:
    """The published settings on any data."""
    objective = FGMAE(mask=Random(0.7), width=512, depth=8, heads=16)
    loop = LoopConfig(
        epochs=100, batch_size=256, lr=1.5e-4, betas=(0.9, 0.95), weight_decay=0.05, warmup=0.1, precision="bf16"
    )
    return PretrainRun("fg_mae", data, SwathViT(size="small"), objective, loop)
