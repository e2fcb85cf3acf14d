"""Footprints of different splits that overlap or touch, and how far the nearest neighbours are apart."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from swath.data.check.facts import Facts
from swath.data.check.finding import Finding
from swath.data.check.layout import Member
from swath.data.check.rules.grids import IDENTITY
from swath.data.check.survey import Check, Survey
from swath.data.footprints import Footprints, nearest, overlaps

MIN_SHARE = 0.01


def _run(survey: Survey) -> Iterator[Finding]:
    for group, pairs in survey.images().items():
        placed = [(m, f) for m, f in pairs if m.split and f.profile and (f.profile.crs or tuple(f.affine) != IDENTITY)]
        splits = sorted({m.split for m, _ in placed})
        if len(splits) < 2:
            continue
        prints = {s: footprints([(m, f) for m, f in placed if m.split == s]) for s in splits}
        for a, b in combinations(sorted(splits, key=_rank), 2):
            yield from _between(survey, group, (a, prints[a]), (b, prints[b]))


def _rank(split: str) -> tuple[int, str]:
    order = ("train", "val", "test")
    return (order.index(split) if split in order else 3, split)


def footprints(pairs: list[tuple[Member, Facts]]) -> Footprints:
    """The files' rectangles in their own crs."""
    boxes = np.empty((len(pairs), 4))
    for i, (_, f) in enumerate(pairs):
        assert f.profile is not None
        a, b, c, d, e, g = f.affine
        h, w = f.profile.shape
        xs, ys = (c, c + a * w, c + b * h, c + a * w + b * h), (g, g + d * w, g + e * h, g + d * w + e * h)
        boxes[i] = min(xs), min(ys), max(xs), max(ys)
    return Footprints(
        tuple(m.file for m, _ in pairs), tuple(f.profile.crs if f.profile else "" for _, f in pairs), boxes
    )


def _between(survey: Survey, group: str, one: tuple[str, Footprints], two: tuple[str, Footprints]) -> Iterator[Finding]:
    (a, left), (b, right) = one, two
    found = overlaps(right, left)
    worst: dict[int, tuple[int, float]] = {}
    for i, j, share in found:
        if share > MIN_SHARE and share > worst.get(i, (0, 0.0))[1]:
            worst[i] = (j, share)
    for i, (j, share) in sorted(worst.items()):
        yield Finding(
            "split-overlap", "error", right.names[i],
            f"footprint overlaps {left.names[j]}: {share:.1%} of a {b} file lies in {a} (distance 0 m)", value=share,
            remedy=f"split by space with a buffer (`swath data split --rule blocks --buffer 1000`): scores on {b} leak",
        )  # fmt: skip
    if not left.geographic or not right.geographic:
        return
    gaps, which = nearest(right, left)
    k = int(np.argmin(gaps))
    survey.distances.append(
        {
            "group": group, "from": b, "to": a, "overlapping": len(worst), "nearest_m": float(gaps[k]),
            "median_m": float(np.median(gaps)), "file": right.names[k], "neighbour": left.names[int(which[k])],
        }
    )  # fmt: skip
    touching = int(((gaps < 1.0) & ~np.isin(np.arange(len(gaps)), list(worst))).sum())
    if touching:
        first = next(i for i in np.flatnonzero(gaps < 1.0) if int(i) not in worst)
        yield Finding(
            "split-overlap", "warning", right.names[int(first)],
            f"{touching} files of {b} touch a file of {a} (nearest neighbour 0 m; this one touches "
            f"{left.names[int(which[first])]}): neighbours look alike", value=0.0,
            remedy="split by space with a buffer (`swath data split --rule blocks --buffer 1000`)",
        )  # fmt: skip


MEMBER = Check("footprint overlap between splits, and the distance to the nearest neighbour", _run)
