"""MultiMAE (https://arxiv.org/abs/2204.01678): one visible token in six over all sensors, Dirichlet shares.

lr is 1e-4 x batch / 256.
"""

from __future__ import annotations

from swath.data.sources import SourceConfig
from swath.models.encoders.swath_vit import SwathViT
from swath.objectives.masks.dirichlet import Dirichlet
from swath.objectives.multimae import MultiMAE
from swath.objectives.pretraining import PretrainRun
from swath.train import LoopConfig


def run(data: SourceConfig) -> PretrainRun:
    """The published settings on any data."""
    objective = MultiMAE(mask=Dirichlet(ratio=5 / 6, alpha=1.0), width=256, depth=2, heads=8)
    loop = LoopConfig(
        epochs=400, batch_size=2048, lr=8e-4, betas=(0.9, 0.95), weight_decay=0.05, warmup=0.1, precision="bf16"
    )
    return PretrainRun("multimae", data, SwathViT(size="base"), objective, loop)
