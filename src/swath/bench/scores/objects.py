"""Scores of field maps (Fields of the World): pixels, objects, agreement of overlapping crops, throughput.

Objects: polygons of class 1 in prediction and truth match when their IoU is strictly above the threshold (at least
one half, so a match is unique). Counts add over chips before precision, recall and F1 are taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swath.core.errors import UserError

Mask = NDArray[np.integer]


@dataclass(frozen=True)
class Matches:
    """Matched, spurious and missed objects; they add up over chips."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: Matches) -> Matches:
        return Matches(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    def scores(self) -> dict[str, float]:
        """Precision, recall, F1; NaN without any object."""
        precision = self.tp / (self.tp + self.fp) if self.tp + self.fp else float("nan")
        recall = self.tp / (self.tp + self.fn) if self.tp + self.fn else float("nan")
        total = 2 * self.tp + self.fp + self.fn
        return {"precision": precision, "recall": recall, "f1": 2 * self.tp / total if total else float("nan")}


def components(mask: Mask, value: int = 1) -> tuple[NDArray[np.int32], int]:
    """Four-connected objects of one class, numbered from 1."""
    from scipy.ndimage import label

    numbered = np.zeros(mask.shape, np.int32)
    n = label(mask == value, output=numbered)
    return numbered, int(np.asarray(n))


def match_objects(predicted: Mask, truth: Mask, threshold: float = 0.5, value: int = 1) -> Matches:
    """Match the objects of one chip on their pixels."""
    if threshold < 0.5:
        raise UserError(f"a threshold of {threshold} lets one object match two", remedy="use 0.5 or more")
    if predicted.shape != truth.shape:
        raise UserError(f"a prediction of {predicted.shape} for a truth of {truth.shape}")
    (p, n_p), (t, n_t) = components(predicted, value), components(truth, value)
    both = np.bincount((p.ravel().astype(np.int64) * (n_t + 1) + t.ravel()), minlength=(n_p + 1) * (n_t + 1))
    table = both.reshape(n_p + 1, n_t + 1)
    inside = table[1:, 1:]
    union = table[1:].sum(1)[:, None] + table[:, 1:].sum(0)[None] - inside
    tp = int((inside > threshold * union).sum())
    return Matches(tp, n_p - tp, n_t - tp)


def pixel_scores(predicted: Mask, truth: Mask, ignore: int | None = 3, boundary: int | None = 2) -> dict[str, float]:
    """IoU, precision and recall of the field class over all pixels; a boundary counts as no field."""
    if boundary is not None:
        predicted = np.where(predicted == boundary, 0, predicted)
        truth = np.where(truth == boundary, 0, truth)
    keep = truth != ignore if ignore is not None else np.ones(truth.shape, bool)
    p, t = (predicted == 1) & keep, (truth == 1) & keep
    tp, fp, fn = int((p & t).sum()), int((p & ~t & keep).sum()), int((~p & t).sum())
    counts = Matches(tp, fp, fn)
    found = counts.scores()
    iou = tp / (tp + fp + fn) if tp + fp + fn else float("nan")
    return {"iou": iou, "precision": found["precision"], "recall": found["recall"]}


def consensus(crops: NDArray[np.integer]) -> float:
    """Share of pixels of the common centre on which all overlapping crops agree: `crops` is (crop, H, W)."""
    return float((crops == crops[:1]).all(0).mean())


def km2_per_second(pixels: int, gsd: float, seconds: float) -> float:
    """Throughput on the ground."""
    return pixels * gsd * gsd / 1e6 / seconds
