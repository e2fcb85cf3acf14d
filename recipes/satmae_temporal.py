"""SatMAE, temporal (https://arxiv.org/abs/2207.08051): three dates, every token masked on its own.

lr is 1.5e-4 x batch / 256. `Tube(0.75)` gives the variant with the same places in every date.
"""

from __future__ import annotations

from swath.data.sources import SourceConfig
from swath.models.encoders.swath_vit import SwathViT
from swath.objectives.mae import MAE
from swath.objectives.masks.random import Random
from swath.objectives.pretraining import PretrainRun
from swath.train import LoopConfig


def run(data: SourceConfig) -> PretrainRun:
    """The published settings on any data."""
    objective = MAE(mask=Random(0.75), width=512, depth=8, heads=16, norm_pix=True)
    loop = LoopConfig(
        epochs=100, batch_size=512, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.05, warmup=0.1, precision="bf16"
    )
    return PretrainRun("satmae_temporal", data, SwathViT(size="large", drop_place=0.0), objective, loop)
