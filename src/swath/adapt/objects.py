"""Objects on any encoder: Faster R-CNN (arXiv:1506.01497), Mask R-CNN (arXiv:1703.06870) over an FPN, by torchvision.

The pyramid is ours, so there is no image transform, no resizing and no fixed backbone; it goes down to the stride that
the smaller objects of the training split need. `regions` holds the heads with anchors, `fcos` the one without
(arXiv:1904.01355).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from swath.adapt.detail import PixelPyramid
from swath.adapt.fcos import FCOS
from swath.adapt.fields import as_mask
from swath.adapt.losses.ce import CrossEntropy
from swath.adapt.metrics import names_of, resample, spans
from swath.adapt.task import Context, TaskModule, finest, judged
from swath.core.batch import Batch, Boxes, Label
from swath.core.contracts import Features, Scores, Step
from swath.core.errors import UserError
from swath.models.decoders._parts import block
from swath.models.decoders.fpn import FPN

FINEST = 2.0
"""No level is finer (in canvas pixels): its cost is that of all others together, four times over."""


@dataclass(frozen=True)
class ObjectOptions:
    """Width of pyramid and heads; what is kept of the answers; channels of the input's own pixels; which head."""

    masks: bool = False
    width: int = 128
    score: float = 0.05
    overlap: float = 0.5
    most: int = 100
    detail: int = 0
    head: Literal["rcnn", "fcos"] = "rcnn"


@dataclass(frozen=True)
class Canvas:
    """The heads' own pixels: cells have sides of a power of two there, whatever the encoder's patch and the label's
    grid are. `factor` is canvas pixels per label pixel."""

    size: tuple[int, int]
    factor: float
    labels: tuple[tuple[int, int], ...]

    @property
    def images(self) -> list[tuple[int, int]]:
        return [(round(h * self.factor), round(w * self.factor)) for h, w in self.labels]


class Objects(TaskModule):
    """Boxes with classes, and a mask each when asked."""

    def __init__(self, context: Context, options: ObjectOptions) -> None:
        super().__init__(context)
        if not context.label.classes:
            raise UserError(f"label '{context.label.name}' has no classes", where="task")
        self.options = options
        widths = [self.spec.widths[i] for i in self.levels]
        strides = [self.spec.strides[i] for i in self.levels]
        self.pyramid = FPN(options.width).build(widths, strides)
        self.power = 2.0 ** round(math.log2(strides[0])) / strides[0]
        self.strides = [s * self.power for s in self.pyramid.strides]
        self.finer = nn.ModuleList()
        while context.small and self.strides[0] > max(FINEST, context.small * self.power / self.ratio / 2):
            self.strides.insert(0, self.strides[0] / 2)
            self.finer.append(block(options.width, options.width))
        self.pixels = PixelPyramid(context, self.strides, (options.detail, options.width)) if options.detail else None
        self.needs_pixels = options.detail > 0
        classes = len(context.label.classes)
        if options.head == "fcos":
            self.dense = FCOS(options.width, classes, self.strides)
        else:
            from swath.adapt.regions import Regions, proposals

            self.rpn = proposals(self.strides, options.width)
            kept = (options.score, options.overlap, options.most)
            self.roi = Regions(self.strides, options.width, classes + 1, kept, options.masks)
        self.plan = nn.Conv2d(options.width, 3, 1) if options.masks else None

    def _canvas(self, features: Features, batch: Batch) -> Canvas:
        h, w = features.maps[0].shape[-2:]
        stride = features.strides[0] * self.power
        label = batch.labels.get(self.label.name)
        if label is not None:
            sizes = [(int(y), int(x)) for y, x in label.value.tolist()]
        else:
            y, x = finest(batch)
            sizes = [(round(y * self.ratio), round(x * self.ratio))] * len(batch)
        return Canvas((round(h * stride), round(w * stride)), self.power / self.ratio, tuple(sizes))

    def _maps(self, features: Features, batch: Batch) -> list[Tensor]:
        maps = self.pyramid.levels(features.maps)
        for smooth in self.finer:
            maps.insert(0, smooth(F.interpolate(maps[0], scale_factor=2.0, mode="bilinear", align_corners=False)))
        return maps if self.pixels is None else self.pixels(maps, batch)

    def _run(self, maps: list[Tensor], canvas: Canvas, targets: Any) -> tuple[Any, dict[str, Tensor]]:
        from torchvision.models.detection.image_list import ImageList

        sizes = canvas.images
        if self.options.head == "fcos":
            if targets is not None:
                return None, self.dense.losses(maps, targets)
            options = self.options
            return self.dense.found(maps, sizes, (options.score, options.overlap, options.most)), {}
        named = {str(i): x for i, x in enumerate(maps)}
        images = ImageList(maps[0].new_zeros(1, 1, 1, 1).expand(len(sizes), 1, *canvas.size), sizes)
        proposals, first = self.rpn(images, named, targets)
        found, second = self.roi(named, proposals, sizes, targets)
        return found, {**first, **second}

    def learn(self, features: Features, label: Label, batch: Batch) -> Step:
        if any(o.masks is None and self.options.masks for o in label.objects):
            raise UserError("the objects have no masks", where=f"label {self.label.name}", remedy="choose task detect")
        canvas = self._canvas(features, batch)
        parts = [] if self.options.head == "fcos" else [self.rpn, self.roi]
        training = self.training
        for part in parts:
            part.train()
        try:
            targets = [_target(o, self.options.masks, canvas.factor) for o in label.objects]
            maps = self._maps(features, batch)
            _, losses = self._run(maps, canvas, targets)
        finally:
            for part in parts:
                part.train(training)
        if self.plan is not None:
            losses["loss_pixels"] = self._pixels(self.plan(maps[0]), canvas, label, batch)
        value = torch.stack(list(losses.values())).sum()
        terms = {k.removeprefix("loss_"): v.detach() for k, v in losses.items()}
        return Step(value, terms, float(len(batch)))

    def _pixels(self, told: Tensor, canvas: Canvas, label: Label, batch: Batch) -> Tensor:
        """What the finest level says of each pixel: outside, inside, at an edge. Boxes alone teach a pyramid slowly
        what an object is made of (the semantic branch of arXiv:1901.07518)."""
        whole = (round(canvas.size[0] / canvas.factor), round(canvas.size[1] / canvas.factor))
        mask = as_mask(label, 1)
        mask = judged(Batch(batch.layers, batch.where, {label.kind: mask}), label.kind).labels[label.kind]
        h, w = mask.value.shape[-2:]
        told = F.interpolate(told, whole, mode="bilinear", align_corners=False)[..., :h, :w]
        return CrossEntropy()(told, mask.value, mask.valid)

    def tell(self, features: Features, batch: Batch) -> tuple[None, dict[str, Tensor]]:
        canvas = self._canvas(features, batch)
        found, _ = self._run(self._maps(features, batch), canvas, None)
        found = [{**f, "boxes": f["boxes"] / canvas.factor} for f in found]
        return None, self._padded(found, canvas.labels[0])

    def _padded(self, found: list[dict[str, Tensor]], size: tuple[int, int]) -> dict[str, Tensor]:
        most = max((len(f["scores"]) for f in found), default=0)

        def pad(t: Tensor) -> Tensor:
            return torch.cat([t, t.new_zeros(most - len(t), *t.shape[1:])])

        out = {
            "boxes": torch.stack([pad(f["boxes"]) for f in found]),
            "scores": torch.stack([pad(f["scores"]) for f in found]),
            "classes": torch.stack([pad(f["labels"] - 1) for f in found]),
            "counts": torch.tensor([len(f["scores"]) for f in found]),
        }
        if self.options.masks:
            from swath.adapt.regions import pasted

            masks = [pasted(f["masks"], f["boxes"], size) for f in found]
            out["masks"] = torch.stack([pad(m) for m in masks])
        return out

    def scores(self) -> Scores:
        return ObjectScores(self.label.name, self.label.classes, "segm" if self.options.masks else "bbox")


def _target(objects: Boxes, masks: bool, factor: float) -> dict[str, Tensor]:
    """In canvas pixels; torchvision counts classes from one, and refuses boxes without area."""
    sides = objects.xyxy[:, 2:] - objects.xyxy[:, :2]
    keep = (sides > 0.5).all(1)
    out = {"boxes": objects.xyxy[keep].float() * factor, "labels": objects.classes[keep] + 1}
    if masks and objects.masks is not None:
        kept = objects.masks[keep]
        if factor != 1.0 and len(kept):
            size = (round(kept.shape[-2] * factor), round(kept.shape[-1] * factor))
            kept = F.interpolate(kept[:, None].float(), size)[:, 0] > 0.5
        out["masks"] = kept.to(torch.uint8)
    return out


class ObjectScores:
    """Mean average precision over IoU .50 to .95 by torchmetrics, and F1 of objects at IoU .5."""

    direction: Literal["max", "min"] = "max"
    primary = "map_50"

    def __init__(self, label: str, classes: Sequence[str], kind: Literal["bbox", "segm"]) -> None:
        self.label, self.classes = label, tuple(classes)
        self.kind: Literal["bbox", "segm"] = kind
        self.told: list[dict[str, Tensor]] = []
        self.truth: list[dict[str, Tensor]] = []
        self.names: list[str] = []

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None:
        for i, objects in enumerate(batch.labels[self.label].objects):
            n = int(prediction["counts"][i])
            told = {
                "boxes": prediction["boxes"][i, :n].cpu(), "scores": prediction["scores"][i, :n].cpu(),
                "labels": prediction["classes"][i, :n].cpu(),
            }  # fmt: skip
            truth = {"boxes": objects.xyxy.float().cpu(), "labels": objects.classes.cpu()}
            if self.kind == "segm" and objects.masks is not None:
                told["masks"], truth["masks"] = prediction["masks"][i, :n].cpu(), objects.masks.cpu()
            self.told.append(told)
            self.truth.append(truth)
        self.names += names_of(batch)

    def compute(self) -> dict[str, float]:
        from torchmetrics.detection import MeanAveragePrecision

        if not self.told:
            return {"map": float("nan"), "map_50": float("nan")}
        metric = MeanAveragePrecision(iou_type=self.kind, class_metrics=len(self.classes) > 1)
        metric.update(self.told, self.truth)
        found = metric.compute()
        out = {k: float(found[k]) for k in ("map", "map_50", "map_75", "mar_100")}
        if len(self.classes) > 1:
            per = found["map_per_class"].reshape(-1).tolist()
            for c, v in zip(found["classes"].reshape(-1).tolist(), per, strict=True):
                out[f"ap/{self.classes[int(c)]}"] = float(v)
        # torchmetrics says -1 where there is nothing to judge, and of masks also where there is no answer at all
        silent = not any(len(t["labels"]) for t in self.told) and any(len(t["labels"]) for t in self.truth)
        none = 0.0 if silent else float("nan")
        return {k: (v if v >= 0 else none) for k, v in out.items()} | self.matched()

    def counts(self, at: float = 0.5, sure: float = 0.5) -> NDArray[np.float64]:
        """(matched, said, true) a sample: objects said with confidence, each truth matched once, at this IoU (of masks
        where there are masks), and with its own class."""
        rows: list[tuple[int, int, int]] = []
        for told, truth in zip(self.told, self.truth, strict=True):
            order = told["scores"].argsort(descending=True, stable=True)
            order = order[told["scores"][order] >= sure]
            overlap = overlaps({k: v[order] for k, v in told.items()}, truth)
            rows.append((match(overlap, at), len(order), len(truth["labels"])))
        return np.array(rows, dtype=float).reshape(-1, 3)

    def per_sample(self) -> dict[str, float]:
        """Each sample's own F1, to find the best and the worst; of no objects and no answers it is one."""
        hit, said, true = self.counts().T
        own = np.where(said + true > 0, 2 * hit / np.maximum(said + true, 1), 1.0)
        return dict(zip(self.names, own.tolist(), strict=True))

    def intervals(self, seed: int = 0, times: int = 1000) -> dict[str, tuple[float, float]]:
        """95 % intervals of precision, recall and F1 over resampled samples."""
        counts = self.counts()
        return spans(rates(resample(len(counts), times, seed) @ counts), ()) if len(counts) else {}

    def matched(self) -> dict[str, float]:
        return {k: float(v[0]) for k, v in rates(self.counts().sum(0)[None]).items()}


def rates(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Precision, recall and F1 of rows of (matched, said, true)."""
    hit, said, true = counts.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"object_precision": hit / said, "object_recall": hit / true, "object_f1": 2 * hit / (said + true)}


def overlaps(told: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> Tensor:
    """IoU of every answer with every truth, of masks where both have them; zero between different classes."""
    from torchvision.ops import box_iou

    iou = box_iou(told["boxes"].float(), truth["boxes"].float())
    iou = torch.where(told["labels"][:, None] == truth["labels"], iou, 0.0)
    if "masks" in told and "masks" in truth:
        for i, j in iou.nonzero().tolist():
            a, b = told["masks"][i], truth["masks"][j]
            iou[i, j] = (a & b).sum() / (a | b).sum().clamp_min(1)
    return iou


def match(iou: Tensor, at: float) -> int:
    """How many answers (rows, most confident first) find an own partner above the IoU `at`."""
    if not iou.numel():
        return 0
    hits = 0
    for row in iou:
        best = int(row.argmax())
        if row[best] > at:
            hits += 1
            iou[:, best] = -1.0
    return hits
