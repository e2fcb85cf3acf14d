"""SSL4EO-S12, data2vec (https://arxiv.org/abs/2211.07044): blocks hidden, the last six layers' mean as target."""

from __future__ import annotations

from swath.data.sources import SourceConfig
from swath.models.encoders.swath_vit import SwathViT
from swath.objectives.data2vec import Data2Vec
from swath.objectives.masks.blocks import Blocks
from swath.objectives.pretraining import PretrainRun
from swath.train import LoopConfig


def run(data: SourceConfig) -> PretrainRun:
    """The published settings on any data."""
    objective = Data2Vec(mask=Blocks(120 / 196), top=6, beta=2.0, ema=(0.999, 0.9998))
    loop = LoopConfig(epochs=100, batch_size=256, lr=1e-3, weight_decay=0.05, warmup=0.1, precision="bf16")
    return PretrainRun("ssl4eo_data2vec", data, SwathViT(size="small"), objective, loop)
