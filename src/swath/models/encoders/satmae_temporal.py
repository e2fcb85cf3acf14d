"""SatMAE temporal: one transformer over the patches of three images, each told its year, month and hour.

SatMAE, https://arxiv.org/abs/2207.08051. code(token) = [p(row, col) | e(year - 2002), e(month), e(hour)].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import ClassVar

import torch
from torch import Tensor, nn

from swath.core import EncoderSpec, Features, UserError, Where
from swath.models.encoder import EncoderModule, check_size, plain_features, taps
from swath.models.encoders.satmae import LICENCE, RGB
from swath.models.inputs import View, single
from swath.models.layers import PatchEmbed, gather_tokens, keep_by_noise, patchify, restore_tokens, sincos
from swath.models.layers.masked import masked_mse
from swath.models.layers.products import Linear
from swath.models.layers.vit import blocks, fixed_table, run, run_all, table_for, with_class
from swath.models.loading import Layout
from swath.models.vit import ViTShape

TIME, DECODER_TIME = 384, 192


class SatmaeTemporal(EncoderModule):
    """The temporal encoder; any number of timesteps runs, three were trained."""

    def __init__(self, shape: ViTShape, name: str, hour: float) -> None:
        super().__init__()
        s = self.shape = shape
        self.hour = hour
        side = s.image // s.patch
        self.patch_embed = PatchEmbed(s.bands, s.dim, s.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, s.dim))
        self.pos_embed = fixed_table(side, s.dim - TIME)
        self.blocks = blocks(s.depth, s.dim, s.heads, s.ratio)
        self.norm = nn.LayerNorm(s.dim, eps=1e-6)
        if s.classes:
            self.head = Linear(s.dim, s.classes)
        if s.decoder_dim:
            self.decoder_embed = Linear(s.dim, s.decoder_dim)
            self.mask_token = nn.Parameter(torch.zeros(1, 1, s.decoder_dim))
            self.decoder_pos_embed = fixed_table(side, s.decoder_dim - DECODER_TIME)
            self.decoder_blocks = blocks(s.decoder_depth, s.decoder_dim, s.decoder_heads, s.ratio)
            self.decoder_norm = nn.LayerNorm(s.decoder_dim, eps=1e-6)
            self.decoder_pred = Linear(s.decoder_dim, s.patch * s.patch * s.bands)
        n = len(taps(s.depth))
        self.spec = EncoderSpec(
            name=name,
            inputs=RGB,
            widths=(s.dim,) * n,
            strides=(float(s.patch),) * n,
            pooled=s.dim,
            patch=s.patch,
            depth=s.depth,
            native_time=True,
            licence=LICENCE,
            notes="the hour of day is the config's: a layer knows days",
        )

    def embed(self, x: Tensor, stamps: Tensor) -> Tensor:
        """Tokens of x (B, T, C, H, W), time-major, with codes; stamps (B, T, 3)."""
        b = len(x)
        grid = (x.shape[3] // self.shape.patch, x.shape[4] // self.shape.patch)
        y = self.patch_embed(x.flatten(0, 1)).unflatten(0, (b, -1)).flatten(1, 2)
        return y + code(table_for(self.pos_embed, grid)[:, 1:], stamps, TIME)

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        view = single(views, self.spec.name)
        t, _, h, w = view.x.shape[1:]
        p = self.shape.patch
        check_size(h, w, p, self.spec.name)
        if view.times is None:
            raise UserError(
                f"{self.spec.name} codes year and month and the layer has no dates", where=f"layer {view.sensor.id}"
            )
        tokens = self.embed(view.x, stamps_of(view.times, self.hour).to(view.x.device))
        seen = torch.where(view.seen.any(1, keepdim=True), view.seen, torch.ones_like(view.seen))
        n = (h // p) * (w // p)
        bias = None
        if not bool(seen.all()):
            bias = nn.functional.pad(seen.repeat_interleave(n, 1), (1, 0), value=True)[:, None, None]
        every = run(self.blocks, with_class(self.cls_token, tokens), bias)
        weight = (seen / seen.sum(1, keepdim=True)).to(view.x.dtype)
        last = self.norm(every[-1])
        means: list[Tensor] = []
        for i in taps(self.shape.depth):
            level = last if i == len(every) - 1 else every[i]
            means.append(torch.einsum("bt,btnd->bnd", weight, level[:, 1:].unflatten(1, (t, n))))
        return plain_features(means, (h // p, w // p), float(p), pooled=last[:, 0], prefix=0)

    def reconstruct(self, x: Tensor, stamps: Tensor, noise: Tensor, ratio: float = 0.75) -> dict[str, Tensor]:
        """The masked autoencoder over all three images at once."""
        tokens = self.embed(x, stamps)
        kept, mask, back = keep_by_noise(noise, int(tokens.shape[1] * (1 - ratio)))
        latent = self.norm(run_all(self.blocks, with_class(self.cls_token, gather_tokens(tokens, kept))))
        y = self.decoder_embed(latent)
        own = code(self.decoder_pos_embed[:, 1:], stamps, DECODER_TIME)
        y = torch.cat([y[:, :1], restore_tokens(y[:, 1:], self.mask_token, back) + own], 1)
        pred = self.decoder_pred(self.decoder_norm(run_all(self.decoder_blocks, y)))[:, 1:]
        return {"latent": latent, "mask": mask, "ids_restore": back, "pred": pred}

    def loss(self, x: Tensor, pred: Tensor, mask: Tensor, standardise: bool = False) -> Tensor:
        """Squared error on the removed tokens."""
        target = patchify(x.flatten(0, 1), self.shape.patch).unflatten(0, (len(x), -1)).flatten(1, 2)
        return masked_mse(pred, target, mask, standardise=standardise)


def code(places: Tensor, stamps: Tensor, width: int) -> Tensor:
    """(B, T*N, D): the place's table beside the three numbers of the date, each a third of `width`."""
    times = torch.cat([sincos(stamps[..., i], width // 3) for i in range(3)], -1)
    n, (b, t) = places.shape[1], stamps.shape[:2]
    both = [places[:, None].expand(b, t, -1, -1), times[:, :, None].expand(-1, -1, n, -1).to(places.dtype)]
    return torch.cat(both, -1).flatten(1, 2)


def stamps_of(times: Tensor, hour: float) -> Tensor:
    """(B, T, 3): year - 2002, month - 1, hour."""
    days = [[date(1970, 1, 1) + timedelta(days=int(d)) for d in row] for row in times.tolist()]
    return torch.tensor([[(d.year - 2002.0, d.month - 1.0, hour) for d in row] for row in days], dtype=torch.float64)


@dataclass(frozen=True)
class SatmaeTemporalConfig:
    """SatMAE temporal; `hour` is the hour of day assumed for layers dated by day. Non-commercial weights."""

    kind: ClassVar[str] = "satmae-temporal"
    sizes: ClassVar[Mapping[str, ViTShape]] = {
        "tiny": ViTShape(image=32, patch=8, dim=400, depth=2, heads=4, ratio=2, decoder_depth=1, decoder_heads=4),
        "large": ViTShape(dim=1024, depth=24, heads=16),
    }
    size: str = "large"
    shape: ViTShape | None = None
    hour: float = 11.0

    def build(self) -> SatmaeTemporal:
        return SatmaeTemporal(self.shape or self.sizes[self.size], f"satmae-temporal/{self.size}", self.hour)

    def layout(self) -> Layout:
        return Layout(inside=("model",), drop=("head.*", "decoder_*", "mask_token"))


MEMBER = SatmaeTemporalConfig
