"""SeCo (https://arxiv.org/abs/2103.16607): three spaces, three different dates.

Ours differs: a ViT where the paper has ResNets; any encoder may be put in its place.
"""

from __future__ import annotations

from swath.data.sources import SourceConfig
from swath.models.encoders.swath_vit import SwathViT
from swath.objectives.pretraining import PretrainRun
from swath.objectives.seco import SeCo
from swath.train import LoopConfig


def run(data: SourceConfig) -> PretrainRun:
    """The published settings on any data."""
    objective = SeCo(dim=128, queue=16384, tau=0.07, momentum=0.999)
    loop = LoopConfig(
        epochs=200,
        batch_size=256,
        lr=0.03,
        optimizer="sgd",
        weight_decay=1e-4,
        schedule="multistep",
        milestones=(0.6, 0.8),
    )
    return PretrainRun("seco", data, SwathViT(size="small"), objective, loop)
