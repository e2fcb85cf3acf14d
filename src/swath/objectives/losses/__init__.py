"""Losses as pure functions, in fp32."""

from swath.objectives.losses.contrast import gather, info_nce, info_nce_queue, patch_discrimination
from swath.objectives.losses.pixels import Sum, masked_pixels

__all__ = ["Sum", "gather", "info_nce", "info_nce_queue", "masked_pixels", "patch_discrimination"]
