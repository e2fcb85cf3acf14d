"""Statistics of a source, streamed: count, mean, spread and extremes per band, class shares per label.

Blocks are merged exactly (Chan, Golub, LeVeque 1983): with d = mean_b - mean_a,
M2 = M2_a + M2_b + d^2 n_a n_b / n. Invalid pixels count nowhere. What is stored names the data it was taken from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from swath.core.contracts import Source
from swath.core.errors import UserError

FORMAT = 1
_PIECE = 1 << 20


class Moments:
    """Count, mean, sum of squared deviations, least and greatest, per channel; merges in any order."""

    def __init__(self, channels: int) -> None:
        self.n = np.zeros(channels)
        self.mean = np.zeros(channels)
        self.m2 = np.zeros(channels)
        self.low = np.full(channels, np.inf)
        self.high = np.full(channels, -np.inf)

    def add(self, values: NDArray[Any]) -> None:
        """Values (channels, N), all of them real observations."""
        for start in range(0, values.shape[1], _PIECE):
            part = values[:, start : start + _PIECE].astype(np.float64)
            one = Moments(len(self.n))
            one.n += part.shape[1]
            one.mean = part.mean(1)
            one.low, one.high = part.min(1), part.max(1)
            part -= one.mean[:, None]
            one.m2 = np.einsum("ij,ij->i", part, part)
            self.merge(one)

    def merge(self, other: Moments) -> None:
        """As if everything the other one saw had been added here."""
        total = self.n + other.n
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(total > 0, other.n / total, 0.0)
        delta = other.mean - self.mean
        self.mean = self.mean + delta * share
        self.m2 = self.m2 + other.m2 + delta**2 * self.n * share
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        self.n = total

    @property
    def std(self) -> NDArray[np.float64]:
        """Population standard deviation."""
        return np.sqrt(self.m2 / np.maximum(self.n, 1))


@dataclass(frozen=True)
class BandStatistics:
    """One band over all valid pixels, in physical units."""

    band: str
    unit: str
    count: int
    mean: float | None
    std: float | None
    min: float | None
    max: float | None


@dataclass(frozen=True)
class LabelStatistics:
    """A label: pixels or samples per class, or mean and spread of a number."""

    kind: str
    classes: dict[str, int] = field(default_factory=dict[str, int])
    count: int = 0
    mean: float | None = None
    std: float | None = None

    @property
    def shares(self) -> dict[str, float]:
        total = sum(self.classes.values())
        return {k: v / total for k, v in self.classes.items()} if total else {}


@dataclass(frozen=True)
class Statistics:
    """What was measured, over which samples of which data (`fingerprint`, `split`)."""

    source: str
    fingerprint: str
    split: str
    samples: int
    layers: dict[str, tuple[BandStatistics, ...]]
    labels: dict[str, LabelStatistics] = field(default_factory=dict[str, LabelStatistics])
    valid: dict[str, float] = field(default_factory=dict[str, float])
    format: int = FORMAT

    def of(self, sensor: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Means and standard deviations of a sensor's bands, for normalisation."""
        bands = self.layers[sensor]
        if any(b.mean is None or not b.std for b in bands):
            dead = [b.band for b in bands if b.mean is None or not b.std]
            raise UserError(f"{', '.join(dead)} of {sensor} have no spread", where=self.source, remedy="swath check")
        return tuple(b.mean for b in bands if b.mean is not None), tuple(b.std for b in bands if b.std is not None)


class Gather:
    """Accumulates samples; two gathers over different samples merge into one over both."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.moments = {s.id: Moments(len(s.bands)) for s in source.sensors}
        self.pixels = {s.id: [0, 0] for s in source.sensors}
        self.classes: dict[str, dict[int, int]] = {n: {} for n in source.labels}
        self.numbers = {n: Moments(1) for n in source.labels}
        self.samples = 0

    def add(self, index: int) -> None:
        """One sample of the source."""
        batch = self.source.sample(index)
        for id_, layer in batch.layers.items():
            b, t, c, h, w = layer.shape
            x = layer.x.permute(2, 0, 1, 3, 4).reshape(c, -1).numpy()
            valid = layer.valid.reshape(-1).numpy()
            self.pixels[id_][0] += int(valid.sum())
            self.pixels[id_][1] += b * t * h * w
            if valid.any():
                self.moments[id_].add(x if valid.all() else x[:, valid])
        for name, label in batch.labels.items():
            if label.kind in ("class", "mask"):
                found, counts = np.unique(label.value.numpy()[label.valid.numpy()], return_counts=True)
                table = self.classes[name]
                for v, n in zip(found.tolist(), counts.tolist(), strict=True):
                    table[v] = table.get(v, 0) + n
            elif label.kind == "tags":
                for v, n in enumerate((label.value * label.valid).sum(0).tolist()):
                    self.classes[name][v] = self.classes[name].get(v, 0) + int(n)
            elif label.kind == "boxes":
                for v in (int(c) for o in label.objects for c in o.classes):
                    self.classes[name][v] = self.classes[name].get(v, 0) + 1
            else:
                values = label.value.numpy()[np.broadcast_to(label.valid.numpy(), label.value.shape)]
                if values.size:
                    self.numbers[name].add(values.reshape(1, -1))
        self.samples += 1

    def merge(self, other: Gather) -> None:
        """Add what another gather saw."""
        for id_, moments in other.moments.items():
            self.moments[id_].merge(moments)
            self.pixels[id_] = [a + b for a, b in zip(self.pixels[id_], other.pixels[id_], strict=True)]
        for name, table in other.classes.items():
            for v, n in table.items():
                self.classes[name][v] = self.classes[name].get(v, 0) + n
            self.numbers[name].merge(other.numbers[name])
        self.samples += other.samples

    def result(self, split: str) -> Statistics:
        """What was seen so far."""
        layers = {
            s.id: tuple(
                BandStatistics(
                    b.name, b.unit, int(m.n[i]), *(_number(v[i], m.n[i]) for v in (m.mean, m.std, m.low, m.high))
                )
                for i, b in enumerate(s.bands)
            )
            for s in self.source.sensors
            for m in (self.moments[s.id],)
        }
        labels = {n: self._label(n) for n in self.source.labels}
        valid = {k: a / b for k, (a, b) in self.pixels.items() if b}
        return Statistics(self.source.name, self.source.fingerprint, split, self.samples, layers, labels, valid)

    def _label(self, name: str) -> LabelStatistics:
        spec, found = self.source.labels[name], self.classes[name]
        known = spec.classes
        classes = {known[v] if 0 <= v < len(known) else str(v): n for v, n in sorted(found.items())}
        m = self.numbers[name]
        if not m.n[0]:
            return LabelStatistics(spec.kind, classes, sum(found.values()))
        return LabelStatistics(spec.kind, classes, int(m.n[0]), float(m.mean[0]), float(m.std[0]))


def _number(value: float, count: float) -> float | None:
    return float(value) if count else None


def statistics(
    source: Source,
    split: str = "",
    *,
    samples: Iterable[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Statistics:
    """Statistics over a split (all samples when empty), each read once."""
    splits = source.splits()
    if split and split not in splits:
        raise UserError(
            f"there is no split '{split}'", where=source.name, remedy=f"it has: {', '.join(splits) or 'none'}"
        )
    rows: Sequence[int] = list(samples) if samples is not None else list(splits[split] if split else range(len(source)))
    gather = Gather(source)
    for done, index in enumerate(rows, 1):
        gather.add(index)
        if progress is not None:
            progress(done, len(rows))
    return gather.result(split)


def save(found: Statistics, path: Path) -> None:
    """Write as JSON, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(asdict(found), indent=2), encoding="utf-8")
    os.replace(part, path)


def read(path: Path, fingerprint: str | None = None) -> Statistics:
    """Read stored statistics; refused when they are of other data than `fingerprint` says."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        layers = {k: tuple(BandStatistics(**b) for b in v) for k, v in data.pop("layers").items()}
        labels = {k: LabelStatistics(**v) for k, v in data.pop("labels").items()}
        found = Statistics(layers=layers, labels=labels, **cast("dict[str, Any]", data))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as why:
        raise UserError(f"these are no statistics: {why}", where=str(path), remedy="swath data stats DATA") from why
    if fingerprint is not None and found.fingerprint != fingerprint:
        raise UserError(
            "the statistics are of other data: its files or card have changed since", where=str(path),
            remedy="measure again: swath data stats DATA",
        )  # fmt: skip
    return found
