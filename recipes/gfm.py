"""GFM (https://arxiv.org/abs/2302.04476): continual pretraining, masked painting plus a frozen teacher's features.

Needs `teacher`. lr is 2e-4 x batch / 512. Ours differs: a plain ViT instead of Swin-B.
"""

from __future__ import annotations

from swath.data.sources import SourceConfig
from swath.models.encoders.swath_vit import SwathViT
from swath.objectives.distill import Distill
from swath.objectives.masks.blocks import Blocks
from swath.objectives.pretraining import PretrainRun, Teacher
from swath.objectives.simmim import SimMIM
from swath.objectives.sum import Sum
from swath.train import LoopConfig


def run(data: SourceConfig, teacher: Teacher) -> PretrainRun:
    """The published settings on any data."""
    objective = Sum(
        parts=(SimMIM(mask=Blocks(0.6, side=2)), Distill(mask=Blocks(0.6, side=2), level=-1)), weights=(1.0, 1.0)
    )
    loop = LoopConfig(epochs=100, batch_size=1024, lr=4e-4, weight_decay=0.05, warmup=0.1, precision="bf16")
    return PretrainRun("gfm", data, SwathViT(size="base"), objective, loop, teacher=teacher)
