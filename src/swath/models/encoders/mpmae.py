"""MP-MAE (MMEarth): ConvNeXtV2 on Sentinel-2, pretrained to predict masked patches and eleven other facts of a place.

https://arxiv.org/abs/2405.02771, https://arxiv.org/abs/2301.00808. GRN: n = |x| / mean |x|; y = g (x n) + b + x.
The patch (8 or 16) fixes the stem. Official files are in MinkowskiEngine's layout; loading turns the kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swath.core import EncoderSpec, Features, Input, UnknownName, UserError, Where
from swath.models.encoder import EncoderModule, per_timestep
from swath.models.inputs import View, single
from swath.models.layers import keep_by_noise
from swath.models.layers.convolutional import ChannelNorm
from swath.models.layers.products import Linear
from swath.models.loading import Layout

BANDS = ("coastal", "blue", "green", "red", "rededge071", "rededge075", "rededge078", "nir08", "nir", "nir09", "swir16",
         "swir22")  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Blocks and widths per stage; `custom_stem` adds a 3 x 3 convolution without padding before the patches."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    patch: int = 8
    custom_stem: bool = True
    bands: int = 12
    classes: int = 0


_ATTO, _TINY = ((2, 2, 6, 2), (40, 80, 160, 320)), ((3, 3, 9, 3), (96, 192, 384, 768))
SIZES: Mapping[str, Plan] = {
    "tiny": Plan((1, 1, 2, 1), (8, 16, 24, 32), 8, False),
    **{f"{name}-p{p}{'' if custom else '-origstem'}": Plan(*dims, p, custom)
       for name, dims in (("atto", _ATTO), ("convnext-tiny", _TINY)) for p in (8, 16) for custom in (True, False)},
}  # fmt: skip


@dataclass(frozen=True)
class MPMAE:
    """One of `sizes`; `mean` and `std` (of reflectance x 10000) are the pretraining set's, where the run has them."""

    kind: ClassVar[str] = "mpmae"
    sizes: ClassVar[Mapping[str, Plan]] = SIZES
    size: str = "atto-p16"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def build(self) -> ConvNeXtV2:
        if self.size not in SIZES:
            raise UnknownName("size of mpmae", self.size, SIZES)
        if len(self.mean) != len(self.std) or len(self.mean) not in (0, len(BANDS)):
            raise UserError(f"mean and std need {len(BANDS)} values each", where="encoder mpmae")
        return ConvNeXtV2(SIZES[self.size], f"mpmae/{self.size}", (self.mean, self.std) if self.mean else None)

    def layout(self) -> Layout:
        return official_layout()


def official_layout(prefix: str = "encoder.") -> Layout:
    """Minkowski kernels; the pretraining heads are dropped, the norm and head of a classifier are not in the file."""
    return Layout(
        inside=("model",),
        rename=((prefix, ""), (".kernel", ".weight"), (".linear.", "."), (".ln.", ".")),
        drop=("proj.*", "mask_token", "decoder_dict.*", "pred_dict.*", "layer_norm_tmp.*", "loss_fn.*"),
        absent=("norm.*", "head.*"),
        reshape=(("*", minkowski),),
    )


def minkowski(own: Tensor, given: Tensor) -> Tensor | None:
    """MinkowskiEngine layout: (k², in, out) or (k², channels) kernels, columns first; vectors as (1, n)."""
    if given.numel() != own.numel():
        return None
    if own.ndim != 4 or own.shape[0] == 1:
        return given.reshape(own.shape)
    kernel = given.permute(2, 1, 0) if given.ndim == 3 else given.T[:, None]
    return kernel.reshape(own.shape).transpose(2, 3).contiguous()


class ResponseNorm(nn.Module):
    """Global response normalisation of (B, H, W, C)."""

    def __init__(self, width: int, eps: float = 1e-4) -> None:
        super().__init__()
        self.eps = eps
        self.gamma, self.beta = nn.Parameter(torch.zeros(1, 1, 1, width)), nn.Parameter(torch.zeros(1, 1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        size = x.norm(p=2, dim=(1, 2), keepdim=True)
        return self.gamma * (x * (size / (size.mean(-1, keepdim=True) + self.eps))) + self.beta + x


class ConvNeXtV2Block(nn.Module):
    """Depthwise 7 x 7, norm, two linear maps with response normalisation between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.act = Linear(width, 4 * width), nn.GELU()
        self.grn, self.pwconv2 = ResponseNorm(4 * width), Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        return x + self.pwconv2(self.grn(self.act(self.pwconv1(y)))).permute(0, 3, 1, 2)


class ConvNeXtV2(EncoderModule):
    """Maps at strides patch/8, /4, /2 and patch; pooled is the normed mean of the last."""

    def __init__(
        self, plan: Plan, name: str = "mpmae", statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    ) -> None:
        super().__init__()
        self.plan = plan
        first, cell = plan.dims[0], plan.patch // 8
        if plan.custom_stem:
            self.initial_conv = nn.Sequential(nn.Conv2d(plan.bands, first, 3), ChannelNorm(first), nn.GELU())
            self.stem = nn.Sequential(nn.Conv2d(first, first, cell, cell, cell // 2, groups=first), ChannelNorm(first))
        else:
            self.stem_orig = nn.Sequential(nn.Conv2d(plan.bands, first, cell, cell), ChannelNorm(first))
        pairs = zip(plan.dims[:-1], plan.dims[1:], strict=True)
        down = [nn.Sequential(ChannelNorm(a), nn.Conv2d(a, b, 2, 2)) for a, b in pairs]
        self.downsample_layers = nn.ModuleList(down)
        blocks = zip(plan.depths, plan.dims, strict=True)
        self.stages = nn.ModuleList(nn.Sequential(*(ConvNeXtV2Block(d) for _ in range(n))) for n, d in blocks)
        self.norm = nn.LayerNorm(plan.dims[-1], eps=1e-6)
        if plan.classes:
            self.head = Linear(plan.dims[-1], plan.classes)
        mean, std = statistics or ((), ())
        self.spec = EncoderSpec(
            name=name,
            inputs=(Input("sentinel2-l2a", BANDS, "reflectance", mean, std, gain=10_000.0 if mean else 1.0),),
            widths=plan.dims,
            strides=tuple(float(cell * 2**i) for i in range(len(plan.dims))),
            pooled=plan.dims[-1],
            patch=plan.patch,
            depth=sum(plan.depths),
            licence="CC-BY-NC-4.0",
            notes="the weights' licence is not stated apart: held as non-commercial; the official band statistics are "
            "the data set's own and are given by the run",
        )

    def embed(self, x: Tensor) -> Tensor:
        """The stem."""
        return self.stem(self.initial_conv(x)) if self.plan.custom_stem else self.stem_orig(x)

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """The maps of all stages from the stem's output."""
        out = [self.stages[0](x)]
        for down, stage in zip(self.downsample_layers, list(self.stages)[1:], strict=True):
            out.append(stage(down(out[-1])))
        return out

    def vector(self, last: Tensor) -> Tensor:
        return self.norm(last.mean((2, 3)))

    def _images(self, x: Tensor) -> Features:
        h, w = x.shape[2:]
        maps = self.pyramid(self.embed(x))
        # the unpadded first convolution makes maps a cell short: bring them to the declared strides
        sizes = [(round(h / s), round(w / s)) for s in self.spec.strides]
        shown = [m if m.shape[2:] == size else F.interpolate(m, size, mode="bilinear", align_corners=False)
                 for m, size in zip(maps, sizes, strict=True)]  # fmt: skip
        return Features(tuple(shown), self.vector(maps[-1]), self.spec.strides)

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        view = single(views, self.spec.name)
        if min(view.x.shape[3:]) < 2 * self.plan.patch:
            raise UserError(f"{self.spec.name} needs at least {2 * self.plan.patch} pixels a side",
                            where=f"encoder {self.spec.name}")  # fmt: skip
        return per_timestep(view, lambda x, rows: self._images(x))


@dataclass(frozen=True)
class PretrainingPlan:
    """What the masked model predicts: `modalities` name -> channels (or classes), by kind."""

    encoder: Plan
    modalities: Mapping[str, int]
    width: int = 512
    depth: int = 1
    normed: tuple[str, ...] = ("sentinel2",)
    norm_pixels: bool = True
    mask_ratio: float = 0.6


CLASS_MAPS = ("dynamic_world", "esa_worldcover")
CLASSES = ("biome", "eco_region")
VECTORS = ("lat", "lon", "month", "era5")
IGNORED = -1


class MPMAEPretraining(nn.Module):
    """The published pretraining model, dense: one shared decoder, one prediction head per modality, learned weights.

    total = sum_m exp(-s_m) loss_m + s_m
    """

    def __init__(self, plan: PretrainingPlan) -> None:
        super().__init__()
        self.plan = plan
        self.encoder = ConvNeXtV2(plan.encoder)
        self.proj = nn.Conv2d(plan.encoder.dims[-1], plan.width, 1)
        self.mask_token = nn.Parameter(torch.randn(1, plan.width, 1, 1) * 0.02)
        shared = nn.Sequential(*(ConvNeXtV2Block(plan.width) for _ in range(plan.depth)))
        self.decoder_dict = nn.ModuleDict({m: shared for m in plan.modalities})
        cells = plan.encoder.patch**2
        self.pred_dict = nn.ModuleDict(
            {m: Linear(plan.width, n) if m in CLASSES + VECTORS else nn.Conv2d(plan.width, n * cells, 1)
             for m, n in plan.modalities.items()}
        )  # fmt: skip
        self.layer_norm_tmp = nn.LayerNorm(plan.width, eps=1e-6)
        self.loss_fn = nn.Module()
        self.loss_fn.log_vars = nn.Parameter(torch.zeros(len(plan.modalities)))

    def encode(self, x: Tensor, mask: Tensor) -> Tensor:
        """Last map of the image with masked patches blanked; `mask` (B, h, w), 1 = hidden."""
        p = self.plan.encoder.patch
        hidden = mask.repeat_interleave(p, 1).repeat_interleave(p, 2)[:, None]
        return self.encoder.pyramid(self.encoder.embed(x * (1.0 - hidden)))[-1]

    def predict(self, last: Tensor, mask: Tensor) -> dict[str, Tensor]:
        hidden = mask[:, None]
        y = self.proj(last) * (1.0 - hidden) + self.mask_token * hidden
        out: dict[str, Tensor] = {}
        for name in self.plan.modalities:
            z = self.decoder_dict[name](y)
            if name in CLASSES + VECTORS:
                z = self.layer_norm_tmp(z.permute(0, 2, 3, 1)).mean((1, 2))
            out[name] = self.pred_dict[name](z)
        return out

    def losses(self, given: Mapping[str, Tensor], predicted: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """One loss a modality, over hidden patches for maps."""
        out: dict[str, Tensor] = {}
        flat = mask.flatten(1)
        for name in self.plan.modalities:
            target, guess = given[name], predicted[name]
            if name in CLASSES:
                out[name] = F.cross_entropy(guess, target.argmax(1))
            elif name in VECTORS:
                known = ~target.isnan()
                out[name] = (guess - target)[known].square().mean()
            elif name in CLASS_MAPS:
                out[name] = self._class_loss(target, guess, flat)
            else:
                out[name] = self._pixel_loss(target, guess, flat, name in self.plan.normed and self.plan.norm_pixels)
        return out

    def _cells(self, x: Tensor) -> Tensor:
        """(B, C, H, W) as (B, patches, p * p, C)."""
        p = self.plan.encoder.patch
        b, c, h, w = x.shape
        y = x.view(b, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1)
        return y.reshape(b, -1, p * p, c)

    def _class_loss(self, target: Tensor, guess: Tensor, mask: Tensor) -> Tensor:
        ids = self._cells(target.float()).squeeze(-1).long()
        logits = guess.flatten(2).transpose(1, 2).unflatten(2, (self.plan.encoder.patch**2, -1))
        use = mask.bool()[..., None] & (ids != IGNORED)
        return F.cross_entropy(logits[use], ids[use])

    def _pixel_loss(self, target: Tensor, guess: Tensor, mask: Tensor, norm: bool) -> Tensor:
        want = self._cells(target).flatten(2)
        if norm:
            want = (want - want.mean(-1, keepdim=True)) / (want.var(-1, keepdim=True) + 1e-6).sqrt()
        known = ~want.isnan()
        gap = torch.where(known, guess.flatten(2).transpose(1, 2) - torch.nan_to_num(want), guess.new_zeros(()))
        each = gap.square().sum(-1) / known.sum(-1).clamp_min(1)
        hidden = (each * mask).count_nonzero(1)
        per_sample = (each * mask).sum(1) / hidden.clamp_min(1)
        return per_sample.mean()

    def forward(self, given: Mapping[str, Tensor], noise: Tensor) -> dict[str, Tensor]:
        """`noise` (B, patches): the least noisy are kept. Gives losses, their weighted forms and the total."""
        x = given["sentinel2"]
        keep = int(noise.shape[1] * (1.0 - self.plan.mask_ratio))
        side = x.shape[2] // self.plan.encoder.patch
        mask = keep_by_noise(noise, keep)[1]
        square = mask.unflatten(1, (side, -1))
        last = self.encode(x, square)
        predicted = self.predict(last, square)
        terms = self.losses(given, predicted, square)
        each, scale = torch.stack(list(terms.values())), cast(Tensor, self.loss_fn.log_vars)
        weighted = (-scale).exp() * each + scale
        out = {"encoder": last, "mask": mask, "loss": weighted.sum(), "loss_unweighted": each.sum()}
        out |= {"weighted_losses": weighted}
        return out | {f"pred.{k}": v for k, v in predicted.items()} | {f"loss.{k}": v for k, v in terms.items()}


MEMBER = MPMAE
