"""MOSAIKS: random convolutional features. An encoder that needs no training, and the baseline to beat.

f = [mean relu(w * x + b), mean relu(-(w * x + b))], w Gaussian, or whitened patches of the data itself:
W = P (P'P / n + eps I)^-1, P patches with zero mean and unit norm. https://www.nature.com/articles/s41467-021-24638-z
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from swath.core import Batch, EncoderSpec, Features, Input, UnknownName, UserError, Where, generator
from swath.models.encoder import EncoderModule, per_timestep
from swath.models.inputs import View, prepare, single, standard_input
from swath.models.loading import Layout

SIZES: Mapping[str, int] = {"tiny": 64, "small": 512, "base": 4096}
_CHUNK = 256


@dataclass(frozen=True)
class Mosaiks:
    """`filters`: `gaussian` is ready at once, `empirical` draws patches from data: call `fit`. Half the features are
    positive parts, half negative; maps are means over cells of `cell` pixels."""

    kind: ClassVar[str] = "mosaiks"
    sizes: ClassVar[Mapping[str, int]] = SIZES
    size: str = "base"
    filters: Literal["gaussian", "empirical"] = "gaussian"
    kernel: int = 4
    bias: float = -1.0
    seed: int = 0
    cell: int = 8
    sensor: str = "sentinel2-l2a"
    bands: tuple[str, ...] = ("blue", "green", "red", "nir")

    def build(self) -> RandomFeatures:
        if self.size not in SIZES:
            raise UnknownName("size of mosaiks", self.size, SIZES)
        return RandomFeatures(self, standard_input(self.sensor, self.bands))

    def layout(self) -> Layout:
        return Layout()


def whiten(patches: Tensor, eps: float = 1e-3) -> Tensor:
    """ZCA twice over patches (N, C, k, k) of zero mean and unit norm: filters of the same shape."""
    flat = patches.flatten(1).double()
    flat = flat - flat.mean(1, keepdim=True)
    size = flat.norm(dim=1, keepdim=True)
    flat = flat / torch.where(size < 1e-8, torch.ones_like(size), size)
    cover = flat.T @ flat / len(flat) + eps * torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
    return torch.linalg.solve(cover, flat.T).T.reshape(patches.shape).to(patches.dtype)


class RandomFeatures(EncoderModule):
    """The filters stand as buffers: they are saved with the model, and nothing learns."""

    weight: Tensor

    def __init__(self, config: Mosaiks, want: Input) -> None:
        super().__init__()
        features, bands, k = SIZES[config.size], len(want.bands), config.kernel
        self.config, self.fitted = config, config.filters == "gaussian"
        g = generator("mosaiks", config.seed)
        self.register_buffer("weight", torch.randn(features // 2, bands, k, k, generator=g, device="cpu"))
        self.spec = EncoderSpec(
            name=f"mosaiks/{config.size}",
            inputs=(want,),
            widths=(features,),
            strides=(float(config.cell),),
            pooled=features,
            patch=config.cell,
            licence="Apache-2.0",
            notes="no training: random filters",
        )

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    def fit(self, batch: Batch) -> None:
        """Empirical filters: whitened patches at random places of these samples (drawn by the config's seed)."""
        view = single(prepare(batch, self.spec, self.adaptation, torch.float32), self.spec.name)
        x, k = view.x.flatten(0, 1), self.config.kernel
        seen = view.valid.flatten(0, 1).float()
        whole = F.avg_pool2d(seen, k, 1).squeeze(1) == 1
        places = whole.nonzero()
        if not len(places):
            raise UserError("no patch of these samples is valid as a whole", where="mosaiks")
        g = generator("mosaiks", self.config.seed, "patches")
        drawn = places[torch.randint(len(places), (len(self.weight),), generator=g)]
        patches = torch.stack([x[n, :, r : r + k, c : c + k] for n, r, c in drawn.tolist()])
        self.weight.copy_(whiten(patches).to(self.weight))
        self.fitted = True

    def responses(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Means of the positive and negative parts over whole valid windows (N, D), and over cells (N, D, h, w)."""
        k, cell = self.config.kernel, self.config.cell
        use = F.avg_pool2d(seen.float(), k, 1) > 1 - 1e-6
        use = torch.where(use.flatten(1).any(1)[:, None, None, None], use, torch.ones_like(use)).to(x.dtype)
        pad = (0, k - 1, 0, k - 1)
        share = F.avg_pool2d(F.pad(use, pad), cell)
        pooled: list[list[Tensor]] = [[], []]
        maps: list[list[Tensor]] = [[], []]
        for weight in self.weight.split(_CHUNK):
            y = F.conv2d(x, weight, torch.full((len(weight),), self.config.bias, dtype=x.dtype, device=x.device))
            for i, part in enumerate((y.clamp_min(0), y.clamp_max(0).neg())):
                part = part * use
                pooled[i].append(part.sum((2, 3)) / use.sum((2, 3)))
                maps[i].append(F.avg_pool2d(F.pad(part, pad), cell) / share.clamp_min(1e-6))
        return torch.cat(pooled[0] + pooled[1], 1), torch.cat(maps[0] + maps[1], 1)

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        if not self.fitted:
            raise UserError("empirical filters are not drawn yet", where="encoder mosaiks", remedy="call fit(batch)")
        view = single(views, self.spec.name)
        if min(view.x.shape[3:]) < max(self.config.cell, self.config.kernel):
            raise UserError(f"mosaiks needs at least {self.config.cell} pixels a side", where="encoder mosaiks")
        seen = view.valid.flatten(0, 1)

        def run(x: Tensor, rows: Tensor) -> Features:
            pooled, maps = self.responses(x, seen)
            return Features((maps,), pooled, self.spec.strides)

        return per_timestep(view, run)


MEMBER = Mosaiks
