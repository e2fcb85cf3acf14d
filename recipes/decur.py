"""DeCUR (https://arxiv.org/abs/2309.05300): 7168 of 8192 dimensions shared by two sensors.

Ours differs: one encoder for both sensors, where the paper has one each; biases learn at the same rate.
"""

from __future__ import annotations

from swath.data.sources import SourceConfig
from swath.models.encoders.swath_vit import SwathViT
from swath.objectives.decur import DeCUR
from swath.objectives.pretraining import PretrainRun
from swath.train import LoopConfig


def run(data: SourceConfig) -> PretrainRun:
    """The published settings on any data."""
    objective = DeCUR(dim=8192, common=7168, lam=0.0051)
    loop = LoopConfig(epochs=100, batch_size=256, lr=0.2, optimizer="lars", weight_decay=1e-6, warmup=0.1)
    return PretrainRun("decur", data, SwathViT(size="small"), objective, loop)
