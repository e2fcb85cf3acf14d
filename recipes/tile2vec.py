"""Tile2Vec (https://arxiv.org/abs/1805.02855): near tiles alike, distant ones not.

The distant tile is the next sample's.
"""

from __future__ import annotations

from swath.data.sources import SourceConfig
from swath.models.encoders.swath_vit import SwathViT
from swath.objectives.pretraining import PretrainRun
from swath.objectives.triplet import Triplet
from swath.train import LoopConfig


def run(data: SourceConfig) -> PretrainRun:
    """The published settings on any data."""
    objective = Triplet(tile=0.5, radius=1.0, margin=10.0, l2=0.01)
    loop = LoopConfig(epochs=50, batch_size=50, lr=1e-3, betas=(0.5, 0.999), weight_decay=0.0)
    return PretrainRun("tile2vec", data, SwathViT(size="nano", patch=8), objective, loop)
