"""DOFA: one encoder for any optical or radar bands; the patch embedding is generated from their wavelengths.

Neural Plasticity-Inspired Foundation Model for Observing the Earth Crossing Modalities,
https://arxiv.org/abs/2403.15356. kernel(band) = 0.01 writer(residual(sincos(1000 lambda / um))).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from swath.core import EncoderSpec, Features, Input, Where
from swath.models.encoder import EncoderModule, check_size, per_timestep, plain_features, taps
from swath.models.inputs import View, single
from swath.models.layers import gather_tokens, keep_by_noise, patchify, restore_tokens, sincos_single
from swath.models.layers.generated import BandResidual, KernelWriter
from swath.models.layers.masked import masked_mse
from swath.models.layers.products import Linear
from swath.models.layers.vit import at, blocks, fixed_table, run, run_all, table_for, with_class
from swath.models.loading import Layout

RADAR_UM = 3.75
RGB_UM = (0.665, 0.56, 0.49)
GAIN = 0.01
# The weights saw Sentinel-2 in 8 bits: visible bands as the product's own true-colour picture, others over 8160.
_S2 = ("red", "green", "blue", "rededge071", "rededge075", "rededge078", "nir", "swir16", "swir22")
_S2_SCALE = (255 / 0.3558,) * 3 + (255 / 0.8160,) * 6
_S2_MEAN = (114.1099739, 114.81779093, 126.63977424, 84.33539309, 97.84789168, 103.94461911, 101.435633,
            72.32804172, 56.66528851)  # fmt: skip
_S2_STD = (77.84352553, 69.96844919, 67.42465279, 64.57022983, 61.72545487, 61.34187099, 60.29744676,
           47.88519516, 42.55886798)  # fmt: skip


def _s2(sensor: str) -> Input:
    mean = tuple(m / s for m, s in zip(_S2_MEAN, _S2_SCALE, strict=True))
    std = tuple(d / s for d, s in zip(_S2_STD, _S2_SCALE, strict=True))
    return Input(sensor, _S2, "reflectance", mean, std)


@dataclass(frozen=True)
class DofaShape:
    """Sizes of one DOFA; `classes` adds the head of the published class, `projector` the distillation's."""

    image: int = 224
    patch: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    waves: int = 128
    classes: int = 0
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16


class WaveEmbed(nn.Module):
    """Images and wavelengths in micrometres to tokens and the bands' codes."""

    def __init__(self, s: DofaShape) -> None:
        super().__init__()
        self.patch, self.dim, self.waves = s.patch, s.dim, s.waves
        self.weight_generator = KernelWriter(s.waves, s.patch * s.patch * s.dim, s.dim)
        self.fclayer = BandResidual(s.waves, ("w1", "w2"), nn.ReLU())

    def forward(self, x: Tensor, um: Tensor) -> tuple[Tensor, Tensor]:
        codes = self.fclayer(sincos_single(um * 1000, self.waves).to(x.dtype))
        kernels, bias = self.weight_generator(codes)
        kernels = kernels.view(-1, self.patch, self.patch, self.dim).permute(3, 0, 1, 2)
        y = conv2d(x, kernels * GAIN, None if bias is None else bias * GAIN, stride=self.patch, padding=1)
        return y.flatten(2).transpose(1, 2), codes


class WavePixels(nn.Module):
    """Decoded tokens to pixels of the same bands, by generated kernels without a bias."""

    def __init__(self, s: DofaShape) -> None:
        super().__init__()
        self.dim = s.decoder_dim
        self.weight_generator = KernelWriter(s.waves, s.patch * s.patch * s.decoder_dim, s.decoder_dim)

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        return linear(x, self.weight_generator(codes)[0].reshape(-1, self.dim) * GAIN)


class Dofa(EncoderModule):
    """DOFA version 1. With `decoder` the masked autoencoder of its pretraining (without the teacher)."""

    def __init__(self, shape: DofaShape, decoder: bool, name: str) -> None:
        super().__init__()
        s = self.shape = shape
        side = s.image // s.patch
        self.patch_embed = WaveEmbed(s)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, s.dim))
        self.pos_embed = fixed_table(side, s.dim)
        self.blocks = blocks(s.depth, s.dim, s.heads)
        if decoder:
            self.norm = nn.LayerNorm(s.dim, eps=1e-6)
            self.projector = Linear(s.dim, s.dim)
            self.decoder_embed = Linear(s.dim, s.decoder_dim)
            self.mask_token = nn.Parameter(torch.zeros(1, 1, s.decoder_dim))
            self.decoder_pos_embed = fixed_table(side, s.decoder_dim)
            self.decoder_blocks = blocks(s.decoder_depth, s.decoder_dim, s.decoder_heads)
            self.decoder_norm = nn.LayerNorm(s.decoder_dim, eps=1e-6)
            self.decoder_pred = WavePixels(s)
        else:
            self.fc_norm = nn.LayerNorm(s.dim, eps=1e-6)
            if s.classes:
                self.head = Linear(s.dim, s.classes)
        n = len(taps(s.depth))
        self.spec = EncoderSpec(
            name=name,
            inputs=(_s2("sentinel2-l2a"), _s2("sentinel2-l1c")),
            widths=(s.dim,) * n,
            strides=(float(s.patch),) * n,
            pooled=s.dim,
            patch=s.patch,
            depth=s.depth,
            any_bands=True,
            licence="CC-BY-4.0",
        )

    def tokens(self, x: Tensor, um: Tensor) -> list[Tensor]:
        """Outputs of every block, class token first."""
        grid = (x.shape[2] // self.shape.patch, x.shape[3] // self.shape.patch)
        table = table_for(self.pos_embed, grid)
        y = self.patch_embed(x, um)[0] + table[:, 1:]
        return run(self.blocks, with_class(self.cls_token + table[:, :1], y))

    def pool(self, last: Tensor) -> Tensor:
        """The normalised mean of the patch tokens."""
        norm = self.norm if hasattr(self, "norm") else self.fc_norm
        return norm(last[:, 1:].mean(1))

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        view = single(views, self.spec.name)
        um = wavelengths_um([b.nm for b in view.sensor.bands]).to(view.x.device)
        p = self.shape.patch

        def image(x: Tensor, rows: Tensor) -> Features:
            check_size(x.shape[2], x.shape[3], p, self.spec.name)
            every = self.tokens(x, um)
            grid = (x.shape[2] // p, x.shape[3] // p)
            levels = at(every, taps(self.shape.depth), every[-1])
            return plain_features(levels, grid, float(p), pooled=self.pool(every[-1]))

        return per_timestep(view, image)

    def reconstruct(self, x: Tensor, um: Tensor, noise: Tensor, ratio: float = 0.75) -> dict[str, Tensor]:
        """The masked autoencoder: latent, mask and the prediction per token."""
        table = self.pos_embed
        tokens, codes = self.patch_embed(x, um)
        tokens = tokens + table[:, 1:]
        kept, mask, back = keep_by_noise(noise, int(tokens.shape[1] * (1 - ratio)))
        seen = with_class(self.cls_token + table[:, :1], gather_tokens(tokens, kept))
        latent = self.norm(run_all(self.blocks, seen))
        y = self.decoder_embed(latent)
        y = torch.cat([y[:, :1], restore_tokens(y[:, 1:], self.mask_token, back)], 1) + self.decoder_pos_embed
        y = self.decoder_norm(run_all(self.decoder_blocks, y))
        pred = self.decoder_pred(y, codes)[:, 1:]
        return {"latent": latent, "mask": mask, "ids_restore": back, "pred": pred}

    def student(self, rgb: Tensor) -> Tensor:
        """What the pretraining pulled towards an ImageNet teacher: the true-colour tokens before the last block."""
        every = self.tokens(rgb, torch.tensor(RGB_UM, device=rgb.device))
        return self.projector(every[-2].mean(1))

    def loss(self, x: Tensor, pred: Tensor, mask: Tensor, standardise: bool = False) -> Tensor:
        """Squared error on the removed tokens."""
        return masked_mse(pred, patchify(x, self.shape.patch), mask, standardise=standardise)


def wavelengths_um(nm: Sequence[float | None]) -> Tensor:
    """Centre wavelengths in micrometres; radar bands have the placeholder of the published pretraining."""
    return torch.tensor([RADAR_UM if n is None else n / 1000 for n in nm], dtype=torch.float32)


@dataclass(frozen=True)
class DofaConfig:
    """Which DOFA. Sentinel-2 is fed as in its pretraining; other sensors by their own statistics."""

    kind: ClassVar[str] = "dofa"
    sizes: ClassVar[Mapping[str, DofaShape]] = {
        "tiny": DofaShape(
            image=32, patch=8, dim=32, depth=4, heads=4, decoder_dim=16, decoder_depth=1, decoder_heads=2
        ),
        "base": DofaShape(),
        "large": DofaShape(dim=1024, depth=24, heads=16),
    }
    size: str = "base"
    shape: DofaShape | None = None
    decoder: bool = False

    def build(self) -> Dofa:
        return Dofa(self.shape or self.sizes[self.size], self.decoder, f"dofa/{self.size}")

    def layout(self) -> Layout:
        """The encoder file brings pretraining's leftovers and lacks the pooled norm (which starts as identity)."""
        drop = () if self.decoder else ("mask_token", "norm.*", "projector.*", "decoder_*", "head.*")
        return Layout(inside=("model",), drop=drop, absent=() if self.decoder else ("fc_norm.*", "head.*"))


MEMBER = DofaConfig
