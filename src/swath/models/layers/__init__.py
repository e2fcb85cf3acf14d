"""Parts that encoders, objectives and decoders share: the transformer trunk, positions, patches."""

from __future__ import annotations

from swath.models.layers.patches import PatchEmbed, patchify, unpatchify
from swath.models.layers.positions import resize_positions, sincos, sincos_1d, sincos_2d, sincos_3d, sincos_single
from swath.models.layers.products import Linear
from swath.models.layers.transformer import Attention, Block, LayerScale, Mlp
from swath.models.layers.visibility import gather_tokens, keep_by_noise, restore_tokens

__all__ = [
    "Attention",
    "Block",
    "LayerScale",
    "Linear",
    "Mlp",
    "PatchEmbed",
    "gather_tokens",
    "keep_by_noise",
    "patchify",
    "resize_positions",
    "restore_tokens",
    "sincos",
    "sincos_1d",
    "sincos_2d",
    "sincos_3d",
    "sincos_single",
    "unpatchify",
]
