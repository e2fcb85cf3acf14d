"""SSL4EO-S12, MoCo v3 (https://arxiv.org/abs/2211.07044): two seasons of a place."""

from __future__ import annotations

from swath.data.sources import SourceConfig
from swath.models.encoders.swath_vit import SwathViT
from swath.objectives.moco import MoCo
from swath.objectives.pretraining import PretrainRun
from swath.train import LoopConfig


def run(data: SourceConfig) -> PretrainRun:
    """The published settings on any data."""
    objective = MoCo(version=3, dim=256, hidden=4096, tau=0.2, momentum=0.99, freeze_embed="embed")
    loop = LoopConfig(epochs=100, batch_size=256, lr=1.5e-4, weight_decay=0.1, warmup=0.1, precision="bf16")
    return PretrainRun("ssl4eo_moco", data, SwathViT(size="small"), objective, loop)
