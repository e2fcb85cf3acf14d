"""MultiMAE: one encoder over the patches of images, depth and class maps; each has its own decoder.

MultiMAE, https://arxiv.org/abs/2204.01678. A decoder's queries are its task's places; they read all seen tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, scaled_dot_product_attention

from swath.core import EncoderSpec, Features, Input, Where
from swath.models.encoder import EncoderModule, check_size, per_timestep, plain_features, taps
from swath.models.inputs import View, single
from swath.models.layers import Mlp, gather_tokens, patchify, sincos_2d, unpatchify
from swath.models.layers.masked import standardise_patches
from swath.models.layers.products import Linear
from swath.models.layers.vit import blocks, run, run_all
from swath.models.loading import Layout

RGB = tuple(
    Input(s, ("red", "green", "blue"), "display", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), gain=1 / 255)
    for s in ("rgb-aerial", "naip")
)
TASKS = ("rgb", "depth", "semseg")


@dataclass(frozen=True)
class MultimaeShape:
    """Sizes of one MultiMAE: `classes`, `class_dim` and `class_stride` are of the class map."""

    image: int = 224
    patch: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    decoder_dim: int = 256
    decoder_depth: int = 2
    decoder_heads: int = 8
    classes: int = 133
    class_dim: int = 64
    class_stride: int = 4


def _plane(side: int, dim: int) -> nn.Parameter:
    table = sincos_2d(side, side, dim).T.reshape(1, dim, side, side)
    return nn.Parameter(table, requires_grad=False)


class ImageInput(nn.Module):
    """Patches of an image (or of embedded classes) with positions."""

    def __init__(self, s: MultimaeShape, bands: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(bands, s.dim, patch, patch)
        self.pos_emb = _plane(s.image // s.patch, s.dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.proj(x)
        table = self.pos_emb
        if table.shape[2:] != y.shape[2:]:
            table = interpolate(table.float(), size=y.shape[2:], mode="bicubic", align_corners=False).to(y.dtype)
        return (y + table).flatten(2).transpose(1, 2)


class ClassInput(ImageInput):
    """Classes are embedded first."""

    def __init__(self, s: MultimaeShape) -> None:
        super().__init__(s, s.class_dim, s.patch // s.class_stride)
        self.class_emb = nn.Embedding(s.classes, s.class_dim)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.class_emb(x).permute(0, 3, 1, 2))


class ReadAttention(nn.Module):
    """Queries read a context."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = Linear(dim, dim), Linear(dim, 2 * dim), Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TaskDecoder(nn.Module):
    """One task's decoder: its queries read the seen tokens, then attend to each other."""

    def __init__(self, s: MultimaeShape, bands: int, patch: int, tasks: Sequence[str]) -> None:
        super().__init__()
        d = s.decoder_dim
        self.patch, self.tasks = patch, tuple(tasks)
        self.task_embeddings = nn.ParameterDict({t: nn.Parameter(torch.zeros(1, 1, d)) for t in tasks})
        self.mask_token = nn.Parameter(torch.zeros(1, 1, d))
        self.pos_emb = _plane(s.image // s.patch, d)
        self.proj_context = Linear(s.dim, d)
        self.context_norm, self.query_norm, self.out_norm = (nn.LayerNorm(d, eps=1e-6) for _ in range(3))
        self.decoder = ReadAttention(d, s.decoder_heads)
        self.mlp = Mlp(d, 4 * d)
        self.decoder_transformer = blocks(s.decoder_depth, d, s.decoder_heads)
        self.out_proj = Linear(d, bands * patch * patch)

    def forward(self, seen: Tensor, hidden: Tensor, task: int, grid: tuple[int, int]) -> Tensor:
        """Encoded tokens at all places (those under `hidden` (B, N) mean nothing), the global token last."""
        y = self.proj_context(seen)
        table = self.pos_emb
        if table.shape[2:] != grid:
            table = interpolate(table.float(), size=grid, mode="bilinear", align_corners=False).to(y.dtype)
        places = table.flatten(2).transpose(1, 2)
        codes = torch.cat([places + self.task_embeddings[t] for t in self.tasks], 1)
        n = places.shape[1]
        whole = torch.where(hidden[..., None], self.mask_token, y[:, :-1]) + codes
        queries = whole[:, task * n : (task + 1) * n]
        kept = (~hidden).nonzero()[:, 1].view(len(y), -1)
        context = torch.cat([gather_tokens(whole, kept), y[:, -1:]], 1)
        x = self.decoder(self.query_norm(queries), self.context_norm(context))
        x = x + self.mlp(self.out_norm(x))
        return unpatchify(self.out_proj(run_all(self.decoder_transformer, x)), self.patch, grid, "cpq")


class Multimae(EncoderModule):
    """The encoder with its three inputs; with `decoder` the masked autoencoder. A batch feeds the image input."""

    def __init__(self, shape: MultimaeShape, decoder: bool, name: str) -> None:
        super().__init__()
        s = self.shape = shape
        small = s.patch // s.class_stride
        self.input_adapters = nn.ModuleDict(
            {"rgb": ImageInput(s, 3, s.patch), "depth": ImageInput(s, 1, s.patch), "semseg": ClassInput(s)}
        )
        self.global_tokens = nn.Parameter(torch.zeros(1, 1, s.dim))
        self.encoder = blocks(s.depth, s.dim, s.heads)
        if decoder:
            sizes = {"rgb": (3, s.patch), "depth": (1, s.patch), "semseg": (s.classes, small)}
            self.output_adapters = nn.ModuleDict({t: TaskDecoder(s, *sizes[t], TASKS) for t in TASKS})
        n = len(taps(s.depth))
        self.spec = EncoderSpec(
            name=name,
            inputs=RGB,
            widths=(s.dim,) * n,
            strides=(float(s.patch),) * n,
            pooled=s.dim,
            patch=s.patch,
            depth=s.depth,
            licence="CC-BY-NC-4.0",
            notes="the last token is global; there is no final norm",
        )

    def tokens(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Tokens of the given inputs, in their order."""
        return torch.cat([self.input_adapters[k](v) for k, v in inputs.items()], 1)

    def run(self, tokens: Tensor) -> list[Tensor]:
        """Every block's output, the global token last."""
        return run(self.encoder, torch.cat([tokens, self.global_tokens.expand(len(tokens), -1, -1)], 1))

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        p = self.shape.patch

        def image(x: Tensor, rows: Tensor) -> Features:
            check_size(x.shape[2], x.shape[3], p, self.spec.name)
            every = self.run(self.tokens({"rgb": x}))
            levels = [every[i][:, :-1] for i in taps(self.shape.depth)]
            return plain_features(levels, (x.shape[2] // p, x.shape[3] // p), float(p), every[-1][:, -1], prefix=0)

        return per_timestep(single(views, self.spec.name), image)

    def reconstruct(self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predictions per task; masks (B, N) are 1 where a token is hidden, as many in every sample."""
        tokens = self.tokens(inputs)
        hidden = torch.cat([masks[k] for k in inputs], 1) != 0
        kept = (~hidden).nonzero()[:, 1].view(len(tokens), -1)
        latent = self.run(gather_tokens(tokens, kept))[-1]
        index = kept[..., None].expand(-1, -1, latent.shape[-1])
        whole = torch.cat([torch.zeros_like(tokens).scatter(1, index, latent[:, :-1]), latent[:, -1:]], 1)
        rgb = inputs["rgb"]
        grid = (rgb.shape[2] // self.shape.patch, rgb.shape[3] // self.shape.patch)
        return {t: self.output_adapters[t](whole, hidden, i, grid) for i, t in enumerate(inputs)}


def pixel_loss(error: Tensor, mask: Tensor) -> Tensor:
    """The mean of a (B, H, W) error where the token mask (B, N) is 1: per sample, then over samples."""
    h, w = error.shape[1:]
    side = round(mask.shape[1] ** 0.5)
    rows = mask.shape[1] // side
    where = interpolate(mask.view(-1, 1, rows, side).float(), size=(h, w), mode="nearest")[:, 0]
    return ((error * where).flatten(1).sum(1) / where.flatten(1).sum(1)).nanmean()


def image_loss(pred: Tensor, target: Tensor, mask: Tensor, *, patch: int = 0, power: int = 2) -> Tensor:
    """Squared (`power` 2) or absolute error on hidden pixels; `patch` standardises the target by patches."""
    if patch:
        grid = (target.shape[2] // patch, target.shape[3] // patch)
        target = unpatchify(standardise_patches(patchify(target, patch)), patch, grid)
    gap = pred - target
    return pixel_loss((gap.square() if power == 2 else gap.abs()).mean(1), mask)


def class_loss(pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy on hidden pixels."""
    return pixel_loss(cross_entropy(pred, target, reduction="none"), mask)


@dataclass(frozen=True)
class MultimaeConfig:
    """Which MultiMAE. Its weights are for non-commercial use."""

    kind: ClassVar[str] = "multimae"
    sizes: ClassVar[Mapping[str, MultimaeShape]] = {
        "tiny": MultimaeShape(image=32, patch=8, dim=32, depth=4, heads=4, classes=4, class_dim=4, class_stride=2),
        "base": MultimaeShape(),
        "large": MultimaeShape(dim=1024, depth=24, heads=16),
    }
    size: str = "base"
    shape: MultimaeShape | None = None
    decoder: bool = False

    def build(self) -> Multimae:
        return Multimae(self.shape or self.sizes[self.size], self.decoder, f"multimae/{self.size}")

    def layout(self) -> Layout:
        return Layout(inside=("model",), drop=() if self.decoder else ("output_adapters.*",))


MEMBER = MultimaeConfig
