"""Splits that do not leak: whole groups go to one split, and a buffer of ground lies between two splits.

A rule turns samples into groups (spatial blocks, tiles, countries, events, days); groups are dealt to the splits by
size and class shares; then every sample nearer than the buffer to a sample of a more important split is dropped
(test before val before train). The audit measures what is left: the distance from each sample to the nearest one of
another split, great-circle.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swath.core.errors import UserError
from swath.core.rng import numpy_generator
from swath.data.footprints import RADIUS_M, arc_m, great_circle_m, nearest_m, unit_vectors

if TYPE_CHECKING:
    from swath.core.batch import Batch
    from swath.core.contracts import Source

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
IMPORTANT = ("test", "val")


@dataclass(frozen=True)
class Samples:
    """What a rule may look at: `names`, `lonlat` (N, 2) degrees, `radius_m` half a diagonal of each footprint,
    `days` since the epoch, `columns` (country, event, ...), and `classes` (N, K) counts for stratification."""

    names: tuple[str, ...]
    lonlat: Floats | None = None
    radius_m: Floats | None = None
    days: Floats | None = None
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict[str, Sequence[Any]])
    classes: Floats | None = None

    def __len__(self) -> int:
        return len(self.names)

    def places(self) -> Floats:
        """Lon/lat of every sample, or a refusal that says who has none."""
        if self.lonlat is None or not np.isfinite(self.lonlat).all():
            missing = 0 if self.lonlat is None else int(np.flatnonzero(~np.isfinite(self.lonlat).all(1))[0])
            raise UserError(
                "a spatial split needs the place of every sample", where=self.names[missing] if len(self) else ""
            )
        return self.lonlat

    def column(self, name: str) -> list[str]:
        """A column's values as text."""
        if name not in self.columns:
            raise UserError(f"there is no column '{name}'", remedy=f"there are: {', '.join(self.columns) or 'none'}")
        return [str(v) for v in self.columns[name]]


@dataclass(frozen=True)
class Split:
    """Sample indices by split, what the buffer dropped, and the rule in words."""

    parts: Mapping[str, Ints]
    dropped: Ints
    rule: str

    def of(self, n: int) -> list[str]:
        """The split of every sample; empty for the dropped ones."""
        out = [""] * n
        for name, rows in self.parts.items():
            for i in rows:
                out[int(i)] = name
        return out


def block_groups(lonlat: Floats, size_m: float) -> list[str]:
    """Blocks of about size_m x size_m: rows of latitude, and in each row columns as wide at its middle."""
    if size_m <= 0:
        raise UserError(f"a block cannot have the side {size_m} m")
    degree = np.pi * RADIUS_M / 180
    row = np.floor((lonlat[:, 1] + 90) * degree / size_m).astype(np.int64)
    middle = np.radians(np.clip((row + 0.5) * size_m / degree - 90, -89.9, 89.9))
    around = np.maximum(1, np.round(360 * degree * np.cos(middle) / size_m)).astype(np.int64)
    column = np.floor((lonlat[:, 0] % 360) / 360 * around).astype(np.int64) % around
    return [f"{r}/{c}" for r, c in zip(row, column, strict=True)]


def deal(
    groups: Sequence[str], fractions: Mapping[str, float], seed: int, classes: Floats | None = None
) -> dict[str, Ints]:
    """Whole groups to splits so that sizes (and class shares, when given) come near the fractions.

    Groups go from large to small, ties in seeded order, each to the split that is furthest below its share.
    """
    names = list(fractions)
    total = sum(fractions.values())
    if not names or min(fractions.values()) <= 0:
        raise UserError(f"the fractions {dict(fractions)} must all be above 0")
    kinds, member = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    if len(kinds) < len(names):
        raise UserError(
            f"{len(kinds)} groups cannot fill {len(names)} splits", remedy="use smaller blocks or another column"
        )
    weight = np.ones((len(groups), 1)) if classes is None else np.c_[np.ones(len(groups)), classes]
    table = np.zeros((len(kinds), weight.shape[1]))
    np.add.at(table, member, weight)
    table /= np.maximum(table.sum(0), 1e-12)
    share = np.array([fractions[n] / total for n in names])
    shuffled = numpy_generator(seed, "split").permutation(len(kinds))
    have = np.zeros((len(names), table.shape[1]))
    chosen = np.full(len(kinds), -1)
    for g in sorted(shuffled, key=lambda k: -table[k].max()):
        cost = [float((((have[s] + table[g]) / share[s] - 1).clip(0) ** 2).sum()) for s in range(len(names))]
        lack = [-float(((share[s] - have[s]) / share[s]).mean()) for s in range(len(names))]
        s = min(range(len(names)), key=lambda s: (round(cost[s], 12), lack[s]))
        have[s] += table[g]
        chosen[g] = s
    for s in range(len(names)):  # a split may still be empty when one group is most of the data
        if not (chosen == s).any():
            rich = int(np.argmax([(chosen == k).sum() for k in range(len(names))]))
            mine = np.flatnonzero(chosen == rich)
            chosen[mine[np.argmin(table[mine, 0])]] = s
    return {n: np.flatnonzero(chosen[member] == s).astype(np.int64) for s, n in enumerate(names)}


def buffered(parts: Mapping[str, Ints], samples: Samples, buffer_m: float, rule: str) -> Split:
    """Drop what lies nearer than `buffer_m` (edge to edge of the footprints' circles) to a more important split."""
    if buffer_m < 0:
        raise UserError(f"a buffer cannot be {buffer_m} m")
    if buffer_m == 0:
        return Split(parts, np.empty(0, np.int64), rule)
    from scipy.spatial import KDTree

    points = unit_vectors(samples.places())
    radius = np.zeros(len(samples)) if samples.radius_m is None else samples.radius_m
    order = [n for n in IMPORTANT if n in parts] + [n for n in parts if n not in IMPORTANT]
    kept: dict[str, Ints] = {}
    dropped: list[Ints] = []
    for name in order:
        rows = parts[name]
        others = np.concatenate([kept[n] for n in kept]) if kept else np.empty(0, np.int64)
        if len(others) and len(rows):
            reach = buffer_m + float(radius.max()) * 2
            tree = KDTree(points[others])
            near = tree.query_ball_point(points[rows], 2 * np.sin(min(np.pi / 2, reach / RADIUS_M / 2)) * (1 + 1e-9))
            bad = np.array(
                [_too_near(points, radius, int(i), others[js], buffer_m) for i, js in zip(rows, near, strict=True)]
            )
            dropped.append(rows[bad])
            rows = rows[~bad]
        kept[name] = rows
        if not len(rows):
            raise UserError(
                f"a buffer of {buffer_m:g} m leaves nothing in {name}", remedy="use larger blocks or a smaller buffer"
            )
    lost = np.sort(np.concatenate(dropped)) if dropped else np.empty(0, np.int64)
    return Split({n: kept[n] for n in parts}, lost, f"{rule}, buffer {buffer_m:g} m")


def _too_near(points: Floats, radius: Floats, i: int, others: Ints, buffer_m: float) -> bool:
    if not len(others):
        return False
    far = arc_m(np.linalg.norm(points[others] - points[i], axis=1)) - radius[others] - radius[i]
    return bool((far < buffer_m).any())


@dataclass(frozen=True)
class SplitRule:
    """How to split. `rule`: blocks, group (of `column`), continent, country, time, random.

    `fractions` deal groups by size; `hold_out` names groups per split instead (`{"test": ("africa",)}`).
    `size_m` is the side of a block; `gap_days` the buffer of a split by time; `stratify` uses the class counts.
    """

    rule: str = "blocks"
    fractions: Mapping[str, float] = field(default_factory=lambda: {"train": 0.7, "val": 0.15, "test": 0.15})
    hold_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    column: str = ""
    size_m: float = 50_000.0
    buffer_m: float = 0.0
    gap_days: float = 0.0
    stratify: bool = False
    seed: int = 0


def split(samples: Samples, how: SplitRule) -> Split:
    """Samples to splits by a rule; the same samples and seed give the same split."""
    if how.rule == "time":
        return by_time(samples, how)
    groups = _groups(samples, how)
    if how.hold_out:
        parts = _held_out(groups, how)
    else:
        if how.stratify and samples.classes is None:
            raise UserError("there are no class counts to stratify by", remedy="name a class or mask label")
        parts = deal(groups, how.fractions, how.seed, samples.classes if how.stratify else None)
    words = f"{how.rule}{f' of {how.column}' if how.column else ''}"
    if how.rule == "blocks":
        words = f"blocks of {how.size_m:g} m"
    told = f"{words}, seed {how.seed}" + (", stratified" if how.stratify else "")
    if how.hold_out:
        told = f"{words}, " + "; ".join(f"{k}: {', '.join(v)}" for k, v in how.hold_out.items())
    return buffered(parts, samples, how.buffer_m, told)


def _groups(samples: Samples, how: SplitRule) -> list[str]:
    match how.rule:
        case "blocks":
            return block_groups(samples.places(), how.size_m)
        case "continent":
            from swath.data.continents import continent_of

            return samples.column("continent") if "continent" in samples.columns else continent_of(samples.places())
        case "group" | "tile" | "event" | "country":
            return samples.column(how.column or how.rule)
        case "random":
            return list(samples.names)
        case other:
            known = "blocks, tile, group, event, country, continent, time, random"
            raise UserError(f"unknown split rule '{other}'", remedy=f"known: {known}")


def _held_out(groups: Sequence[str], how: SplitRule) -> dict[str, Ints]:
    said = {g.lower(): s for s, gs in how.hold_out.items() for g in gs}
    unknown = sorted(set(said) - {g.lower() for g in groups})
    if unknown:
        raise UserError(f"no sample is of '{unknown[0]}'", remedy=f"there are: {', '.join(sorted(set(groups))[:20])}")
    own = [said.get(g.lower(), "") for g in groups]
    out = {s: np.flatnonzero([o == s for o in own]).astype(np.int64) for s in how.hold_out}
    rest = [i for i, o in enumerate(own) if not o]
    left = {n: f for n, f in how.fractions.items() if n not in how.hold_out} or {"train": 1.0}
    if not rest:
        raise UserError("the held-out groups are all there is: nothing is left to train on")
    dealt = deal([groups[i] if len({groups[j] for j in rest}) >= len(left) else str(i) for i in rest], left, how.seed)
    return {**{n: np.asarray(rest, np.int64)[rows] for n, rows in dealt.items()}, **out}


def by_time(samples: Samples, how: SplitRule) -> Split:
    """The past trains, the latest tests; samples within `gap_days` before a border belong to nobody."""
    if samples.days is None or not np.isfinite(samples.days).all():
        raise UserError("a split by time needs the date of every sample")
    order = np.argsort(samples.days, kind="stable")
    total, names = sum(how.fractions.values()), list(how.fractions)
    sorted_days = samples.days[order]
    parts: dict[str, Ints] = {}
    dropped: list[Ints] = []
    start, at = 0, 0.0
    for k, name in enumerate(names):
        at += how.fractions[name] / total
        stop = len(order) if k == len(names) - 1 else round(at * len(order))
        while 0 < stop < len(order) and sorted_days[stop] == sorted_days[stop - 1]:
            stop += 1  # one day is in one split
        rows = order[start:stop]
        if k < len(names) - 1 and stop < len(order):
            near = samples.days[rows] > sorted_days[stop] - how.gap_days if how.gap_days else np.zeros(len(rows), bool)
            dropped.append(rows[near])
            rows = rows[~near]
        if not len(rows):
            raise UserError(f"the dates leave nothing for {name}", remedy="other fractions, or a smaller gap")
        parts[name] = np.sort(rows).astype(np.int64)
        start = stop
    lost = np.sort(np.concatenate(dropped)).astype(np.int64) if dropped else np.empty(0, np.int64)
    placed = Split(parts, lost, f"time, gap {how.gap_days:g} days")
    if how.buffer_m:
        spaced = buffered(parts, samples, how.buffer_m, placed.rule)
        return Split(spaced.parts, np.sort(np.concatenate([lost, spaced.dropped])), spaced.rule)
    return placed


@dataclass(frozen=True)
class Leak:
    """How near two splits come: metres from each sample of `a` to the nearest of `b` (centres, great-circle)."""

    a: str
    b: str
    nearest_m: float
    p05_m: float
    median_m: float
    within: Mapping[str, float]
    sample: str
    neighbour: str


def audit(samples: Samples, parts: Mapping[str, Ints], near_m: Sequence[float] = (0, 1000, 10_000)) -> list[Leak]:
    """Per pair of splits the distances that remain, and which share of the samples is within some distances."""
    places = samples.places()
    order = [n for n in IMPORTANT if n in parts] + [n for n in parts if n not in IMPORTANT]
    out: list[Leak] = []
    for i, a in enumerate(order):
        for b in order[i + 1 :]:
            if not len(parts[a]) or not len(parts[b]):
                continue
            far, which = nearest_m(places[parts[a]], places[parts[b]])
            k = int(np.argmin(far))
            exact = float(great_circle_m(places[parts[a][k]][None], places[parts[b][which[k]]][None])[0])
            within = {f"{m:g}": float((far <= m + 1e-6).mean()) for m in near_m}
            p05, median = (float(np.percentile(far, q)) for q in (5, 50))
            names = samples.names[int(parts[a][k])], samples.names[int(parts[b][which[k]])]
            out.append(Leak(a, b, exact, p05, median, within, *names))
    return out


def write(path: Path, samples: Samples, found: Split) -> None:
    """A CSV of key and split, with the rule in its first line's name; whole or not at all."""
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out)
        rows.writerow(["key", "split"])
        rows.writerows((n, s) for n, s in zip(samples.names, found.of(len(samples)), strict=True) if s)
    os.replace(part, path)


def samples_of(source: Source, *, classes: str = "", progress: Callable[[int, int], None] | None = None) -> Samples:
    """Names, places, footprints' radii, dates and class counts of a source's samples; one band each is read."""
    first = source.sensors[0]
    one = {first.id: [first.names[0]]}
    names: list[str] = []
    places, radii, days = (np.full(shape, np.nan) for shape in ((len(source), 2), len(source), len(source)))
    counts: Floats | None = None
    for i in range(len(source)):
        batch = source.sample(i, one)
        names.append(batch.where.names[0] if batch.where.names else str(int(batch.where.key[0])))
        places[i] = batch.where.lonlat[0].numpy()
        layer = batch.layers.get(first.id)
        if layer is not None:
            radii[i] = np.hypot(layer.shape[3], layer.shape[4]) * first.gsd / 2
            if layer.times is not None and layer.valid.any():
                days[i] = float(layer.times[0][layer.valid[0].any(dim=(1, 2, 3))].min())
        if classes:
            counts = np.zeros((len(source), 1)) if counts is None else counts
            counts = _count(batch, classes, counts, i)
        if progress is not None and (i % 32 == 0 or i + 1 == len(source)):
            progress(i + 1, len(source))
    return Samples(tuple(names), places, np.nan_to_num(radii), days if np.isfinite(days).all() else None, {}, counts)


def _count(batch: Batch, name: str, counts: Floats, row: int) -> Floats:
    label = batch.labels.get(name)
    if label is None:
        raise UserError(f"there is no label '{name}'", remedy=f"there are: {', '.join(batch.labels) or 'none'}")
    if label.kind == "tags":
        found = label.value[0].numpy()
    elif label.kind in ("class", "mask"):
        found = np.bincount(label.value[0].numpy()[label.valid[0].numpy()].ravel(), minlength=1)
    else:
        raise UserError(f"a label of kind {label.kind} has no classes to stratify by", where=name)
    if len(found) > counts.shape[1]:
        counts = np.pad(counts, ((0, 0), (0, len(found) - counts.shape[1])))
    counts[row, : len(found)] = found
    return counts
