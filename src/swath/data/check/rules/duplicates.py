"""The same picture twice: equal bytes, or nearly so (difference hash, then the pixels' correlation decides)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from swath.data.check.facts import Facts
from swath.data.check.finding import Finding
from swath.data.check.layout import Member
from swath.data.check.survey import Check, Survey

FAR = 6
SAME = 0.999
ALIKE = 0.98
MOST_IN_BUCKET = 200
MOST_PROVEN = 3000
Pair = tuple[tuple[Member, Facts], tuple[Member, Facts]]


def _run(survey: Survey) -> Iterator[Finding]:
    for pairs in survey.images().values():
        exact: dict[bytes, list[tuple[Member, Facts]]] = defaultdict(list)
        for m, f in pairs:
            if not bool((f.column("min") == f.column("max")).all()):
                exact[f.digest].append((m, f))
        for same in exact.values():
            for m, f in same[1:]:
                first = same[0][0]
                across = _across(first, m)
                yield Finding(
                    "duplicates", "error", f.file, f"is an exact duplicate of {first.file}{across}", value=first.file,
                    remedy="keep one of them",
                )  # fmt: skip
        yield from _near(survey.layout.root, [same[0] for same in exact.values()])


def _across(a: Member, b: Member) -> str:
    return (
        f" and they are in different splits ({a.split} and {b.split})"
        if a.split != b.split and a.split and b.split
        else ""
    )


def _candidates(files: list[tuple[Member, Facts]]) -> Iterator[Pair]:
    """Pairs whose hashes differ in at most FAR of 64 bits: of seven pieces of the hash one must be equal."""
    edges = [0, 9, 18, 27, 36, 45, 54, 64]
    seen: set[tuple[int, int]] = set()
    looks = [f.look for _, f in files]
    for low, high in pairwise(edges):
        buckets: dict[int, list[int]] = defaultdict(list)
        for i, look in enumerate(looks):
            if look is not None:
                buckets[(look >> low) & ((1 << (high - low)) - 1)].append(i)
        for held in buckets.values():
            codes = np.array([looks[i] for i in held], dtype=np.uint64)
            for k, i in enumerate(held[:-1]):
                apart = np.bitwise_count(codes[k + 1 :] ^ codes[k])
                for hit in np.flatnonzero(apart <= FAR)[:MOST_IN_BUCKET]:
                    j = held[k + 1 + int(hit)]
                    if (i, j) not in seen:
                        seen.add((i, j))
                        yield files[i], files[j]


def _near(root: Path, files: list[tuple[Member, Facts]]) -> Iterator[Finding]:
    proven = 0
    for (a, fa), (b, fb) in _candidates(files):
        if fa.profile is None or fb.profile is None or fa.profile.shape != fb.profile.shape or proven >= MOST_PROVEN:
            continue
        if not _spread_alike(fa, fb):
            continue
        proven += 1
        alike = _correlation(root / fa.file, root / fb.file)
        if alike is None or alike < ALIKE:
            continue
        across = _across(a, b)
        level = "error" if alike >= SAME or (across and alike >= 0.995) else "warning"
        yield Finding(
            "duplicates", level, fb.file,
            f"is a near-duplicate of {fa.file} (correlation of the pixels {alike:.5f}){across}", value=round(alike, 5),
            remedy="keep one of them; near-duplicates in two splits make scores too good",
        )  # fmt: skip


def _spread_alike(a: Facts, b: Facts) -> bool:
    """Cheap refusal before pixels are read: the ratio of the bands' spreads must be about one number."""
    with np.errstate(all="ignore"):
        ratio = np.log(a.column("std") / b.column("std"))
    ratio = ratio[np.isfinite(ratio)]
    return ratio.size == 0 or float(np.ptp(ratio)) < 0.2


def _correlation(a: Path, b: Path) -> float | None:
    """Smallest correlation over the bands; None where there are no files to read again."""
    import rasterio

    if not a.is_file() or not b.is_file():
        return None
    with rasterio.open(a) as one, rasterio.open(b) as two:
        if one.count != two.count or one.width * one.height > 4096 * 4096:
            return None
        x, y = (s.read().reshape(s.count, -1).astype(np.float64) for s in (one, two))
    good = np.isfinite(x).all(0) & np.isfinite(y).all(0)
    if good.sum() < 16:
        return None
    x, y = (v[:, good] - v[:, good].mean(1, keepdims=True) for v in (x, y))
    scale = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    live = scale > 0
    return float(((x * y).sum(1)[live] / scale[live]).min()) if live.any() else None


MEMBER = Check("exact duplicates and near-duplicates", _run)
