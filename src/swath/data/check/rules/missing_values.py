"""NaN, inf and nodata: their share per band. What is missing must be declared, never be a number."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from swath.data.check.facts import Facts
from swath.data.check.finding import Finding
from swath.data.check.survey import Check, Survey

ERROR_SHARE = 0.25
WARN_SHARE = 0.01


def _run(survey: Survey) -> Iterator[Finding]:
    for groups in (survey.images(), survey.masks()):
        for group, pairs in groups.items():
            expect = survey.expects.get(group)
            names = expect.bands if expect else ()
            for _, f in pairs:
                assert f.profile is not None
                count = np.maximum(f.column("count"), 1)
                for what in ("nan", "inf"):
                    for i in np.flatnonzero(f.column(what) > 0):
                        n, share = int(f.column(what)[i]), float(f.column(what)[i] / count[i])
                        word = "NaN" if what == "nan" else "inf"
                        yield Finding(
                            "missing-values", "error", f.file,
                            f"{n} pixels ({share:.2%}) are {word}", f.profile.band(int(i), names), int(i) + 1, share,
                            f"declare nodata = {word.lower()} in the file or a card, or fill them",
                        )  # fmt: skip
                yield from _nodata(f, names, count, "label" if expect is None else "image")
            if expect is not None:
                yield from _filled([f for _, f in pairs], names)


def _filled(files: list[Facts], names: tuple[str, ...]) -> Iterator[Finding]:
    """Zero in every band over a part of a file, where zeros are rare in the others: a fill that nothing declares."""
    known = [f for f in files if f.profile and f.profile.nodata != 0]
    shares = [float((f.column("zero") / np.maximum(f.column("count"), 1)).min()) for f in known]
    if len(known) < 4 or float(np.median(shares)) > WARN_SHARE:
        return
    for f, share in zip(known, shares, strict=True):
        assert f.profile is not None
        if WARN_SHARE * 5 < share < 1:
            yield Finding(
                "missing-values", "error" if share >= ERROR_SHARE else "warning", f.file,
                f"{share:.1%} of the pixels are 0 in every band, and 0 is not declared as nodata; in the other files "
                "zeros are rare", "every band" if f.profile.bands > 1 else f.profile.band(0, names), 1, share,
                "declare nodata = 0 in the file or a card, or leave the file out",
            )  # fmt: skip


def _nodata(f: Facts, names: tuple[str, ...], count: np.ndarray, role: str) -> Iterator[Finding]:
    assert f.profile is not None
    shares = f.column("nodata") / count
    worst = int(np.argmax(shares))
    share = float(shares[worst])
    if share <= WARN_SHARE or (role == "label" and share < 1):
        return
    everywhere = bool((shares >= share - 1e-9).all())
    where = "every band" if everywhere and len(shares) > 1 else f.profile.band(worst, names)
    whole = share >= 1
    yield Finding(
        "missing-values", "error" if share >= ERROR_SHARE else "warning", f.file,
        "has no valid pixel: all are nodata" if whole else f"{share:.1%} of the pixels are nodata {f.profile.nodata:g}",
        where, worst + 1, share,
        f"leave the file out (published recipes drop chips with more than {WARN_SHARE:.0%} missing), or fill it",
    )  # fmt: skip


MEMBER = Check("share of NaN, inf and nodata", _run)
