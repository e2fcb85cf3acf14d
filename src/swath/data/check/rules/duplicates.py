"""The same picture twice: equal pixels, or nearly so (turned, mirrored, shifted, brightened, noisy, compressed again).

Near signatures make the candidates, the pixels decide: their correlation, and that of the detail left by a local mean,
without which two smooth pictures would look alike. Dates of one place, and cuts that overlap on the map, are neither.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from swath.data.check.facts import Facts
from swath.data.check.finding import Finding
from swath.data.check.layout import Member
from swath.data.check.likeness import Likeness, compare, near
from swath.data.check.survey import Check, Survey

SHARED = ("weather", "elevation")
"""Kinds so coarse or so still that different samples may well have the same."""
FAR = 1.7
MOST_PROVEN = 3000
SAME, ALIKE, DETAIL, GRAIN = 0.999, 0.95, 0.6, 0.15
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_TIMES = {"pre", "post", "before", "after", "early", "late", "spring", "summer", "autumn", "fall", "winter", "first",
          "second", "a", "b"}  # fmt: skip
_TIME = re.compile(r"\A(?:(?:19|20)\d{2}(?:-?\d{2}){0,2}(?:t\d*z?)?|t\d{1,3}|(?:step|time|ts|q|m|month)\d{1,3})\Z")
One = tuple[Member, Facts]


def _run(survey: Survey) -> Iterator[Finding]:
    groups = survey.images()
    pictures = [v for k, v in groups.items() if survey.expects[k].kind not in SHARED] or list(groups.values())
    for pairs in pictures:
        exact: dict[bytes, list[One]] = defaultdict(list)
        for m, f in pairs:
            if not bool((f.column("min") == f.column("max")).all()):
                exact[f.digest].append((m, f))
        for same in exact.values():
            for m, f in same[1:]:
                first = same[0][0]
                yield Finding(
                    "duplicates", "error", f.file, f"is an exact duplicate of {first.file}{_across(first, m)}",
                    value=first.file, remedy="keep one of them",
                )  # fmt: skip
        yield from _near(survey.layout.root, [same[0] for same in exact.values()])


def _across(a: Member, b: Member) -> str:
    return (
        f" and they are in different splits ({a.split} and {b.split})"
        if a.split != b.split and a.split and b.split
        else ""
    )


def _near(root: Path, files: list[One]) -> Iterator[Finding]:
    held = [(m, f) for m, f in files if f.look is not None]
    if len(held) < 2:
        return
    told_of: set[str] = set()
    looks = np.stack([f.look for _, f in held if f.look is not None])
    for i, j in near(looks, FAR, MOST_PROVEN):
        (a, fa), (b, fb) = held[i], held[j]
        if fa.profile is None or fb.profile is None or _neighbours(fa, fb):
            continue
        found = _compare(root / fa.file, root / fb.file)
        level = "" if found is None else _level(found, _series(a.file, b.file))
        if found is None or not level or fb.file in told_of:
            continue
        told_of.add(fb.file)
        told = f", {found.turned} degrees" if "by" in found.turned else f", {found.turned}" if found.turned else ""
        moved = f", shifted by {found.shift[0]} rows and {found.shift[1]} columns" if any(found.shift) else ""
        yield Finding(
            "duplicates", "error" if level == "error" else "warning", fb.file,
            f"is a near-duplicate of {fa.file}{told}{moved} (correlation of the pixels {found.pixels:.5f})"
            f"{_across(a, b)}", value=round(found.pixels, 5),
            remedy="keep one of them; near-duplicates in two splits make scores too good",
        )  # fmt: skip


def _level(found: Likeness, series: bool) -> str:
    still = not found.turned and not any(found.shift)
    if series:
        return "error" if found.pixels >= 0.9999 and still else ""
    close = found.detail >= DETAIL and found.grain >= GRAIN
    if (found.pixels >= SAME and still) or (found.pixels >= ALIKE and close):
        return "error"
    return "warning" if found.pixels >= 0.9 and close else ""


def _series(a: str, b: str) -> bool:
    """Whether the names differ in a time alone: `k7_20200101` and `k7_20200401`, `k7_pre` and `k7_post`."""
    one, two = (re.split(r"[_./]+", PurePosixPath(f).with_suffix("").as_posix().lower()) for f in (a, b))
    if len(one) != len(two):
        return False
    other = [(p, q) for p, q in zip(one, two, strict=True) if p != q]
    return bool(other) and all(v in _TIMES or _TIME.match(v) for pair in other for v in pair)


def _neighbours(a: Facts, b: Facts) -> bool:
    """Cuts of one map that overlap in part: alike where they overlap, and meant so."""
    assert a.profile is not None and b.profile is not None
    if a.profile.crs != b.profile.crs or IDENTITY in (tuple(a.affine), tuple(b.affine)) or not a.profile.crs:
        return False
    if any(abs(p - q) > 1e-9 * abs(p) for p, q in zip(a.affine[:2] + a.affine[3:5], b.affine[:2] + b.affine[3:5],
                                                       strict=True)):  # fmt: skip
        return False
    side = np.hypot(a.affine[0], a.affine[3])
    dx, dy = abs(a.affine[2] - b.affine[2]) / side, abs(a.affine[5] - b.affine[5]) / side
    return (dx > 0.5 or dy > 0.5) and dx < a.profile.shape[1] and dy < a.profile.shape[0]


def _compare(a: Path, b: Path) -> Likeness | None:
    """None where there are no files to read again, or very large ones."""
    import rasterio

    if not a.is_file() or not b.is_file():
        return None
    with rasterio.open(a) as one, rasterio.open(b) as two:
        if one.count != two.count or one.width * one.height > 4096 * 4096:
            return None
        return compare(one.read(), two.read())


MEMBER = Check("exact duplicates and near-duplicates", _run)
