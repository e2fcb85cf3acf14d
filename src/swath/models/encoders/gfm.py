"""GFM: continual pretraining of a Swin-B on aerial images, by masked pixels and a frozen ImageNet teacher.

https://arxiv.org/abs/2302.04476. loss = |x - rec| over masked pixels - alpha cos(projector(student), teacher)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swath.core import EncoderSpec, Features, Input, UnknownName, UserError, Where
from swath.models.encoder import EncoderModule, per_timestep
from swath.models.inputs import View, single
from swath.models.layers.products import Linear
from swath.models.layers.swin import Swin, SwinPlan, widths
from swath.models.loading import Layout

SIZES: Mapping[str, SwinPlan] = {
    "tiny": SwinPlan(16, (2, 2, 2, 2), (1, 2, 4, 8), 6, 96),
    "base": SwinPlan(window=6, image=192),
    "base-256": SwinPlan(window=8, image=256),
}
TEACHER = SwinPlan(window=7, image=224)
RGB = Input("rgb-aerial", ("red", "green", "blue"), "display", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@dataclass(frozen=True)
class GFM:
    """`base` has the window of the published weights; `base-256` the one of its 256-pixel fine-tunings."""

    kind: ClassVar[str] = "gfm"
    sizes: ClassVar[Mapping[str, SwinPlan]] = SIZES
    size: str = "base"

    def build(self) -> GFMEncoder:
        if self.size not in SIZES:
            raise UnknownName("size of gfm", self.size, SIZES)
        return GFMEncoder(SIZES[self.size], f"gfm/{self.size}")

    def layout(self) -> Layout:
        return Layout(inside=("model",), keep=("encoder.",), strip=("encoder.",), drop=("mask_token",),
                      recomputed=("*.attn_mask", "*.relative_position_index"))  # fmt: skip


class GFMEncoder(EncoderModule):
    """Maps at strides 4, 8, 16, 32, the last one normed; pooled is its mean."""

    def __init__(self, plan: SwinPlan, name: str = "gfm") -> None:
        super().__init__()
        trunk = Swin(plan)
        self.plan = plan
        self.patch_embed, self.layers, self.norm = trunk.patch_embed, trunk.layers, trunk.norm
        sizes = tuple(widths(plan))
        self.spec = EncoderSpec(
            name=name,
            inputs=(RGB,),
            widths=sizes,
            strides=tuple(float(plan.patch * 2**i) for i in range(len(sizes))),
            pooled=sizes[-1],
            patch=plan.patch,
            depth=sum(plan.depths),
            licence="Apache-2.0",
        )

    def _images(self, x: Tensor) -> Features:
        y, maps = self.patch_embed(x), list[Tensor]()
        for layer in self.layers:
            own, y = layer(y)
            maps.append(own)
        maps[-1] = self.norm(maps[-1])
        shown = tuple(m.permute(0, 3, 1, 2) for m in maps)
        return Features(shown, shown[-1].mean((2, 3)), self.spec.strides)

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        view = single(views, self.spec.name)
        stride = int(self.spec.strides[-1])
        h, w = view.x.shape[3:5]
        if h % stride or w % stride:
            raise UserError(
                f"{self.spec.name} needs sides that are multiples of {stride} pixels; the layer is {h} x {w}",
                where=f"encoder {self.spec.name}",
                remedy="crop or pad the chips",
            )
        return per_timestep(view, lambda x, rows: self._images(x))


class GFMPretraining(nn.Module):
    """The published pretraining model: student, pixel decoder, projector and frozen teacher."""

    def __init__(self, plan: SwinPlan, teacher: SwinPlan, stride: int = 32, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha, self.stride = alpha, stride
        self.encoder = Swin(replace(plan, mask_token=True))
        out = widths(plan)[-1]
        self.decoder = nn.Sequential(nn.Conv2d(out, stride**2 * plan.bands, 1), nn.PixelShuffle(stride))
        self.projector = Linear(out, widths(teacher)[-1])
        self.teacher = Swin(teacher).requires_grad_(False)

    def student(self, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Last map, reconstruction, and the vector after the third stage before and after the projector."""
        before, after = self.encoder.stages(x, mask)
        last = self.encoder.norm(before[-1]).permute(0, 3, 1, 2)
        pooled = after[-2].mean((1, 2))
        return {"encoder": last, "rec": self.decoder(last), "zs_prepool": pooled, "zs": self.projector(pooled)}

    def taught(self, x: Tensor) -> Tensor:
        """The teacher's vector after its third stage; it looks at its own size (corners aligned, as published)."""
        side = self.teacher.plan.image
        with torch.no_grad():
            y = F.interpolate(x, (side, side), mode="bilinear", align_corners=True)
            return self.teacher.stages(y)[1][-2].mean((1, 2))

    def losses(self, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """`mask` (B, h, w) over patches, 1 = hidden."""
        out = self.student(x, mask)
        patch = self.encoder.plan.patch
        hidden = mask.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None].to(x.dtype)
        recon = ((x - out["rec"]).abs() * hidden).sum() / (hidden.sum() + 1e-5) / x.shape[1]
        distill = -F.cosine_similarity(out["zs"], self.taught(x), dim=1).mean()
        return {**out, "loss_recon": recon, "loss_distill": distill, "loss_total": recon + self.alpha * distill}


MEMBER = GFM
