"""Task modules that several tasks use: classes of a chip, classes of pixels, tags, values of pixels or of a chip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.adapt.constraints import Constraint, penalties
from swath.adapt.detail import Detail, Planes, Summary, alone
from swath.adapt.fusion import as_encoder
from swath.adapt.losses import Loss
from swath.adapt.losses.quantile import QUANTILES
from swath.adapt.metrics import ClassScores, MaskScores, TagScores, ValueScores
from swath.adapt.task import Context, TaskModule, check_classes, check_losses, decoder_for, total
from swath.core.batch import Batch, Label, Layer
from swath.core.contracts import Features, Scores, Step
from swath.core.errors import UserError
from swath.models.layers.products import Point


def class_weights(module: nn.Module) -> Tensor | None:
    """The buffer of weights per class, when the task was built with one."""
    found = cast("Tensor", module.class_weights)
    return found if found.numel() else None


class Vector(nn.Module):
    """Head on the pooled vector, beside it (with `detail`) what the input's own pixels say together: norm, dropout,
    linear."""

    def __init__(self, context: Context, outputs: int, dropout: float = 0.0, detail: int = 0) -> None:
        super().__init__()
        width = as_encoder(context.encoder).spec.pooled
        self.norm, self.drop = nn.LayerNorm(width), nn.Dropout(dropout)
        self.detail = Summary(context, detail) if detail else None
        if self.detail is not None:
            self.level = nn.LayerNorm(self.detail.width)
        self.linear = nn.Linear(width + (self.detail.width if self.detail is not None else 0), outputs)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def inner(self, features: Features, batch: Batch, size: tuple[int, int]) -> Tensor:
        """What the last layer sees (B, D)."""
        told = self.norm(features.pooled)
        if self.detail is None:
            return told
        return torch.cat([alone(told, self.training, batch.where.key), self.level(self.detail(batch))], 1)

    def last(self, inner: Tensor) -> Tensor:
        return self.linear(inner)

    def forward(self, features: Features, batch: Batch, size: tuple[int, int]) -> Tensor:
        return self.linear(self.drop(self.inner(features, batch, size)))


class Dense(nn.Module):
    """Decoder (refined by `detail` channels of the input's own pixels), dropout, 1 x 1 convolution, at the label's
    size."""

    def __init__(
        self, context: Context, levels: Sequence[int], outputs: int, dropout: float = 0.0, detail: int = 0
    ) -> None:
        super().__init__()
        self.decoder, width = decoder_for(context, levels)
        self.detail = Detail(context, width, detail) if detail else None
        self.drop, self.conv = nn.Dropout2d(dropout), Point(detail or width, outputs)
        nn.init.zeros_(cast("Tensor", self.conv.bias))

    def inner(self, features: Features, batch: Batch, size: tuple[int, int]) -> Tensor:
        """What the last layer sees (B, D, h, w)."""
        x = self.decoder(features.maps)
        return x if self.detail is None else self.detail(x, batch, size)

    def last(self, inner: Tensor) -> Tensor:
        return self.conv(inner)

    def forward(self, features: Features, batch: Batch, size: tuple[int, int]) -> Tensor:
        out = self.conv(self.drop(self.inner(features, batch, size)))
        if (out.shape[-2], out.shape[-1]) == size:
            return out
        return F.interpolate(out, size, mode="bilinear", align_corners=False)


class Refine(nn.Module):
    """What to add to a guide, from its own pixels and those of all dates beside the decoder's map."""

    def __init__(self, context: Context, levels: Sequence[int], outputs: int, width: int = 48) -> None:
        super().__init__()
        self.decoder, given = decoder_for(context, levels)
        self.enter = nn.Conv2d(given, width, 1)
        self.planes = Planes(context.statistics, context.dates, context.wide)
        self.body = nn.Sequential(
            nn.Conv2d(width + outputs + 1 + self.planes.width, width, 3, padding=1), nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1), nn.GELU(), Point(width, outputs),
        )  # fmt: skip
        last = cast("nn.Conv2d", self.body[-1])
        nn.init.trunc_normal_(last.weight, std=0.002)
        nn.init.zeros_(cast("Tensor", last.bias))

    def forward(self, maps: Sequence[Tensor], batch: Batch, guide: tuple[Tensor, Tensor]) -> Tensor:
        start, known = guide
        deep = self.enter(self.decoder(maps))
        size = (start.shape[-2], start.shape[-1])
        deep = F.interpolate(deep, size, mode="bilinear", align_corners=False)
        return start + self.body(torch.cat([deep, start, known, self.planes(batch, size)], 1))


class Classes(TaskModule):
    """Softmax classes, of chips (`dense` false) or of pixels."""

    def __init__(
        self, context: Context, losses: Sequence[Loss], dense: bool, dropout: float = 0.0, detail: int = 0
    ) -> None:
        super().__init__(context)
        check_losses(losses, "classes", "task.losses")
        k = len(context.label.classes)
        if k < 2:
            raise UserError(f"label '{context.label.name}' has {k} classes; two at least are needed", where="task")
        self.dense, self.losses = dense, tuple(losses)
        self.head: nn.Module = (
            Dense(context, self.levels, k, dropout, detail) if dense else Vector(context, k, dropout, detail)
        )
        self.needs_pixels = detail > 0
        self.register_buffer("class_weights", torch.tensor(context.weights))
        self.register_buffer("temperature", torch.ones(()))

    def answer(self, features: Features, batch: Batch) -> Tensor:
        return self.head(features, batch, self.size_of(batch))

    def tell(self, features: Features, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        out = self.answer(features, batch)
        return out, self.read(out)

    def learn(self, features: Features, label: Label, batch: Batch) -> Step:
        valid = label.valid.all(1) if label.kind == "tags" else label.valid  # a mixed chip has a share of each class
        if label.kind != "tags":
            check_classes(label, self.label, batch)
        return total(self.losses, self.answer(features, batch), label.value, valid, class_weights(self))

    def read(self, out: Tensor) -> dict[str, Tensor]:
        p = (out.float() / cast("Tensor", self.temperature)).softmax(1)
        return {"classes": p.max(1).indices, "probabilities": p}  # argmax across planes takes ten times as long

    def scores(self) -> Scores:
        if self.dense:
            return MaskScores(self.label.name, self.label.classes)
        return ClassScores(self.label.name, self.label.classes, "accuracy_macro")


class Tags(TaskModule):
    """Independent tags of a chip."""

    def __init__(self, context: Context, losses: Sequence[Loss], dropout: float = 0.0, detail: int = 0) -> None:
        super().__init__(context)
        check_losses(losses, "tags", "task.losses")
        self.losses = tuple(losses)
        self.head: nn.Module = Vector(context, len(context.label.classes), dropout, detail)
        self.needs_pixels = detail > 0
        self.register_buffer("class_weights", torch.tensor(context.weights))
        self.register_buffer("temperature", torch.ones(()))

    def tell(self, features: Features, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        out = self.head(features, batch, self.size_of(batch))
        return out, self.read(out)

    def learn(self, features: Features, label: Label, batch: Batch) -> Step:
        out = self.head(features, batch, self.size_of(batch))
        return total(self.losses, out, label.value, label.valid, class_weights(self))

    def read(self, out: Tensor) -> dict[str, Tensor]:
        p = (out.float() / cast("Tensor", self.temperature)).sigmoid()
        return {"tags": p > 0.5, "probabilities": p}

    def scores(self) -> Scores:
        return TagScores(self.label.name, self.label.classes)


@dataclass(frozen=True)
class ValueOptions:
    """What differs between tasks on values: dense or of a chip, physical rules, whether a guide is added to, and the
    date that it is a guide to."""

    dense: bool = True
    constraints: tuple[Constraint, ...] = ()
    residual: bool = False
    detail: int = 0
    events: tuple[float, ...] = ()
    at: int | None = None


class Values(TaskModule):
    """Values of pixels or of a chip. The head answers standardised values; losses see them so, users never do.

    With a guide (super-resolution, gap filling) the head refines the input's own bands; an untrained model nearly is
    the guide.
    """

    def __init__(self, context: Context, losses: Sequence[Loss], options: ValueOptions) -> None:
        super().__init__(context)
        check_losses(losses, "values", "task.losses")
        self.dense, self.losses, self.events = options.dense, tuple(losses), options.events
        bounds = (context.label.low, context.label.high)
        declared = () if bounds == (None, None) else (Constraint("range", low=bounds[0], high=bounds[1]),)
        # what the label declares is checked in any case; a run's own rules may also weigh in the loss
        self.constraints = options.constraints or declared
        self.outputs, self.channels = losses[0].outputs, max(1, len(context.centre))
        k = self.outputs * self.channels
        self.guide, self.at = context.guide if options.residual else None, options.at
        if self.guide is not None:
            self.head: nn.Module = Refine(context, self.levels, k)
        else:
            dense = Dense(context, self.levels, k, 0.0, options.detail) if self.dense else None
            self.head = dense if dense is not None else Vector(context, k, 0.0, options.detail)
        self.register_buffer("centre", torch.tensor(context.centre or (0.0,)))
        self.register_buffer("scale", torch.tensor(context.scale or (1.0,)))
        if options.residual and (self.guide is None or self.outputs != 1):
            raise UserError(
                f"no input layer shows the bands of '{context.label.name}', or the loss wants several outputs",
                where="task.residual",
                remedy="let the label's classes name its bands and use l1, mse or huber, or set residual: false",
            )
        self.needs_pixels = self.guide is not None or options.detail > 0

    def _shape(self, like: Tensor) -> tuple[Tensor, Tensor]:
        wide = (1, -1) + (1,) * (like.ndim - 2)
        return cast("Tensor", self.centre).view(wide), cast("Tensor", self.scale).view(wide)

    def answer(self, features: Features, batch: Batch) -> Tensor:
        if self.guide is None:
            return self.head(features, batch, self.size_of(batch))
        start, known = self.start(batch)
        centre, scale = self._shape(start)
        return self.head(features.maps, batch, ((start - centre) / scale, known))

    def start(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The guide that an answer starts from, and where it is known."""
        if self.guide is None:
            raise UserError("this task starts from nothing", where="task.residual")
        return guided(batch, self.guide, self.size_of(batch), (cast("Tensor", self.centre), self.at))

    def tell(self, features: Features, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        out = self.answer(features, batch)
        return out, self.read(out)

    def learn(self, features: Features, label: Label, batch: Batch) -> Step:
        out = self.answer(features, batch)
        value, valid = label.value, label.valid
        if value.ndim == 1:
            value, valid = value[:, None], valid[:, None]
        centre, scale = self._shape(value)
        step = total(self.losses, out, (value.float() - centre) / scale, valid, None)
        if self.constraints:
            for name, term, weight in penalties(self.constraints, self.read(out)["values"], scale, batch):
                step.terms[name] = term.detach()
                step.loss = step.loss + weight * term
        return step

    def read(self, out: Tensor) -> dict[str, Tensor]:
        blocks = out.float().unflatten(1, (self.outputs, self.channels))
        centre, scale = self._shape(blocks[:, 0])
        found = {"values": blocks[:, 0] * scale + centre}
        if self.outputs == 2:
            found["std"] = (0.5 * blocks[:, 1].clamp(-12.0, 12.0)).exp() * scale
        if self.outputs == len(QUANTILES):
            found["low"], found["high"] = blocks[:, 1] * scale + centre, blocks[:, 2] * scale + centre
        if not self.dense:
            found = {k: v[:, 0] for k, v in found.items()}
        return found

    def scores(self) -> Scores:
        return ValueScores(self.label.name, events=self.events)


def guided(
    batch: Batch, guide: tuple[str, tuple[int, ...]], size: tuple[int, int], fill: tuple[Tensor, int | None]
) -> tuple[Tensor, Tensor]:
    """The input's own bands, bicubic, and where they are known: the mean over the dates that show a pixel, or its
    interpolation to the date that `fill` names (whose first part stands where no date shows anything)."""
    layer, (empty, at) = batch.layers[guide[0]], fill
    x, valid = layer.x[:, :, list(guide[1])], layer.valid
    weight = valid.to(x.dtype) if at is None else weights_to(layer, at)
    whole = weight.sum(1)
    known = (whole > 0).to(x.dtype)
    mean = torch.where(whole > 0, (torch.where(valid, x, 0.0) * weight).sum(1) / whole.clamp_min(1e-6),
                       empty.view(1, -1, 1, 1))  # fmt: skip
    if (mean.shape[-2], mean.shape[-1]) == size:
        return mean, known
    return F.interpolate(mean, size, mode="bicubic", align_corners=False), F.interpolate(known, size)


def weights_to(layer: Layer, at: int) -> Tensor:
    """Weights (B, T, 1, H, W) that interpolate linearly in time to date `at`: the date itself where it is seen, else
    the nearest dates seen before and after it, else the one of them that there is."""
    steps = layer.shape[1]
    at = at % steps
    days = torch.arange(steps, device=layer.x.device).expand(len(layer.x), steps)
    days = (days if layer.times is None else layer.times).double()
    gap = (days - days[:, at : at + 1]).abs().float()[:, :, None, None, None]
    seen, order = layer.valid, torch.arange(steps, device=layer.x.device).view(1, -1, 1, 1, 1)
    early = (torch.where(seen & (order <= at), order, -1)).amax(1, keepdim=True)
    late = (torch.where(seen & (order >= at), order, steps)).amin(1, keepdim=True)
    first, last = (order == early).float(), (order == late).float()
    a, b = (gap * first).sum(1, keepdim=True), (gap * last).sum(1, keepdim=True)
    share = torch.where((early >= 0) & (late < steps), a / (a + b).clamp_min(1e-6), 0.0)
    share = torch.where(early < 0, 1.0, share)
    return torch.where(early == late, first, first * (1 - share) + last * share)
