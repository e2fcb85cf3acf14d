"""The plain vision transformer with its masked autoencoder, under the names that most published checkpoints use.

https://arxiv.org/abs/2010.11929, https://arxiv.org/abs/2111.06377. Several families are this with other bands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from swath.core import EncoderSpec, Features, Input, Where
from swath.models.encoder import EncoderModule, check_size, per_timestep, plain_features, taps
from swath.models.inputs import View, single
from swath.models.layers import PatchEmbed, gather_tokens, keep_by_noise, patchify, restore_tokens
from swath.models.layers.masked import masked_mse
from swath.models.layers.vit import blocks, fixed_table, run_all, run_to, table_for, with_class


@dataclass(frozen=True)
class ViTShape:
    """Sizes of a plain ViT. `offset` 0.1 resizes positions as DINO does; `decoder_dim` 0 means no decoder."""

    image: int = 224
    patch: int = 16
    bands: int = 3
    dim: int = 768
    depth: int = 12
    heads: int = 12
    ratio: float = 4.0
    offset: float = 0.0
    classes: int = 0
    decoder_dim: int = 0
    decoder_depth: int = 8
    decoder_heads: int = 16


@dataclass(frozen=True)
class ViTCard:
    """What a family says of its plain ViT."""

    name: str
    inputs: tuple[Input, ...]
    licence: str
    notes: str = ""


class PlainViT(EncoderModule):
    """Class token, learned or fixed positions, pre-norm blocks, a last norm."""

    def __init__(self, shape: ViTShape, card: ViTCard) -> None:
        super().__init__()
        s = self.shape = shape
        side = s.image // s.patch
        self.patch_embed = PatchEmbed(s.bands, s.dim, s.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, s.dim))
        self.pos_embed = fixed_table(side, s.dim)
        self.blocks = blocks(s.depth, s.dim, s.heads, s.ratio)
        self.norm = nn.LayerNorm(s.dim, eps=1e-6)
        if s.classes:
            self.head = nn.Linear(s.dim, s.classes)
        if s.decoder_dim:
            self.decoder_embed = nn.Linear(s.dim, s.decoder_dim)
            self.mask_token = nn.Parameter(torch.zeros(1, 1, s.decoder_dim))
            self.decoder_pos_embed = fixed_table(side, s.decoder_dim)
            self.decoder_blocks = blocks(s.decoder_depth, s.decoder_dim, s.decoder_heads, s.ratio)
            self.decoder_norm = nn.LayerNorm(s.decoder_dim, eps=1e-6)
            self.decoder_pred = nn.Linear(s.decoder_dim, s.patch * s.patch * s.bands)
        n = len(taps(s.depth))
        self.spec = EncoderSpec(
            name=card.name,
            inputs=card.inputs,
            widths=(s.dim,) * n,
            strides=(float(s.patch),) * n,
            pooled=s.dim,
            patch=s.patch,
            depth=s.depth,
            licence=card.licence,
            notes=card.notes,
        )

    def grid(self, x: Tensor) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return x.shape[2] // self.shape.patch, x.shape[3] // self.shape.patch

    def tokens(self, x: Tensor, levels: Sequence[int] | None = None) -> list[Tensor]:
        """Outputs of every block (or of these) before the norm, class token first."""
        table = table_for(self.pos_embed, self.grid(x), offset=self.shape.offset)
        y = self.patch_embed(x) + table[:, 1:]
        return run_to(self.blocks, with_class(self.cls_token + table[:, :1], y), levels or range(len(self.blocks)))

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        p = self.shape.patch

        def image(x: Tensor, rows: Tensor) -> Features:
            check_size(x.shape[2], x.shape[3], p, self.spec.name)
            some = self.tokens(x, taps(self.shape.depth))
            return plain_features([*some[:-1], self.norm(some[-1])], self.grid(x), float(p))

        return per_timestep(single(views, self.spec.name), image)

    def reconstruct(self, x: Tensor, noise: Tensor, ratio: float = 0.75) -> dict[str, Tensor]:
        """The masked autoencoder."""
        tokens = self.patch_embed(x) + self.pos_embed[:, 1:]
        kept, mask, back = keep_by_noise(noise, int(tokens.shape[1] * (1 - ratio)))
        seen = with_class(self.cls_token + self.pos_embed[:, :1], gather_tokens(tokens, kept))
        latent = self.norm(run_all(self.blocks, seen))
        y = self.decoder_embed(latent)
        y = torch.cat([y[:, :1], restore_tokens(y[:, 1:], self.mask_token, back)], 1) + self.decoder_pos_embed
        pred = self.decoder_pred(self.decoder_norm(run_all(self.decoder_blocks, y)))[:, 1:]
        return {"latent": latent, "mask": mask, "ids_restore": back, "pred": pred}

    def loss(self, x: Tensor, pred: Tensor, mask: Tensor, standardise: bool = False) -> Tensor:
        """Squared error on the removed tokens."""
        return masked_mse(pred, patchify(x, self.shape.patch), mask, standardise=standardise)
