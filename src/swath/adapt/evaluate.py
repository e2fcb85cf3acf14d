"""Evaluation: scores over a split, and what trust needs on the way (a thin sample of outputs, truths and features)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from swath.adapt import constraints
from swath.adapt.heads import Classes, Tags, Values
from swath.adapt.task import TaskModule
from swath.adapt.uncertainty.calibration import thinned
from swath.core.batch import Batch, Label, collate
from swath.core.contracts import Features, Scores, Source
from swath.core.rng import generator

PER_SAMPLE = 400
"""Pixels of a sample that calibration looks at: neighbours say nearly the same."""


@dataclass
class Evidence:
    """What an evaluation leaves behind: `scores`, and thin tensors for calibration (empty where they do not apply).

    Of `labelled` items, `judged` ones could be seen in the input. `guide`: the scores of what an answer started from
    (the enlarged input, the interpolation in time).
    """

    scores: Scores
    out: list[Tensor] = field(default_factory=list[Tensor])
    target: list[Tensor] = field(default_factory=list[Tensor])
    features: list[Tensor] = field(default_factory=list[Tensor])
    broken: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    labelled: int = 0
    judged: int = 0
    guide: Scores | None = None

    def tensors(self) -> tuple[Tensor, Tensor]:
        return torch.cat(self.out), torch.cat(self.target)

    def broken_rules(self) -> dict[str, float]:
        """Mean share of values that break each constraint."""
        names = dict.fromkeys(k for row in self.broken for k in row)
        return {n: sum(row[n] for row in self.broken) / len(self.broken) for n in names}


def batches(
    source: Source, index: Sequence[int], bands: Mapping[str, Sequence[str]] | None, size: int
) -> Iterator[Batch]:
    """The samples in order, collated; samples of another size start a batch of their own."""
    held: list[Batch] = []
    for i in index:
        sample = source.sample(i, bands)
        if held and (len(held) == size or shapes(sample) != shapes(held[0])):
            yield collate(held)
            held = []
        held.append(sample)
    if held:
        yield collate(held)


def shapes(batch: Batch) -> dict[str, tuple[int, ...]]:
    """Height and width of every layer and label of a sample."""
    layers = {k: (v.shape[3], v.shape[4]) for k, v in batch.layers.items()}
    dense = {f"label {k}": tuple(v.value.shape[-2:]) for k, v in batch.labels.items() if v.value.ndim >= 3}
    return layers | dense


@torch.no_grad()
def evaluate(task: TaskModule, given: Iterator[Batch], *, trust: bool = False) -> Evidence:
    """Scores, and with `trust` a thin sample of outputs (before temperature), truths and features."""
    task.eval()
    device = next((p.device for p in task.parameters()), torch.device("cpu"))  # raw pixels have no weights
    found = Evidence(task.scores())
    for batch in given:
        batch = batch.to(device)
        whole, batch = batch, task.judged(batch)
        found.labelled += _labelled(whole, task.label.name)
        found.judged += _labelled(batch, task.label.name)
        features = task.features(batch)
        out, told = task.tell(features, batch)
        found.scores.update(told, batch)
        if isinstance(task, Values) and task.constraints:
            found.broken.append(constraints.broken(task.constraints, told["values"], batch))
        if trust and isinstance(task, Values) and task.guide is not None:
            found.guide = found.guide or task.scores()
            found.guide.update({"values": task.start(batch)[0]}, batch)
        if trust and out is not None:
            _keep(found, task, out, features, batch)
    return found


def _keep(found: Evidence, task: TaskModule, out: Tensor, features: Features, batch: Batch) -> None:
    label = batch.labels[task.label.name]
    for i in range(len(batch)):
        g = generator(int(batch.where.key[i]), "thin")
        items, truth = _items(task, out[i : i + 1], _one(label, i))
        keep = thinned(items, PER_SAMPLE, g)
        found.out.append(items[keep].float().cpu())
        found.target.append(truth[keep].cpu())
        cells = features.maps[-1][i].flatten(1).T if out.ndim == 4 else features.pooled[i : i + 1]
        found.features.append(cells[thinned(cells, 16, g)].float().cpu())


def _labelled(batch: Batch, name: str) -> int:
    return int(batch.labels[name].valid.sum())


def _one(label: Label, i: int) -> Label:
    objects = label.objects[i : i + 1] if label.objects else ()
    return Label(label.kind, label.value[i : i + 1], label.valid[i : i + 1], objects)


def _items(task: TaskModule, out: Tensor, label: Label) -> tuple[Tensor, Tensor]:
    """Raw outputs (N, K) and truths of the valid items of one sample."""
    valid = label.valid
    if isinstance(task, Classes):
        return out.movedim(1, -1)[valid], label.value[valid]
    if isinstance(task, Tags):
        keep = valid.all(1)
        return out[keep], label.value[keep]
    if isinstance(task, Values):
        value = label.value[:, None] if label.value.ndim == 1 else label.value
        keep = valid[:, None] if valid.ndim == 1 else valid
        if value.shape[1] == 1:
            return out.movedim(1, -1)[keep[:, 0]], value[:, 0][keep[:, 0]]
    return out.new_zeros(0, out.shape[1]), out.new_zeros(0)


def read_items(task: Values, out: Tensor) -> dict[str, Tensor]:
    """Raw outputs (N, K) of a one-channel value head, read as values (N,)."""
    shaped = out[:, :, None, None] if task.dense else out
    return {k: v.flatten() for k, v in task.read(shaped).items()}


def baseline(
    task: TaskModule, scores: Any, histogram: Sequence[float], shares: Sequence[float] = ()
) -> dict[str, float]:
    """What the majority class, the mean of the training values, or the one set of tags that suits the training
    samples best (`shares` of them bear each), would have scored on the same samples."""
    import numpy as np

    from swath.adapt.metrics import ClassScores, TagScores, ValueScores, class_scores, named

    if isinstance(scores, ClassScores):
        table = np.zeros_like(scores.confusion)
        table[:, int(np.argmax(histogram))] = scores.confusion.sum(1)
        return named(class_scores(table), scores.classes)
    if isinstance(scores, ValueScores) and isinstance(task, Values) and task.channels == 1:
        n, _, _, _, y, y2, *_ = torch.cat(scores.rows).sum(0).tolist()
        c = float(cast("Tensor", task.centre)[0])
        return {"rmse": max(0.0, (y2 - 2 * c * y + n * c * c) / n) ** 0.5, "bias": c - y / n}
    if isinstance(scores, TagScores) and scores.p:
        p = np.asarray(shares)
        order = np.argsort(-p, kind="stable")
        best = int(np.argmax(2 * p[order].cumsum() / (np.arange(len(p)) + 1 + p.sum()))) + 1
        return {"f1_micro": scores.usual(np.isin(np.arange(len(p)), order[:best]))}
    return {}


Progress = Callable[[str], None]
