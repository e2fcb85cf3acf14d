"""OlmoEarth's Latent MIM Lite (https://arxiv.org/abs/2511.13655): frozen projection targets, two masked views.

Maps are predicted and never encoded.
"""

from __future__ import annotations

from swath.data.sources import SourceConfig
from swath.models.encoders.swath_vit import SwathViT
from swath.objectives.latent_mim import LatentMIM
from swath.objectives.masks.cross import Cross
from swath.objectives.pretraining import PretrainRun
from swath.train import LoopConfig


def run(data: SourceConfig, maps: tuple[str, ...] = ("worldcover",)) -> PretrainRun:
    """The published settings on any data."""
    objective = LatentMIM(
        masks=(Cross(0.5, 0.5, maps), Cross(0.5, 0.5, maps)), target="projection", width=768, depth=4, heads=12, dim=768
    )
    loop = LoopConfig(epochs=300, batch_size=512, lr=1e-4, weight_decay=0.02, clip=1.0, warmup=8000, precision="bf16")
    return PretrainRun("olmoearth", data, SwathViT(size="base"), objective, loop)
