"""SSL4EO-S12, DINO (https://arxiv.org/abs/2211.07044): two wide and eight small views over seasons.

lr, weight decay and clip are DINO's own defaults.
"""

from __future__ import annotations

from swath.data.sources import SourceConfig
from swath.models.encoders.swath_vit import SwathViT
from swath.objectives.dino import Dino
from swath.objectives.pretraining import PretrainRun
from swath.train import LoopConfig


def run(data: SourceConfig) -> PretrainRun:
    """The published settings on any data."""
    objective = Dino(prototypes=65536, local=8, tau_teacher=0.04, tau=0.1)
    loop = LoopConfig(epochs=100, batch_size=256, lr=5e-4, weight_decay=0.04, warmup=0.1, clip=3.0, precision="bf16")
    return PretrainRun("ssl4eo_dino", data, SwathViT(size="small"), objective, loop)
