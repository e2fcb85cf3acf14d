"""Scores that stream: counts per sample, so that an interval by resampling samples costs one matrix product.

The formulas are those of torchmetrics (tests hold them equal); macro is the mean over classes that occur in truth or
prediction, micro pools all items. A score of what never occurs is NaN, never 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from swath.core.batch import Batch
from swath.core.rng import numpy_generator

Array = NDArray[Any]


def confusion_rows(predicted: Tensor, target: Tensor, valid: Tensor, classes: int) -> Tensor:
    """One confusion matrix (truth, prediction) a sample: (B, K, K) int64."""
    b = len(target)
    sample = torch.arange(b, device=target.device).view(b, *[1] * (target.ndim - 1)).expand_as(target)
    flat = (sample * classes + target.clamp(0, classes - 1)) * classes + predicted
    counts = torch.bincount(flat[valid], minlength=b * classes * classes)
    return counts.view(b, classes, classes).cpu()


def _ratio(a: Array, b: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(b > 0, a / np.maximum(b, 1e-300), np.nan)


def _mean(values: Array) -> Array:
    known = np.isfinite(values)
    return _ratio(np.where(known, values, 0.0).sum(-1), known.sum(-1).astype(float))


def class_scores(matrix: Array) -> dict[str, Array]:
    """Scores of confusion matrices (..., K, K): per class (..., K) under iou, f1, precision, recall; and summaries."""
    m = matrix.astype(float)
    hit, truth, told = np.diagonal(m, axis1=-2, axis2=-1), m.sum(-1), m.sum(-2)
    iou, f1 = _ratio(hit, truth + told - hit), _ratio(2 * hit, truth + told)
    recall, precision = _ratio(hit, truth), _ratio(hit, told)
    total = m.sum((-2, -1))
    chance = _ratio((truth * told).sum(-1), total**2)
    micro = _ratio(hit.sum(-1), total)
    return {
        "iou": iou, "f1": f1, "precision": precision, "recall": recall,
        "iou_macro": _mean(iou), "f1_macro": _mean(f1), "accuracy_micro": micro, "accuracy_macro": _mean(recall),
        "iou_micro": _ratio(hit.sum(-1), 2 * total - hit.sum(-1)), "kappa": _ratio(micro - chance, 1 - chance),
    }  # fmt: skip


class ClassScores:
    """For classes and masks. `rows` keeps one confusion matrix a sample."""

    direction: Literal["max", "min"] = "max"

    def __init__(self, label: str, classes: Sequence[str], primary: str = "iou_macro") -> None:
        self.label, self.classes, self.primary = label, tuple(classes), primary
        self.rows: list[Tensor] = []
        self.names: list[str] = []

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None:
        label = batch.labels[self.label]
        told = prediction["classes"].to(label.value.device)
        self.rows.append(confusion_rows(told, label.value, label.valid, len(self.classes)))
        self.names += names_of(batch)

    @property
    def table(self) -> Array:
        k = len(self.classes)
        return torch.cat(self.rows).numpy() if self.rows else np.zeros((0, k, k), dtype=np.int64)

    @property
    def confusion(self) -> Array:
        return self.table.sum(0)

    def compute(self) -> dict[str, float]:
        return named(class_scores(self.confusion), self.classes)

    def intervals(self, seed: int = 0, times: int = 1000) -> dict[str, tuple[float, float]]:
        table = self.table
        k = len(self.classes)
        draws = resample(len(table), times, seed)
        scores = class_scores((draws @ table.reshape(len(table), k * k)).reshape(times, k, k))
        return spans(scores, self.classes)

    def per_sample(self) -> dict[str, float]:
        """Each sample's own accuracy, to find the best and the worst."""
        hits = np.diagonal(self.table, axis1=1, axis2=2).sum(1)
        return dict(zip(self.names, _ratio(hits, self.table.sum((1, 2)).astype(float)).tolist(), strict=True))


def highest(x: Tensor, k: int) -> Tensor:
    """Maxima of k x k squares of (B, H, W), only of whole ones; windows double, so k costs its logarithm."""
    for dim in (1, 2):
        wide = 1
        while wide < k:
            step, n = min(wide, k - wide), x.shape[dim]
            x = torch.maximum(x.narrow(dim, 0, n - step), x.narrow(dim, step, n - step))
            wide += step
    return x


def near_edge(classes: Tensor, valid: Tensor, reach: int) -> Tensor:
    """Pixels (B, H, W) that see another class, or the end of the image, in the square of `reach` pixels about them;
    what is not valid is nothing."""
    x, nothing = classes.to(torch.int16), torch.iinfo(torch.int16).min
    ends = (reach,) * 4  # an object that the image's end cuts has an edge there
    low, high = (F.pad(torch.where(valid, v, nothing), ends, value=e) for v, e in ((-x, 1), (x, -1)))
    return (highest(high, 2 * reach + 1) != -highest(low, 2 * reach + 1)) & valid


def boundary_rows(predicted: Tensor, target: Tensor, valid: Tensor, classes: int) -> Tensor:
    """Pixels near an edge of each class a sample, (B, 3, K) int64: in both maps, in the predicted, in the true one.

    Near is within 2 % of the image's diagonal (boundary IoU: Cheng et al. 2021, arXiv:2103.16562).
    """
    b, h, w = target.shape
    reach = max(1, round(0.02 * math.hypot(h, w)))
    target = torch.where(valid, target, 0)
    told, true = near_edge(predicted, valid, reach), near_edge(target, valid, reach)
    sample = torch.arange(b, device=target.device).view(b, 1, 1) * classes
    parts = [(target, told & true & (predicted == target)), (predicted, told), (target, true)]
    rows = [torch.bincount((sample + c)[keep], minlength=b * classes).view(b, classes) for c, keep in parts]
    return torch.stack(rows, 1).cpu()


class MaskScores(ClassScores):
    """For masks: beside the classes of pixels, how well their edges lie (`boundary_iou`)."""

    def __init__(self, label: str, classes: Sequence[str], primary: str = "iou_macro") -> None:
        super().__init__(label, classes, primary)
        self.edges: list[Tensor] = []

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None:
        super().update(prediction, batch)
        label = batch.labels[self.label]
        told = prediction["classes"].to(label.value.device)
        self.edges.append(boundary_rows(told, label.value, label.valid, len(self.classes)))

    def _edge_scores(self, counts: Array) -> dict[str, Array]:
        both, told, true = np.moveaxis(counts.reshape(*counts.shape[:-1], 3, len(self.classes)), -2, 0)
        iou = _ratio(both, told + true - both)
        return {"boundary_iou": iou, "boundary_iou_macro": _mean(iou)}

    def _edge_table(self) -> Array:
        return torch.cat(self.edges).flatten(1).numpy() if self.edges else np.zeros((0, 3 * len(self.classes)))

    def compute(self) -> dict[str, float]:
        return super().compute() | named(self._edge_scores(self._edge_table().sum(0)), self.classes)

    def intervals(self, seed: int = 0, times: int = 1000) -> dict[str, tuple[float, float]]:
        table = self._edge_table()
        draws = resample(len(table), times, seed)
        return super().intervals(seed, times) | spans(self._edge_scores(draws @ table), self.classes)


class TagScores:
    """For tags: counts per sample and tag at the threshold .5, and average precision over all samples."""

    direction: Literal["max", "min"] = "max"

    def __init__(self, label: str, classes: Sequence[str], primary: str = "f1_micro") -> None:
        self.label, self.classes, self.primary = label, tuple(classes), primary
        self.p: list[Tensor] = []
        self.y: list[Tensor] = []
        self.v: list[Tensor] = []
        self.names: list[str] = []

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None:
        label = batch.labels[self.label]
        self.p.append(prediction["probabilities"].float().cpu())
        self.y.append(label.value.float().cpu())
        self.v.append(label.valid.cpu())
        self.names += names_of(batch)

    def counts(self) -> tuple[Array, Array, Array]:
        p, y, v = torch.cat(self.p).numpy() > 0.5, torch.cat(self.y).numpy() > 0.5, torch.cat(self.v).numpy()
        return (p & y & v).astype(float), (p & v).astype(float), (y & v).astype(float)

    def usual(self, said: Array) -> float:
        """The pooled F1 of always saying these tags."""
        y, v = torch.cat(self.y).numpy() > 0.5, torch.cat(self.v).numpy()
        hit, told, truth = (y & v & said).sum(), (v & said).sum(), (y & v).sum()
        return float(2 * hit / max(told + truth, 1))

    def _scores(self, hit: Array, told: Array, truth: Array) -> dict[str, Array]:
        f1 = _ratio(2 * hit, told + truth)
        pooled = _ratio(2 * hit.sum(-1), told.sum(-1) + truth.sum(-1))
        return {"f1": f1, "precision": _ratio(hit, told), "recall": _ratio(hit, truth),
                "f1_macro": _mean(f1), "f1_micro": pooled}  # fmt: skip

    def compute(self) -> dict[str, float]:
        from sklearn.metrics import average_precision_score

        hit, told, truth = (c.sum(0) for c in self.counts())
        out = named(self._scores(hit, told, truth), self.classes)
        p, y, v = torch.cat(self.p).numpy(), torch.cat(self.y).numpy() > 0.5, torch.cat(self.v).numpy()
        ap: list[float] = []
        for i, name in enumerate(self.classes):
            known = y[v[:, i], i]
            score = float(average_precision_score(known, p[v[:, i], i])) if known.any() else float("nan")
            out[f"ap/{name}"] = score
            ap.append(score)
        out["map_macro"] = float(_mean(np.array(ap)))
        out["map_micro"] = float(average_precision_score(y[v], p[v])) if y[v].any() else float("nan")
        return out

    def intervals(self, seed: int = 0, times: int = 1000) -> dict[str, tuple[float, float]]:
        counts = self.counts()
        draws = resample(len(counts[0]), times, seed)
        return spans(self._scores(*(draws @ c for c in counts)), self.classes)

    def per_sample(self) -> dict[str, float]:
        hit, told, truth = (c.sum(1) for c in self.counts())
        return dict(zip(self.names, _ratio(2 * hit, told + truth).tolist(), strict=True))


class ValueScores:
    """For values: RMSE, MAE, R2, bias and correlation from sums per sample.

    With `events`, also what a forecast of "at least so much" is worth: POD, FAR, CSI, HSS and GSS at each threshold.
    """

    direction: Literal["max", "min"] = "min"

    def __init__(self, label: str, primary: str = "rmse", events: Sequence[float] = ()) -> None:
        self.label, self.primary, self.events = label, primary, tuple(events)
        self.rows: list[Tensor] = []
        self.names: list[str] = []

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None:
        label = batch.labels[self.label]
        p, y = prediction["values"].double().cpu(), label.value.double().cpu()
        v = label.valid.cpu().expand_as(y)
        e = (p - y).where(v, 0)
        p, y = p.where(v, 0), y.where(v, 0)
        parts = [v.double(), e, e**2, e.abs(), y, y**2, p, p**2, p * y]
        for least in self.events:
            told, seen = (p >= least) & v, (y >= least) & v
            parts += [(told & seen).double(), (told & ~seen).double(), (~told & seen).double()]
        self.rows.append(torch.stack([t.reshape(len(y), -1).sum(1) for t in parts], 1))
        self.names += names_of(batch)

    def _scores(self, sums: Array) -> dict[str, Array]:
        n, e, e2, a, y, y2, p, p2, py, *counts = np.moveaxis(sums, -1, 0)
        spread = y2 - _ratio(y**2, n)
        cov = py - _ratio(p * y, n)
        return {
            "rmse": np.sqrt(_ratio(e2, n)), "mae": _ratio(a, n), "bias": _ratio(e, n), "r2": 1 - _ratio(e2, spread),
            "correlation": _ratio(cov, np.sqrt(np.maximum(spread * (p2 - _ratio(p**2, n)), 0))),
            **self._events(n, counts),
        }  # fmt: skip

    def _events(self, n: Array, counts: Sequence[Array]) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for i, at in enumerate(self.events):
            found |= _forecast(at, n, *counts[3 * i : 3 * i + 3])
        return found

    def compute(self) -> dict[str, float]:
        return named(self._scores(torch.cat(self.rows).sum(0).numpy()), ())

    def intervals(self, seed: int = 0, times: int = 1000) -> dict[str, tuple[float, float]]:
        table = torch.cat(self.rows).numpy()
        return spans(self._scores(resample(len(table), times, seed) @ table), ())

    def per_sample(self) -> dict[str, float]:
        scores = -self._scores(torch.cat(self.rows).numpy())["rmse"]
        return dict(zip(self.names, scores.tolist(), strict=True))


def _forecast(at: float, n: Array, hit: Array, alarm: Array, miss: Array) -> dict[str, Array]:
    """Scores of a yes/no forecast from its counts (a hits, b false alarms, c misses, d rejections)."""
    rest = n - hit - alarm - miss
    chance = _ratio((hit + alarm) * (hit + miss), n)
    both = (hit + miss) * (miss + rest) + (hit + alarm) * (alarm + rest)
    return {
        f"pod/{at:g}": _ratio(hit, hit + miss),
        f"far/{at:g}": _ratio(alarm, hit + alarm),
        f"csi/{at:g}": _ratio(hit, hit + alarm + miss),
        f"hss/{at:g}": _ratio(2 * (hit * rest - alarm * miss), both),
        f"gss/{at:g}": _ratio(hit - chance, hit + alarm + miss - chance),
    }


def names_of(batch: Batch) -> list[str]:
    """Names of the samples, or their keys."""
    return list(batch.where.names) if batch.where.names else [str(int(k)) for k in batch.where.key]


def resample(n: int, times: int, seed: int) -> Array:
    """Bootstrap counts (times, n): how often each sample is drawn."""
    return numpy_generator(seed, "bootstrap").multinomial(n, np.full(n, 1.0 / max(n, 1)), size=times).astype(float)


def named(scores: Mapping[str, Array], classes: Sequence[str]) -> dict[str, float]:
    """Flat names: `iou/water` for class scores, `iou_macro` for summaries."""
    out: dict[str, float] = {}
    for key, value in scores.items():
        if np.ndim(value) == 0:
            out[key] = float(value)
        else:
            out |= {f"{key}/{name}": float(v) for name, v in zip(classes, value, strict=True)}
    return out


def spans(scores: Mapping[str, Array], classes: Sequence[str], level: float = 0.95) -> dict[str, tuple[float, float]]:
    """Percentile intervals of bootstrapped scores (first axis: draws)."""
    out: dict[str, tuple[float, float]] = {}
    tail = (1 - level) / 2
    for key, value in scores.items():
        columns = {key: value} if value.ndim == 1 else {f"{key}/{n}": value[:, i] for i, n in enumerate(classes)}
        for name, draws in columns.items():
            known = draws[np.isfinite(draws)]
            if len(known):
                low, high = np.quantile(known, [tail, 1 - tail])
                out[name] = (float(low), float(high))
    return out
