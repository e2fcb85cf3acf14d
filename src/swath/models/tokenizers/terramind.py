"""TerraMind's tokenizers: a ViT encoder and finite scalar quantisation; a ViT (VQ-VAE) or diffusion (DiVAE) decoder.

ids = FSQ(conv(vit(x))). Land cover decodes to class logits; pixels decode by diffusion from noise, given the codes.
https://arxiv.org/abs/2504.11171, after 4M's tokenizers (https://arxiv.org/abs/2312.06647). Official keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from swath.core import UnknownName, UserError
from swath.models.encoders.terramind import positions_2d
from swath.models.layers import Block
from swath.models.layers.positions import resize_positions
from swath.models.tokenizers.diffusion import Noise, UNet, UNetPlan, sample
from swath.models.tokenizers.fsq import FiniteScalar


@dataclass(frozen=True)
class TokenizerPlan:
    """Sizes of a tokenizer; with `unet` the decoder is a diffusion model, without it a ViT."""

    channels: int
    levels: tuple[int, ...] = (8, 8, 8, 6, 5)
    dim: int = 768
    depth: int = 12
    heads: int = 12
    decoder_depth: int = 12
    image: int = 256
    patch: int = 16
    unet: UNetPlan | None = None
    noise: Noise = field(default_factory=Noise)


def _pixels(channels: int) -> TokenizerPlan:
    return TokenizerPlan(channels, unet=UNetPlan(channels, 5))


PLANS: Mapping[str, TokenizerPlan] = {
    "s2l2a": _pixels(12),
    "s1rtc": _pixels(2),
    "s1grd": _pixels(2),
    "dem": _pixels(1),
    "ndvi": _pixels(1),
    "lulc": TokenizerPlan(10, (7, 5, 5, 5, 5)),
}


class TanhMlp(nn.Module):
    """Two linear maps with a tanh between."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x).tanh())


class GridViT(nn.Module):
    """Blocks over a grid of vectors, then a residual tanh MLP. `outwards` maps each vector to a patch of pixels."""

    pos_emb: Tensor

    def __init__(self, plan: TokenizerPlan, depth: int, outwards: bool) -> None:
        super().__init__()
        self.patch, self.side = plan.patch, plan.image // plan.patch
        if not outwards:
            self.proj = nn.Conv2d(plan.channels, plan.dim, plan.patch, plan.patch)
        table = positions_2d(self.side, plan.dim).transpose(1, 2).unflatten(2, (self.side, self.side))
        self.register_buffer("pos_emb", table)
        self.blocks = nn.ModuleList(Block(plan.dim, plan.heads) for _ in range(depth))
        self.norm_mlp = nn.LayerNorm(plan.dim, eps=1e-6)
        self.post_mlp = TanhMlp(plan.dim)
        if outwards:
            self.out_proj = nn.Linear(plan.dim, plan.channels * plan.patch**2)
        self.outwards = outwards

    def forward(self, x: Tensor) -> Tensor:
        grid = x if self.outwards else self.proj(x)
        h, w = grid.shape[2:]
        table = self.pos_emb.flatten(2).transpose(1, 2)
        tokens = grid.flatten(2).transpose(1, 2) + resize_positions(table, (self.side, self.side), (h, w))
        for block in self.blocks:
            tokens = block(tokens)
        tokens = tokens + self.post_mlp(self.norm_mlp(tokens))
        if not self.outwards:
            return tokens.transpose(1, 2).unflatten(2, (h, w))
        y = self.out_proj(tokens).transpose(1, 2).unflatten(2, (h, w))
        return nn.functional.pixel_shuffle(y, self.patch)


class VQVAE(nn.Module):
    """Class maps (B, H, W) to ids and back to logits (B, classes, H, W)."""

    def __init__(self, plan: TokenizerPlan) -> None:
        super().__init__()
        self.plan, self.fsq = plan, FiniteScalar(plan.levels)
        latent = len(plan.levels)
        self.encoder = GridViT(plan, plan.depth, outwards=False)
        self.quant_proj = nn.Conv2d(plan.dim, latent, 1)
        self.post_quant_proj = nn.Conv2d(latent, plan.dim, 1)
        self.decoder = GridViT(plan, plan.decoder_depth, outwards=True)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (B, d, h, w) and ids (B, h, w)."""
        return self.fsq(self.quant_proj(self.encoder(one_hot(x, self.plan.channels))))

    def decode(self, codes: Tensor) -> Tensor:
        return self.decoder(self.post_quant_proj(codes))

    def decode_ids(self, ids: Tensor) -> Tensor:
        return self.decode(self.fsq.codes(ids).to(self.quant_proj.weight))

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x)[0])


class DiVAE(nn.Module):
    """Pixels (B, C, H, W), standardised, to ids and back by diffusion."""

    def __init__(self, plan: TokenizerPlan) -> None:
        super().__init__()
        if plan.unet is None:
            raise UserError("a DiVAE needs a U-Net", where="tokenizer plan")
        self.plan, self.fsq = plan, FiniteScalar(plan.levels)
        self.encoder = GridViT(plan, plan.depth, outwards=False)
        self.quant_proj = nn.Conv2d(plan.dim, len(plan.levels), 1)
        self.decoder = UNet(plan.unet)

    def latent(self, x: Tensor) -> Tensor:
        """Before quantisation."""
        return self.quant_proj(self.encoder(x))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (B, d, h, w) and ids (B, h, w)."""
        return self.fsq(self.latent(x))

    def decode(self, codes: Tensor, noise: Tensor, steps: int = 10) -> Tensor:
        """Pixels from codes; `noise` (B, C, H, W) is where the sampling starts."""
        return sample(self.decoder, codes, noise, self.plan.noise, steps)

    def decode_ids(self, ids: Tensor, noise: Tensor, steps: int = 10) -> Tensor:
        return self.decode(self.fsq.codes(ids).to(self.quant_proj.weight), noise, steps)

    def forward(self, x: Tensor, noise: Tensor, steps: int = 10) -> Tensor:
        return self.decode(self.encode(x)[0], noise, steps)


def one_hot(x: Tensor, classes: int) -> Tensor:
    """A class map as channels; float channels stay as they are."""
    if x.is_floating_point():
        return x
    if int(x.min()) < 0 or int(x.max()) >= classes:
        raise UserError(f"classes run from {int(x.min())} to {int(x.max())}; 0..{classes - 1} are known")
    return nn.functional.one_hot(x.long(), classes).permute(0, 3, 1, 2).float()


def build_tokenizer(plan: TokenizerPlan | str) -> VQVAE | DiVAE:
    """A tokenizer of these sizes, or the published one of a modality (`s2l2a`, `s1rtc`, `dem`, `ndvi`, `lulc`)."""
    if isinstance(plan, str):
        if plan not in PLANS:
            raise UnknownName("tokenizer", plan, PLANS)
        plan = PLANS[plan]
    return DiVAE(plan) if plan.unet is not None else VQVAE(plan)


def zeros(plan: TokenizerPlan, h: int, w: int) -> Tensor:
    """An empty input of this plan."""
    return torch.zeros(1, plan.channels, h, w)
