"""Fields: a three-class map and the connected fields inside it, scored as pixels and as objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from swath.adapt.heads import Dense, class_weights
from swath.adapt.losses import Loss
from swath.adapt.metrics import MaskScores
from swath.adapt.task import Context, TaskModule, check_classes, check_losses, judged, total
from swath.core.batch import Batch, Boxes, Label
from swath.core.contracts import Features, Scores, Step
from swath.core.errors import UserError

CLASSES = ("outside", "field", "boundary")


def three_classes(objects: Boxes, size: tuple[int, int], border: int) -> Tensor:
    """0 outside, 1 inside a field, 2 within `border` pixels of a field's own edge; (H, W) int64."""
    device = objects.classes.device
    out = torch.zeros(size, dtype=torch.int64, device=device)
    if objects.masks is None or not len(objects.masks):
        return out
    m = objects.masks.float()[:, None]
    k = 2 * border + 1
    inner = (1.0 - F.max_pool2d(1.0 - m, k, 1, border))[:, 0] > 0.5
    out[objects.masks.any(0)] = 2
    out[inner.any(0)] = 1
    return out


def as_mask(label: Label, border: int) -> Label:
    """A label of objects as a mask of three classes; a mask stays as it is."""
    if label.kind == "mask":
        return label
    if any(o.masks is None and len(o.classes) for o in label.objects):
        raise UserError("fields need objects with masks", where="task: boundaries")
    sizes = [(int(h), int(w)) for h, w in label.value.tolist()]
    value = torch.stack([three_classes(o, s, border) for o, s in zip(label.objects, sizes, strict=True)])
    return Label("mask", value, torch.ones_like(value, dtype=torch.bool))


def _seen(mask: Label, batch: Batch, name: str) -> Label:
    return judged(Batch(batch.layers, batch.where, {name: mask}), name).labels[name]


def fields_of(classes: NDArray[Any], least: int) -> NDArray[np.int32]:
    """Connected interiors (4-neighbours), grown by one pixel into the boundary; 0 is no field."""
    from scipy import ndimage

    labelled: Any = ndimage.label(classes == 1)
    found: NDArray[Any] = labelled[0]
    counts = np.bincount(found.ravel())
    small = counts < least
    small[0] = False
    found[small[found]] = 0
    grown: Any = ndimage.grey_dilation(found, footprint=[[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    return np.where((found == 0) & (classes == 2), grown, found).astype(np.int32)


class Fields(TaskModule):
    """Segmentation into three classes; `instances` numbers the fields."""

    def __init__(
        self, context: Context, losses: Sequence[Loss], weights: Sequence[float], shape: tuple[int, int, int]
    ) -> None:
        super().__init__(context)
        check_losses(losses, "classes", "task.losses")
        if context.label.kind == "mask" and len(context.label.classes) != 3:
            raise UserError(
                f"a mask of fields has the three classes {', '.join(CLASSES)}; "
                f"'{context.label.name}' has {len(context.label.classes)}",
                where="task: boundaries",
            )
        self.losses, (self.border, self.least, detail) = tuple(losses), shape
        self.head: nn.Module = Dense(context, self.levels, 3, 0.0, detail)
        self.needs_pixels = detail > 0
        self.register_buffer("class_weights", torch.tensor(tuple(weights)))
        self.register_buffer("temperature", torch.ones(()))
        self.three = replace(context.label, classes=CLASSES)
        if context.label.kind == "boxes":  # learnt from objects, answered as classes
            self.answers = replace(context.label, kind="mask", classes=CLASSES, colours=())

    def _size(self, batch: Batch) -> tuple[int, int]:
        label = batch.labels.get(self.label.name)
        if label is not None and label.kind == "boxes":
            return int(label.value[0, 0]), int(label.value[0, 1])
        return self.size_of(batch)

    def learn(self, features: Features, label: Label, batch: Batch) -> Step:
        out, mask = self.head(features, batch, self._size(batch)), as_mask(label, self.border)
        check_classes(mask, self.three, batch)
        valid = _seen(mask, batch, self.label.name).valid
        return total(self.losses, out, mask.value, valid, class_weights(self))

    def plain(self, batch: Batch) -> dict[str, Tensor]:
        return self._pixels(self.features(batch), batch)[1]

    def _pixels(self, features: Features, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        out = self.head(features, batch, self._size(batch))
        p = (out.float() / cast("Tensor", self.temperature)).softmax(1)
        return out, {"classes": p.max(1).indices, "probabilities": p}

    def tell(self, features: Features, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        out, told = self._pixels(features, batch)
        classes = told["classes"]
        own = [torch.from_numpy(fields_of(c, self.least)) for c in classes.cpu().numpy()]
        return out, told | {"instances": torch.stack(own).to(out.device)}

    def scores(self) -> Scores:
        return FieldScores(self.label.name, self.border, self.least)


class FieldScores:
    """Pixels of three classes, and fields as objects: matched when their IoU is above .5 (FTW's protocol)."""

    direction: Literal["max", "min"] = "max"
    primary = "object_f1"

    def __init__(self, label: str, border: int, least: int) -> None:
        self.label, self.border, self.least = label, border, least
        self.pixels = MaskScores(label, CLASSES)
        self.counts: list[tuple[int, int, int]] = []

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None:
        label = batch.labels[self.label]
        mask = as_mask(label, self.border)
        seen = _seen(mask, batch, self.label)
        self.pixels.update(prediction, Batch({}, batch.where, {self.label: seen}))
        for i in range(len(batch)):
            told = prediction["instances"][i].cpu().numpy()
            self.counts.append(count_matches(told, self._truth(label, mask, i)))

    def _truth(self, label: Label, mask: Label, i: int) -> NDArray[np.int32]:
        if label.kind == "mask":
            return fields_of(mask.value[i].cpu().numpy(), self.least)
        masks = label.objects[i].masks
        out = np.zeros((int(label.value[i, 0]), int(label.value[i, 1])), dtype=np.int32)
        for n, m in enumerate(masks.cpu().numpy() if masks is not None else (), 1):
            if m.sum() >= self.least:
                out[m] = n
        return out

    def compute(self) -> dict[str, float]:
        hit, told, true = (sum(c[i] for c in self.counts) for i in range(3))
        return self.pixels.compute() | {
            "object_f1": 2 * hit / (told + true) if told + true else float("nan"),
            "object_precision": hit / told if told else float("nan"),
            "object_recall": hit / true if true else float("nan"),
        }

    @property
    def confusion(self) -> Any:
        return self.pixels.confusion

    def per_sample(self) -> dict[str, float]:
        return self.pixels.per_sample()

    def intervals(self, seed: int = 0, times: int = 1000) -> dict[str, tuple[float, float]]:
        from swath.adapt.metrics import resample, spans

        found = self.pixels.intervals(seed, times)
        if self.counts:
            draws = resample(len(self.counts), times, seed) @ np.array(self.counts, dtype=float)
            with np.errstate(invalid="ignore", divide="ignore"):
                found |= spans({"object_f1": 2 * draws[:, 0] / (draws[:, 1] + draws[:, 2])}, ())
        return found


def count_matches(told: NDArray[Any], truth: NDArray[Any], at: float = 0.5) -> tuple[int, int, int]:
    """(matched, told, true) of two maps of instances; above half of the union a partner is unique."""
    n, m = int(told.max(initial=0)) + 1, int(truth.max(initial=0)) + 1
    both = np.bincount(told.ravel().astype(np.int64) * m + truth.ravel(), minlength=n * m).reshape(n, m)
    a, b = both.sum(1), both.sum(0)
    inner = both[1:, 1:]
    union = a[1:, None] + b[None, 1:] - inner
    hits = int((inner > at * np.maximum(union, 1)).sum())
    return hits, int((a[1:] > 0).sum()), int((b[1:] > 0).sum())
