"""Galileo (https://arxiv.org/abs/2502.09356): a structured and a random view, deep and shallow targets.

Set `depths` by sensor (0 for maps, 0.5 for weather and elevation). Ours differs: two views a batch, not four.
"""

from __future__ import annotations

from swath.data.sources import SourceConfig
from swath.models.encoders.swath_vit import SwathViT
from swath.objectives.latent_mim import LatentMIM
from swath.objectives.masks.mixed import Mixed
from swath.objectives.masks.random import Random
from swath.objectives.masks.tube import Tube
from swath.objectives.masks.whole import Whole
from swath.objectives.pretraining import PretrainRun
from swath.train import LoopConfig


def run(data: SourceConfig) -> PretrainRun:
    """The published settings on any data."""
    objective = LatentMIM(
        masks=(Mixed((Tube(0.9), Whole("time", 0.9))), Random(0.9, predict=5 / 9)),
        target="average",
        local=True,
        predictors=2,
        contrast=0.0,
        width=192,
        depth=4,
        heads=3,
        ema=(0.996, 1.0),
    )
    loop = LoopConfig(epochs=500, batch_size=512, lr=3e-3, weight_decay=0.02, clip=1.0, warmup=0.06, precision="bf16")
    return PretrainRun("galileo", data, SwathViT(size="tiny"), objective, loop)
