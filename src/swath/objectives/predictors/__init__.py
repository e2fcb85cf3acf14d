"""Predictors: from encoded visible tokens to something for every token, and small heads on pooled vectors."""

from swath.objectives.predictors.decoder import Decoder, PlaceCode
from swath.objectives.predictors.heads import PixelHeads, SpectralHead
from swath.objectives.predictors.mlp import SyncNorm, mlp

__all__ = ["Decoder", "PixelHeads", "PlaceCode", "SpectralHead", "SyncNorm", "mlp"]
