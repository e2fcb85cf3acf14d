"""Bands in the order that the card says, or that most files have: by description, and by what the pixels show.

Without descriptions a permutation shows when a file's median per band fits the others' only after reordering:
cost = mean |log m_file - log m_group| per band, least over permutations (Hungarian assignment).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from swath.core.errors import UnknownName
from swath.core.sensors import SENSORS
from swath.data.check.expect import Expect
from swath.data.check.facts import Facts
from swath.data.check.finding import Finding
from swath.data.check.layout import Member, majority
from swath.data.check.survey import Check, Survey
from swath.data.probe import darkest

Pairs = list[tuple[Member, Facts]]


def _run(survey: Survey) -> Iterator[Finding]:
    for group, pairs in survey.images().items():
        expect = survey.expects[group]
        named = [(m, f) for m, f in pairs if f.profile and f.profile.names]
        reported: set[str] = set()
        for finding in _descriptions(named, expect, len(pairs)):
            reported.add(finding.file)
            yield finding
        same = [(m, f) for m, f in pairs if f.profile and f.profile.bands == expect.channels]
        yield from _permuted([(m, f) for m, f in same if f.file not in reported], expect)
        yield from _cirrus(group, same, expect)


@lru_cache(maxsize=4096)
def _canonical(name: str, sensor: str) -> str:
    if sensor and name and name != "-":
        try:
            return SENSORS.get(sensor).band(name).name
        except UnknownName:
            pass
    return name.strip().lower()


def _bands(have: list[str], expect: Expect) -> bool:
    """Whether descriptions are names of bands: not one word for all, nor free text where a sensor's bands are known."""
    said = [n for n in have if n not in ("", "-")]
    known = set(SENSORS.get(expect.sensor).names) if expect.sensor in SENSORS else set(said)
    return len(set(said)) == len(said) and bool(known & set(said))


def _descriptions(named: Pairs, expect: Expect, total: int) -> Iterator[Finding]:
    if not named:
        return
    if expect.declared and expect.bands:
        want, whose = expect.bands, "the card says"
    else:
        found, n, _ = majority(f.profile.names for _, f in named if f.profile)
        if n * 2 <= len(named):
            return
        want, whose = tuple(str(v) for v in found), f"{n} of {total} files have"  # type: ignore[union-attr]
    right = [_canonical(n, expect.sensor) for n in want]
    for _, f in named:
        assert f.profile is not None
        have = [_canonical(n, expect.sensor) for n in f.profile.names]
        if len(have) != len(right) or not _bands(have, expect):
            continue
        wrong = [i for i, (a, b) in enumerate(zip(have, right, strict=True)) if a and b not in ("", "-") and a != b]
        if not wrong:
            continue
        i = wrong[0]
        kind = "band order" if sorted(have) == sorted(right) else "band names"
        told = "; ".join(f"band {j + 1} is {f.profile.names[j]}, not {want[j]}" for j in wrong[:4])
        yield Finding(
            "band-order", "error", f.file, f"{kind} differs: {told} ({whose} {', '.join(want)})",
            f.profile.band(i), i + 1, f.profile.names[i], "reorder the bands, or describe this order in a card",
        )  # fmt: skip


def _permuted(pairs: Pairs, expect: Expect) -> Iterator[Finding]:
    from scipy.optimize import linear_sum_assignment

    if len(pairs) < 3 or expect.channels < 2:
        return
    medians = np.array([f.column("p50") for _, f in pairs], dtype=np.float64)
    full: NDArray[np.bool_] = np.asarray(np.isfinite(medians).all(axis=1))  # a file of nodata alone has no order
    pairs, medians = [p for p, f in zip(pairs, full, strict=True) if f], medians[full]
    if len(pairs) < 3:
        return
    shift = 0.0 if medians.min() > 0 else float(1.0 - medians.min())
    logs: NDArray[np.float64] = np.log(medians + shift) if shift == 0 or expect.look != "db" else medians / 10
    centre = np.median(logs, axis=0)
    residual = logs - centre
    residual -= np.median(residual, axis=1, keepdims=True)
    costs = np.abs(residual).mean(axis=1)
    typical = float(np.median(costs))
    for (_, f), row, cost in zip(pairs, logs, costs, strict=True):
        if cost < 4 * typical + 0.05 or f.profile is None:
            continue
        gain = float(np.median(row - centre))
        table = np.abs(row[:, None] - gain - centre[None, :])
        own, as_ = linear_sum_assignment(table)
        best = float(table[own, as_].mean())
        moved = [int(i) for i in own if as_[i] != i]
        if moved and best <= 1.5 * typical + 0.02 and best < 0.34 * cost:
            i = moved[0]
            told = "; ".join(f"band {j + 1} looks like band {int(as_[j]) + 1} of the others" for j in moved[:4])
            yield Finding(
                "band-order", "error", f.file, f"the bands seem to be in another order: {told}",
                f.profile.band(i, expect.bands), i + 1, round(float(f.column("p50")[i]), 4),
                "reorder the bands of this file",
            )  # fmt: skip


def _cirrus(group: str, pairs: Pairs, expect: Expect) -> Iterator[Finding]:
    """Thirteen Sentinel-2 level-1C bands: cirrus is by far the darkest, so it shows where B8A was put last."""
    if expect.channels != 13 or expect.look not in ("dn10000", "fraction") or not pairs:
        return
    medians = np.array([f.column("p50") for _, f in pairs], dtype=np.float64)
    index = darkest(medians)
    if index is None:
        return
    total = len(medians)
    n = int((np.argmin(medians, axis=1) == index).sum())
    names = [_canonical(b, expect.sensor or "sentinel2-l1c") for b in expect.bands]
    told = names.index("cirrus") if "cirrus" in names else None
    first = pairs[0][1]
    if told is None and index == 9 and not any(names):
        yield Finding(
            "band-order", "warning", first.file,
            f"band 10 is by far the darkest in {n} of {total} files of {group}/: as cirrus it is number 11 in the usual"
            " order, so these files most likely hold B8A last (B1..B8, B9, B10, B11, B12, B8A)",
            "band 10", 10, float(np.median(medians[:, 9])), "name the bands in a card in their real order",
        )  # fmt: skip
    elif told is not None and told != index:
        yield Finding(
            "band-order", "error", first.file,
            f"cirrus is said to be band {told + 1}, but band {index + 1} is by far the darkest in {n} of {total} files",
            f"cirrus (band {told + 1})", told + 1, float(np.median(medians[:, told])),
            f"the channel order is wrong: cirrus is channel {index + 1}",
        )  # fmt: skip


MEMBER = Check("band order and names against the card or the majority, and against what pixels show", _run)
