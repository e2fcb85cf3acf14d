"""Task modules that several tasks use: classes of a chip, classes of pixels, tags, values of pixels or of a chip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.adapt.constraints import Constraint, penalties
from swath.adapt.losses import Loss
from swath.adapt.losses.quantile import QUANTILES
from swath.adapt.metrics import ClassScores, TagScores, ValueScores
from swath.adapt.task import Context, TaskModule, check_classes, check_losses, decoder_for, observed, total
from swath.core.batch import Batch, Label
from swath.core.contracts import Features, Scores, Step
from swath.core.errors import UserError


def class_weights(module: nn.Module) -> Tensor | None:
    """The buffer of weights per class, when the task was built with one."""
    found = cast("Tensor", module.class_weights)
    return found if found.numel() else None


class Vector(nn.Module):
    """Head on the pooled vector: norm, dropout, linear."""

    def __init__(self, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.drop, self.linear = nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, outputs)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.drop(self.norm(x)))


class Dense(nn.Module):
    """Decoder, dropout, 1 x 1 convolution, resized to the label's size."""

    def __init__(self, context: Context, levels: Sequence[int], outputs: int, dropout: float) -> None:
        super().__init__()
        self.decoder, width = decoder_for(context, levels)
        self.drop, self.conv = nn.Dropout2d(dropout), nn.Conv2d(width, outputs, 1)
        nn.init.zeros_(cast("Tensor", self.conv.bias))

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        out = self.conv(self.drop(self.decoder(maps)))
        if (out.shape[-2], out.shape[-1]) == size:
            return out
        return F.interpolate(out, size, mode="bilinear", align_corners=False)


class Classes(TaskModule):
    """Softmax classes, of chips (`dense` false) or of pixels."""

    def __init__(self, context: Context, losses: Sequence[Loss], dense: bool, dropout: float = 0.0) -> None:
        super().__init__(context)
        check_losses(losses, "classes", "task.losses")
        k = len(context.label.classes)
        if k < 2:
            raise UserError(f"label '{context.label.name}' has {k} classes; two at least are needed", where="task")
        self.dense, self.losses = dense, tuple(losses)
        self.head: nn.Module = (
            Dense(context, self.levels, k, dropout) if dense else Vector(self.spec.pooled, k, dropout)
        )
        self.register_buffer("class_weights", torch.tensor(context.weights))
        self.register_buffer("temperature", torch.ones(()))

    def answer(self, features: Features, size: tuple[int, int]) -> Tensor:
        return self.head(features.maps, size) if self.dense else self.head(features.pooled)

    def judge(self, out: Tensor, label: Label, batch: Batch) -> Step:
        check_classes(label, self.label, batch)
        valid = label.valid
        if self.dense:
            shown = observed(batch, (valid.shape[-2], valid.shape[-1]))
            valid = valid if shown is None else valid & shown
        return total(self.losses, out, label.value, valid, class_weights(self))

    def read(self, out: Tensor) -> dict[str, Tensor]:
        p = (out.float() / cast("Tensor", self.temperature)).softmax(1)
        return {"classes": p.argmax(1), "probabilities": p}

    def scores(self) -> Scores:
        return ClassScores(self.label.name, self.label.classes, "iou_macro" if self.dense else "accuracy_macro")


class Tags(TaskModule):
    """Independent tags of a chip."""

    def __init__(self, context: Context, losses: Sequence[Loss], dropout: float = 0.0) -> None:
        super().__init__(context)
        check_losses(losses, "tags", "task.losses")
        self.losses = tuple(losses)
        self.head: nn.Module = Vector(self.spec.pooled, len(context.label.classes), dropout)
        self.register_buffer("class_weights", torch.tensor(context.weights))
        self.register_buffer("temperature", torch.ones(()))

    def answer(self, features: Features, size: tuple[int, int]) -> Tensor:
        return self.head(features.pooled)

    def judge(self, out: Tensor, label: Label, batch: Batch) -> Step:
        return total(self.losses, out, label.value, label.valid, class_weights(self))

    def read(self, out: Tensor) -> dict[str, Tensor]:
        p = (out.float() / cast("Tensor", self.temperature)).sigmoid()
        return {"tags": p > 0.5, "probabilities": p}

    def scores(self) -> Scores:
        return TagScores(self.label.name, self.label.classes)


class Values(TaskModule):
    """Values of pixels or of a chip. The head answers standardised values; losses see them so, users never do."""

    def __init__(
        self, context: Context, losses: Sequence[Loss], dense: bool, constraints: Sequence[Constraint] = ()
    ) -> None:
        super().__init__(context)
        check_losses(losses, "values", "task.losses")
        self.dense, self.losses, self.constraints = dense, tuple(losses), tuple(constraints)
        self.outputs, self.channels = losses[0].outputs, max(1, len(context.centre))
        k = self.outputs * self.channels
        self.head: nn.Module = Dense(context, self.levels, k, 0.0) if dense else Vector(self.spec.pooled, k, 0.0)
        self.register_buffer("centre", torch.tensor(context.centre or (0.0,)))
        self.register_buffer("scale", torch.tensor(context.scale or (1.0,)))

    def _shape(self, like: Tensor) -> tuple[Tensor, Tensor]:
        wide = (1, -1) + (1,) * (like.ndim - 2)
        return cast("Tensor", self.centre).view(wide), cast("Tensor", self.scale).view(wide)

    def answer(self, features: Features, size: tuple[int, int]) -> Tensor:
        return self.head(features.maps, size) if self.dense else self.head(features.pooled)

    def judge(self, out: Tensor, label: Label, batch: Batch) -> Step:
        value, valid = label.value, label.valid
        if value.ndim == 1:
            value, valid = value[:, None], valid[:, None]
        if self.dense:
            shown = observed(batch, (valid.shape[-2], valid.shape[-1]))
            valid = valid if shown is None or not self.masks_inputs else valid & shown[:, None]
        centre, scale = self._shape(value)
        step = total(self.losses, out, (value.float() - centre) / scale, valid, None)
        if self.constraints:
            for name, term, weight in penalties(self.constraints, self.read(out)["values"], scale, batch):
                step.terms[name] = term.detach()
                step.loss = step.loss + weight * term
        return step

    masks_inputs = True

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
        return ValueScores(self.label.name)
