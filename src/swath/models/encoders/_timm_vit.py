"""timm's plain vision transformers without timm: the same names, sizes, start and outputs, on the shared blocks.

https://arxiv.org/abs/2010.11929. Importing timm brings torchvision and the compiler with it, seconds that a short run
feels; the plain models need none of it. tests/models/encoders/test_timm_vit.py holds the two equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from swath.models.encoder import to_map
from swath.models.layers import PatchEmbed
from swath.models.layers.undrawn import undrawn
from swath.models.layers.vit import blocks, run_to, table_for, with_class


@dataclass(frozen=True)
class Plain:
    """The sizes of one model."""

    dim: int
    depth: int
    heads: int
    patch: int
    image: int


_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
_PATCHES = {
    "tiny": ((16, 224), (16, 384)),
    "small": ((8, 224), (16, 224), (16, 384), (32, 224), (32, 384)),
    "base": ((8, 224), (16, 224), (16, 384), (32, 224), (32, 384)),
    "large": ((14, 224), (16, 224), (16, 384), (32, 224), (32, 384)),
}
PLAIN: Mapping[str, Plain] = {
    f"vit_{size}_patch{patch}_{image}": Plain(*_SIZES[size], patch, image)
    for size, several in _PATCHES.items()
    for patch, image in several
}


class TimmViT(nn.Module):
    """What `TimmEncoder` asks of timm's VisionTransformer, with its parameter names."""

    num_prefix_tokens = 1

    def __init__(self, plain: Plain, channels: int) -> None:
        super().__init__()
        self.patch = plain.patch
        self.num_features = plain.dim
        self.feature_info = [{"num_chs": plain.dim, "reduction": plain.patch} for _ in range(plain.depth)]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, plain.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (plain.image // plain.patch) ** 2, plain.dim))
        self.patch_embed = PatchEmbed(channels, plain.dim, plain.patch)
        with undrawn():  # `start` sets them
            self.blocks = blocks(plain.depth, plain.dim, plain.heads)
        self.norm = nn.LayerNorm(plain.dim, eps=1e-6)
        self.start()

    def start(self) -> None:
        """timm's law: linear maps and positions normal with .02, zero biases, a class token near zero."""
        nn.init.normal_(self.pos_embed, std=0.02)  # timm cuts at 2, a hundred deviations out
        nn.init.normal_(self.cls_token, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward_intermediates(self, x: Tensor, indices: Sequence[int], norm: bool) -> tuple[Tensor, list[Tensor]]:
        """All tokens after the last norm, and maps (B, D, h, w) of these blocks, normalised when asked to be."""
        grid = x.shape[2] // self.patch, x.shape[3] // self.patch
        tokens = with_class(self.cls_token, self.patch_embed(x))
        tokens = tokens + table_for(self.pos_embed, grid, antialias=True)
        last = len(self.blocks) - 1
        levels = sorted({*indices, last})
        outs = dict(zip(levels, run_to(self.blocks, tokens, levels), strict=True))
        final = self.norm(outs[last])
        some = [final if norm and i == last else self.norm(outs[i]) if norm else outs[i] for i in indices]
        return final, [to_map(y[:, 1:], grid) for y in some]

    def forward_head(self, x: Tensor, pre_logits: bool = True) -> Tensor:
        """The class token."""
        return x[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_intermediates(x, (), norm=True)[0])
