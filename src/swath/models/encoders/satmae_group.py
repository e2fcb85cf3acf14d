"""SatMAE multispectral: the bands form groups, each group has its own patch tokens and a group code.

SatMAE, https://arxiv.org/abs/2207.08051. code(token) = [p(row, col) | e(group)]; tokens are group-major.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from swath.core import EncoderSpec, Features, Input, Where
from swath.models.encoder import EncoderModule, check_size, per_timestep, plain_features, taps
from swath.models.encoders.satmae import LICENCE
from swath.models.inputs import View, single
from swath.models.layers import PatchEmbed, gather_tokens, keep_by_noise, patchify, restore_tokens, sincos_1d
from swath.models.layers.masked import standardise_patches
from swath.models.layers.products import Linear
from swath.models.layers.vit import at, blocks, fixed_table, run, run_all, table_for, with_class
from swath.models.loading import Layout

_BANDS = ("blue", "green", "red", "rededge071", "rededge075", "rededge078", "nir", "nir08", "swir16", "swir22")
_MEAN = (1184.3824625, 1120.77120066, 1136.26026392, 1263.73947144, 1645.40315151, 1846.87040806, 1762.59530783,
         1972.62420416, 1732.16362238, 1247.91870117)  # fmt: skip
_STD = (650.2842772, 712.12507725, 965.23119807, 948.9819932, 1108.06650639, 1258.36394548, 1233.1492281,
        1364.38688993, 1310.36996126, 1087.6020813)  # fmt: skip
INPUT = Input(
    "sentinel2-l1c",
    _BANDS,
    "reflectance",
    tuple(m - 2 * s for m, s in zip(_MEAN, _STD, strict=True)),
    tuple(4 * s for s in _STD),
    gain=10000.0,
    clip=(0.0, 1.0),
)


@dataclass(frozen=True)
class GroupShape:
    """Sizes of one multispectral SatMAE; `vit` has the fine-tuned class's head and class-token code."""

    image: int = 96
    patch: int = 8
    groups: tuple[tuple[int, ...], ...] = ((0, 1, 2, 6), (3, 4, 5, 7), (8, 9))
    channel_dim: int = 256
    dim: int = 768
    depth: int = 12
    heads: int = 12
    classes: int = 0
    decoder_dim: int = 0
    decoder_channel_dim: int = 128
    decoder_depth: int = 8
    decoder_heads: int = 16


class SatmaeGroup(EncoderModule):
    """The multispectral encoder."""

    channel_cls_embed: Tensor

    def __init__(self, shape: GroupShape, name: str) -> None:
        super().__init__()
        s = self.shape = shape
        side = s.image // s.patch
        self.patch_embed = nn.ModuleList(PatchEmbed(len(g), s.dim, s.patch) for g in s.groups)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, s.dim))
        self.pos_embed = fixed_table(side, s.dim - s.channel_dim)
        self.channel_embed = nn.Parameter(sincos_1d(len(s.groups), s.channel_dim)[None], requires_grad=False)
        self.blocks = blocks(s.depth, s.dim, s.heads)
        self.norm = nn.LayerNorm(s.dim, eps=1e-6)
        if s.classes:
            self.channel_cls_embed = nn.Parameter(torch.zeros(1, 1, s.channel_dim))
            self.head = Linear(s.dim, s.classes)
        if s.decoder_dim:
            self.decoder_embed = Linear(s.dim, s.decoder_dim)
            self.mask_token = nn.Parameter(torch.zeros(1, 1, s.decoder_dim))
            self.decoder_pos_embed = fixed_table(side, s.decoder_dim - s.decoder_channel_dim)
            table = sincos_1d(len(s.groups) + 1, s.decoder_channel_dim)[None]
            self.decoder_channel_embed = nn.Parameter(table, requires_grad=False)
            self.decoder_blocks = blocks(s.decoder_depth, s.decoder_dim, s.decoder_heads)
            self.decoder_norm = nn.LayerNorm(s.decoder_dim, eps=1e-6)
            heads = (Linear(s.decoder_dim, len(g) * s.patch * s.patch) for g in s.groups)
            self.decoder_pred = nn.ModuleList(heads)
        n = len(taps(s.depth))
        self.spec = EncoderSpec(
            name=name,
            inputs=(INPUT,),
            widths=(s.dim,) * n,
            strides=(float(s.patch),) * n,
            pooled=s.dim,
            patch=s.patch,
            depth=s.depth,
            licence=LICENCE,
        )

    def embed(self, x: Tensor) -> Tensor:
        """(B, G, N, D) tokens with codes."""
        grid = (x.shape[2] // self.shape.patch, x.shape[3] // self.shape.patch)
        parts = [e(x[:, list(g)]) for e, g in zip(self.patch_embed, self.shape.groups, strict=True)]
        return torch.stack(parts, 1) + codes(table_for(self.pos_embed, grid)[:, 1:], self.channel_embed)

    def tokens(self, x: Tensor) -> list[Tensor]:
        """Every block's output before the norm, class token first, then the groups one after the other."""
        channel = self.channel_cls_embed if hasattr(self, "channel_cls_embed") else None
        first = self.pos_embed[:, :1]
        blank = first.new_zeros(1, 1, self.shape.channel_dim) if channel is None else channel
        token = self.cls_token + torch.cat([first, blank], -1)
        return run(self.blocks, with_class(token, self.embed(x).flatten(1, 2)))

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        p, g = self.shape.patch, len(self.shape.groups)

        def image(x: Tensor, rows: Tensor) -> Features:
            check_size(x.shape[2], x.shape[3], p, self.spec.name)
            every = self.tokens(x)
            levels = at(every, taps(self.shape.depth), self.norm(every[-1]))
            # A place has one token per group; a map has their mean.
            means = [v[:, 1:].unflatten(1, (g, -1)).mean(1) for v in levels]
            return plain_features(
                means, (x.shape[2] // p, x.shape[3] // p), float(p), pooled=levels[-1][:, 0], prefix=0
            )

        return per_timestep(single(views, self.spec.name), image)

    def reconstruct(
        self, x: Tensor, noise: Tensor, ratio: float = 0.75, kind: Literal["indep", "spatial"] = "indep"
    ) -> dict[str, Tensor]:
        """The masked autoencoder: `indep` masks tokens of any group, `spatial` the same places in all groups."""
        tokens = self.embed(x)
        b, g, n, d = tokens.shape
        if kind == "spatial":
            kept, mask, back = keep_by_noise(noise, int(n * (1 - ratio)))
            index = kept[:, None, :, None].expand(-1, g, -1, d)
            shown, mask = tokens.gather(2, index).flatten(1, 2), mask[:, None].expand(-1, g, -1)
        else:
            kept, mask, back = keep_by_noise(noise, int(g * n * (1 - ratio)))
            shown, mask = gather_tokens(tokens.flatten(1, 2), kept), mask.view(b, g, n)
        latent = self.norm(run_all(self.blocks, with_class(self.cls_token, shown)))
        y = self.decoder_embed(latent)
        if kind == "spatial":
            groups = y[:, 1:].unflatten(1, (g, -1)).unbind(1)
            whole = torch.cat([restore_tokens(v, self.mask_token, back) for v in groups], 1)
        else:
            whole = restore_tokens(y[:, 1:], self.mask_token, back)
        pred = self._decode(y[:, :1], whole)
        return {"latent": latent, "mask": mask, "ids_restore": back, "pred": pred}

    def _decode(self, first: Tensor, rest: Tensor) -> Tensor:
        """(B, C in group order, N, p*p)."""
        place, channel = self.decoder_pos_embed, self.decoder_channel_embed
        rest = rest + codes(place[:, 1:], channel[:, :-1]).flatten(1, 2)
        y = torch.cat([first + torch.cat([place[:, :1], channel[:, -1:]], -1), rest], 1)
        y = self.decoder_norm(run_all(self.decoder_blocks, y))[:, 1:].unflatten(1, (len(self.shape.groups), -1))
        parts = [
            head(y[:, i]).unflatten(2, (len(g), -1)).transpose(1, 2)
            for i, (head, g) in enumerate(zip(self.decoder_pred, self.shape.groups, strict=True))
        ]
        return torch.cat(parts, 1)

    def loss(self, x: Tensor, pred: Tensor, mask: Tensor, standardise: bool = False) -> Tensor:
        """Squared error on removed tokens. As published, predictions stand in group order and targets in band order."""
        target = patchify(x, self.shape.patch, "cpq")
        target = standardise_patches(target) if standardise else target
        target = target.unflatten(2, (x.shape[1], -1)).transpose(1, 2)
        error = (pred - target).square().mean(-1)
        groups = torch.stack([error[:, list(g)].mean(1) for g in self.shape.groups], 1)
        return (groups * mask).sum() / mask.sum()


def codes(places: Tensor, channels: Tensor) -> Tensor:
    """(1, G, N, D): places (1, N, .) beside groups (1, G, .)."""
    n, g = places.shape[1], channels.shape[1]
    return torch.cat([places[:, None].expand(-1, g, -1, -1), channels[:, :, None].expand(-1, -1, n, -1)], -1)


@dataclass(frozen=True)
class SatmaeGroupConfig:
    """SatMAE multispectral (Sentinel-2 without the 60 m bands). Non-commercial weights."""

    kind: ClassVar[str] = "satmae-group"
    sizes: ClassVar[Mapping[str, GroupShape]] = {
        "tiny": GroupShape(image=32, dim=64, channel_dim=16, depth=4, heads=4),
        "base": GroupShape(),
        "large": GroupShape(dim=1024, depth=24, heads=16),
    }
    size: str = "base"
    shape: GroupShape | None = None

    def build(self) -> SatmaeGroup:
        return SatmaeGroup(self.shape or self.sizes[self.size], f"satmae-group/{self.size}")

    def layout(self) -> Layout:
        return Layout(inside=("model",), drop=("head.*", "decoder_*", "mask_token", "channel_cls_embed", "fc_norm.*"))


MEMBER = SatmaeGroupConfig
