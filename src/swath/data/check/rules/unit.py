"""The unit that values look like: reflectance x 10000 against 0-1, dB against linear, the 2022 offset of Sentinel-2."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swath.data.check.expect import WORDS, Expect, classify
from swath.data.check.facts import Facts
from swath.data.check.finding import Finding
from swath.data.check.layout import Member
from swath.data.check.survey import Check, Survey

Pairs = list[tuple[Member, Facts]]
OFFSET = 1000.0
_FIX = {
    ("dn10000", "fraction"): "divide by 10000, or declare scale = 0.0001 for it",
    ("fraction", "dn10000"): "multiply by 10000 as in the other files, or convert them all",
    ("fraction", "db"): "convert with 10 * log10(x)",
    ("db", "fraction"): "convert with 10 ** (x / 10)",
    ("dn10000", "db"): "convert digital numbers to dB as in the other files",
}


def _run(survey: Survey) -> Iterator[Finding]:
    for group, pairs in survey.images().items():
        expect = survey.expects[group]
        same = [(m, f) for m, f in pairs if f.profile and f.profile.bands == expect.channels]
        reported: set[str] = set()
        for finding in (*_other_unit(same, expect), *_ratio(same, expect)):
            if finding.file not in reported:
                reported.add(finding.file)
                yield finding
        rest = [(m, f) for m, f in same if f.file not in reported]
        if expect.look == "dn10000" and expect.channels > 2 and _may_have_offset(expect.sensor):
            yield from _offset(rest, expect)


def _may_have_offset(sensor: str) -> bool:
    """Only Sentinel-2's own products took the offset; of a sensor that nobody named one cannot know."""
    return not sensor or sensor.startswith("sentinel2")


def _worst(f: Facts, expect: Expect) -> tuple[str, int, float]:
    """The band that shows it best: the largest absolute median."""
    assert f.profile is not None
    medians = f.column("p50")
    i = int(np.nanargmax(np.abs(medians))) if np.isfinite(medians).any() else 0
    return f.profile.band(i, expect.bands), i + 1, round(float(medians[i]), 6)


def _other_unit(pairs: Pairs, expect: Expect) -> Iterator[Finding]:
    whose = "the card says" if expect.declared else "the other files are"
    for _, f in pairs:
        look = classify(f)
        if look == expect.look or "other" in (look, expect.look) or "byte" in (look, expect.look):
            continue
        shown = "linear" if (look, expect.look) == ("fraction", "db") else look
        wanted = "linear" if (look, expect.look) == ("db", "fraction") else expect.look
        band, number, value = _worst(f, expect)
        yield Finding(
            "unit", "error", f.file,
            f"values look like {WORDS[shown]} (median {value:g}); {whose} {WORDS[wanted]}",
            band, number, value, _FIX.get((look, expect.look), "convert the file, or declare its unit"),
        )  # fmt: skip


def _ratio(pairs: Pairs, expect: Expect) -> Iterator[Finding]:
    """A constant factor against the others in every band: 10000, 1000, 255, 100."""
    if len(pairs) < 3 or expect.look == "db":
        return
    medians = np.abs(np.array([f.column("p50") for _, f in pairs], dtype=np.float64))
    centre = np.nanmedian(medians, axis=0)
    with np.errstate(all="ignore"):
        logs = np.log10(medians / centre)
    for (_, f), row in zip(pairs, logs, strict=True):
        row = row[np.isfinite(row)]
        if row.size == 0 or abs(float(np.median(row))) < 1.7 or float(np.ptp(row)) > 1.0:
            continue
        factor = 10 ** float(np.median(row))
        near = min((10000, 1000, 255, 100), key=lambda k: abs(math.log10(k) - abs(math.log10(factor))))
        band, number, value = _worst(f, expect)
        side = f"about {near} times" if factor > 1 else f"about 1/{near} of"
        yield Finding(
            "unit", "error", f.file, f"values are {side} those of the other files (median {value:g}): another unit",
            band, number, value, f"{'divide' if factor > 1 else 'multiply'} by {near} if that is the difference",
        )  # fmt: skip


@dataclass(frozen=True)
class Odd:
    """A file that is of the other convention: its row, how far its lowest values are off, and how sure that is."""

    row: int
    shift: float
    sure: bool


def mixed_offset(low: NDArray[np.float64]) -> tuple[list[Odd], bool]:
    """The rows of the lowest stored values (files, bands) that differ from most by the DN offset of Sentinel-2, and
    whether they have it (or lack it)."""
    floor = np.nanmin(low, axis=1)
    above, below = np.flatnonzero(floor >= OFFSET - 20), np.flatnonzero(floor < OFFSET - 100)
    minor = above.size <= below.size
    if not above.size or not below.size:
        return [], minor
    shift = low[above] - np.nanmedian(low[below], axis=0)
    several = [rows for rows in (above, below) if rows.size > 1]
    spread = max((float(np.nanmedian(np.nanstd(low[rows], axis=0))) for rows in several), default=0.0)
    darkest = int(np.argmin(np.nanmedian(low[below], axis=0)))  # cirrus of level 1C is dark over every ground
    cirrus = low.shape[1] == 13 and float(np.nanmedian(low[below][:, darkest])) < 300
    found: list[Odd] = []
    for i, row in zip(above if minor else below, shift if minor else low[below] - np.nanmedian(low[above], axis=0),
                      strict=True):  # fmt: skip
        middle = abs(float(np.nanmedian(row)))
        quartile = float(np.subtract(*np.nanpercentile(row, [75, 25]))) if row.size > 1 else 0.0
        dark = abs(float(row[darkest])) if cirrus else 0.0
        if not (0.6 * OFFSET <= middle <= 1.6 * OFFSET or 0.8 * OFFSET <= dark <= 1.3 * OFFSET):
            continue
        sure = dark > 0 or (quartile <= 400 and abs(middle - OFFSET) <= max(350.0, 2 * spread))
        found.append(Odd(int(i), dark or middle, sure))
    return found, minor


def _offset(pairs: Pairs, expect: Expect) -> Iterator[Finding]:
    """Files of processing baseline 04.00 and later carry +1000 in every band: their lowest values rise by it."""
    if len(pairs) < 2:
        return
    low = np.array([f.column("p01") for _, f in pairs], dtype=np.float64)
    found, has_it = mixed_offset(low)
    floor = np.nanmin(low, axis=1)
    count = int((floor >= OFFSET - 20).sum() if has_it else (floor < OFFSET - 100).sum())
    for odd in found:
        f = pairs[odd.row][1]
        assert f.profile is not None
        band = int(np.nanargmin(low[odd.row]))
        has = "carries the DN offset of +1000" if has_it else "lacks the DN offset of +1000"
        yield Finding(
            "unit", "error" if odd.sure else "warning", f.file,
            f"{has} of the Sentinel-2 baseline 04.00 (2022): its lowest values are {odd.shift:.0f} DN "
            f"{'above' if has_it else 'below'} those of the others ({count} of {len(pairs)} files; the rest is "
            f"{'without' if has_it else 'with'} it)",
            f.profile.band(band, expect.bands), band + 1, float(low[odd.row][band]),
            "bring all files to one convention: physical = (DN - 1000) / 10000 for those with the offset",
        )  # fmt: skip


MEMBER = Check("likely wrong units: x10000, dB against linear, the DN offset of 2022", _run)
