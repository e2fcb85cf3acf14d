"""What tasks share: features once (none of it when frozen), an answer, a loss over valid items, a prediction."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.adapt.fusion import as_encoder
from swath.adapt.losses import Loss
from swath.adapt.metrics import names_of
from swath.core.batch import Batch, Boxes, Label
from swath.core.contracts import Features, LabelSpec, Scores, Step
from swath.core.errors import SwathWarning, UserError
from swath.models.decoders import Decoder, DenseDecoder

Statistics = Mapping[str, Mapping[str, tuple[float, float]]]
"""Sensor id -> band -> (mean, deviation), in the band's unit."""


@dataclass(frozen=True)
class Context:
    """What a task is built from; everything here is derived from the data, nothing is typed.

    `weights` is one number a class (inverse frequency) or empty; `centre` and `scale` are the mean and deviation of
    the values of the training split; `ratio` is label pixels per pixel of the finest layer; `dates` is the most
    that a sample has; `small` is the side, in label pixels, that nine of ten objects exceed (0: there are none).
    """

    label: LabelSpec
    encoder: nn.Module
    decoder: Decoder | None = None
    weights: tuple[float, ...] = ()
    centre: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    ratio: float = 1.0
    statistics: Statistics = field(default_factory=dict[str, Mapping[str, tuple[float, float]]])
    size: tuple[int, int] = (64, 64)
    dates: int = 1
    guide: tuple[str, tuple[int, ...]] | None = None
    small: float = 0.0
    wide: bool = False


def with_statistics(batch: Batch, statistics: Statistics) -> Batch:
    """The batch whose bands carry the run's own mean and deviation; encoders of any bands standardise by them."""
    if not statistics:
        return batch
    layers = dict(batch.layers)
    for name, layer in batch.layers.items():
        known = statistics.get(name)
        if known:
            bands = tuple(
                replace(b, mean=known[b.name][0], std=known[b.name][1]) if b.name in known else b
                for b in layer.sensor.bands
            )
            layers[name] = replace(layer, sensor=replace(layer.sensor, bands=bands))
    return Batch(layers, batch.where, batch.labels)


def finest(batch: Batch) -> tuple[int, int]:
    """Height and width of the finest layer."""
    return max(((v.shape[3], v.shape[4]) for v in batch.layers.values()), default=(0, 0))


def observed(batch: Batch, size: tuple[int, int], every: bool = False) -> Tensor | None:
    """Pixels that some layer shows at some date, or (`every`) at each of several dates, bool (B, H, W); None when there
    are no layers to ask."""
    layers = list(batch.layers.values())
    steps = max((v.shape[1] for v in layers), default=0)
    shown: Tensor | None = None
    for layer in layers:
        if every and layer.shape[1] < steps:
            continue  # what has no dates cannot stand for one of them
        here = layer.valid[:, :, 0].float()
        here = (here if here.shape[-2:] == size else F.interpolate(here, size, mode="nearest")) > 0
        here = here if every else here.any(1, keepdim=True)
        shown = here if shown is None else shown | here
    return None if shown is None else shown.all(1)


def judged(batch: Batch, name: str, every: bool = False) -> Batch:
    """The batch with pixels of its label (a mask or a map) that nothing shows counted as not labelled, and without the
    objects of which nothing shows a pixel: no answer is learnt or judged where there is nothing to see, and maps have
    no data there either."""
    label = batch.labels.get(name)
    if label is None or label.kind not in ("mask", "map", "boxes"):
        return batch
    if label.kind == "boxes":
        objects = tuple(_in_sight(batch[i], o, label.value[i].tolist()) for i, o in enumerate(label.objects))
        return Batch(batch.layers, batch.where, {**batch.labels, name: replace(label, objects=objects)})
    shown = observed(batch, (label.value.shape[-2], label.value.shape[-1]), every)
    if shown is None:
        return batch
    valid = label.valid & (shown if label.valid.ndim == 3 else shown[:, None])
    return Batch(batch.layers, batch.where, {**batch.labels, name: replace(label, valid=valid)})


def _in_sight(batch: Batch, objects: Boxes, size: Sequence[float]) -> Boxes:
    """The objects of a sample of which some pixel is shown at some date."""
    h, w = (max(1, round(n)) for n in size)
    if all(bool(v.valid.all()) for v in batch.layers.values()) or not len(objects.classes):
        return objects
    shown = observed(batch, (h, w))
    assert shown is not None
    if objects.masks is not None:
        kept = (objects.masks & shown).flatten(1).any(1) | ~objects.masks.flatten(1).any(1)
    else:
        low, high = objects.xyxy[:, :2].floor().long(), objects.xyxy[:, 2:].ceil().long()
        corners = torch.cat([low, high], 1).clamp_min(0).tolist()
        kept = torch.tensor([bool(shown[0, y0:y1, x0:x1].any()) for x0, y0, x1, y1 in corners], device=shown.device)
    masks = None if objects.masks is None else objects.masks[kept]
    return Boxes(objects.xyxy[kept], objects.classes[kept], masks)


def _before(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
    """One value a channel has no deviation (a batch of one small chip, or what is left of an epoch): such a batch is
    normalised by the running statistics, where torch would stop."""
    x = given[0]
    if norm.training and x.numel() == x.shape[1]:
        warnings.warn("a batch of one value a channel has no deviation: it is normalised by the running statistics",
                      SwathWarning, stacklevel=2)  # fmt: skip
        norm.training, norm.lone = False, True  # type: ignore[assignment]


def _after(norm: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
    if getattr(norm, "lone", False):
        norm.training, norm.lone = True, False  # type: ignore[assignment]


class TaskModule(nn.Module, ABC):
    """An `nn.Module` with `encoder`; in training it is called like an objective. `store` may hold cached features."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.encoder = context.encoder
        self.spec = as_encoder(context.encoder).spec
        self.label, self.statistics, self.ratio = context.label, context.statistics, context.ratio
        self.answers = context.label
        self.levels = pyramid(self.spec.widths)
        self.store: Callable[[Batch], Features] | None = None
        # layers of single pixels start from nothing beside an encoder that knows something, and bear larger steps
        self.lr_scale: dict[str, float] = {"head.detail": 3.0, "pixels": 3.0}

    @property
    def frozen(self) -> bool:
        return not any(p.requires_grad for p in self.encoder.parameters())

    def train(self, mode: bool = True) -> TaskModule:
        super().train(mode)
        for m in self.modules() if mode else ():
            if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) and _before not in m._forward_pre_hooks.values():  # pyright: ignore[reportPrivateUsage]
                m.register_forward_pre_hook(_before)
                m.register_forward_hook(_after)
        if self.frozen:
            self.encoder.eval()
        else:
            for m in self.encoder.modules():
                if isinstance(m, nn.modules.batchnorm._BatchNorm):  # pyright: ignore[reportPrivateUsage]
                    # statistics of a norm that may not move must not move either
                    m.train(mode and m.weight.requires_grad)
        return self

    def features(self, batch: Batch) -> Features:
        """The encoder's features; no graph is kept of an encoder that stands still."""
        if self.store is not None:
            return self.store(batch)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.encoder(with_statistics(batch, self.statistics), self.levels)

    @abstractmethod
    def learn(self, features: Features, label: Label, batch: Batch) -> Step:
        """The loss of a batch."""
        ...

    @abstractmethod
    def tell(self, features: Features, batch: Batch) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Raw output (None where one tensor cannot hold it), and arrays in the user's terms."""
        ...

    @abstractmethod
    def scores(self) -> Scores: ...

    every_date = False
    """Whether an answer about a pixel needs all of its dates."""

    def judged(self, batch: Batch) -> Batch:
        """The batch as it is learnt from and judged: see `judged`."""
        return judged(batch, self.label.name, self.every_date)

    needs_pixels = False
    """Whether the answer needs the input itself beside the features (then features alone cannot be cached)."""

    def size_of(self, batch: Batch) -> tuple[int, int]:
        """Size of a dense answer: the label's where there is one, else the finest layer's times `ratio`."""
        label = batch.labels.get(self.label.name)
        if label is not None and label.value.ndim >= 3:
            return label.value.shape[-2], label.value.shape[-1]
        h, w = finest(batch)
        return round(h * self.ratio), round(w * self.ratio)

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Step:
        if self.label.name not in batch.labels:
            raise UserError(f"the batch has no label '{self.label.name}'", where=", ".join(names_of(batch)[:3]))
        label = self.judged(batch).labels[self.label.name]
        return self.learn(self.features(batch), label, batch)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Named arrays for a batch, with or without labels."""
        return self.tell(self.features(batch), batch)[1]

    def plain(self, batch: Batch) -> dict[str, Tensor]:
        """What of a prediction tensors alone give: what a graph can be made of."""
        return self.predict(batch)


def pyramid(widths: Sequence[int]) -> list[int]:
    """Four levels at most, evenly spaced, the last included."""
    n = len(widths)
    return list(range(n)) if n <= 4 else [round((i + 1) * n / 4) - 1 for i in range(4)]


def decoder_for(context: Context, levels: Sequence[int]) -> tuple[nn.Module, int]:
    """The decoder on the encoder's levels, and its width."""
    spec = as_encoder(context.encoder).spec
    if context.decoder is None:
        raise UserError("a dense task needs a decoder", where="decoder")
    made: DenseDecoder = context.decoder.build([spec.widths[i] for i in levels], [spec.strides[i] for i in levels])
    if not isinstance(made, nn.Module):
        raise UserError(f"decoder {context.decoder.kind} did not build a module")
    return made, made.width


def check_classes(label: Label, spec: LabelSpec, batch: Batch) -> None:
    """A class outside the legend is named with its sample; an ignored value must be invalid, not a number."""
    k = len(spec.classes)
    bad = label.valid & ((label.value < 0) | (label.value >= k))
    if bool(bad.any()):
        row = int(bad.flatten(1).any(1).nonzero()[0]) if bad.ndim > 1 else int(bad.nonzero()[0])
        values = sorted(set(label.value[row][bad[row]].flatten().tolist()))
        raise UserError(
            f"label '{spec.name}' holds {values[:5]}, outside its {k} classes ({', '.join(spec.classes)})",
            where=f"sample {names_of(batch)[row]}",
            remedy="add the class to the legend, or declare the value as ignore in the data's card",
        )


def total(losses: Sequence[Loss], out: Tensor, target: Tensor, valid: Tensor, weights: Tensor | None) -> Step:
    """The weighted sum of losses, each by name in the terms, averaged over what is valid."""
    terms = {loss.kind: loss(out, target, valid, weights) for loss in losses}
    value = torch.stack([terms[loss.kind] * loss.weight for loss in losses]).sum()
    counted = next((c for loss in losses if (c := getattr(loss, "count", None)) is not None), None)
    count = float(valid.sum()) if counted is None else counted(target, valid, weights)
    return Step(value, {k: v.detach() for k, v in terms.items()}, count)


def check_losses(losses: Sequence[Loss], target: str, where: str) -> None:
    """Every loss must judge this kind of answer, and all must want the same number of outputs."""
    if not losses:
        raise UserError("a task needs a loss", where=where)
    for loss in losses:
        if loss.target != target:
            raise UserError(f"the loss '{loss.kind}' judges {loss.target}, this task answers {target}", where=where)
    wants: set[Any] = {loss.outputs for loss in losses}
    if len(wants) > 1:
        raise UserError(f"losses with different outputs cannot be summed: {[x.kind for x in losses]}", where=where)
    if len({loss.kind for loss in losses}) < len(losses):
        raise UserError("a loss is named twice", where=where)
