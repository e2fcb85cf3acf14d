"""Prithvi-EO-2.0 (https://arxiv.org/abs/2412.02732): spatiotemporal MAE, four dates, mask 0.75, plain pixels.

Ours differs: swath-vit's own place and time codes instead of tubelets; epochs, batch and lr are ours.
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
    objective = MAE(mask=Random(0.75), width=512, depth=8, heads=16, norm_pix=False)
    loop = LoopConfig(
        epochs=400, batch_size=1024, lr=6e-4, betas=(0.9, 0.95), weight_decay=0.05, warmup=0.1, precision="bf16"
    )
    return PretrainRun("prithvi_eo_v2", data, SwathViT(size="large", drop_time=0.1, drop_place=0.1), objective, loop)
