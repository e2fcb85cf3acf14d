"""Bands that are zero everywhere, or hold one value only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from swath.data.check.finding import Finding
from swath.data.check.survey import Check, Survey


def _run(survey: Survey) -> Iterator[Finding]:
    for group, pairs in survey.images().items():
        names = survey.expects[group].bands
        for _, f in pairs:
            if f.profile is None or f.profile.shape == (1, 1):
                continue
            low, high = f.column("min"), f.column("max")
            for i in np.flatnonzero(low == high):
                value = float(low[i])
                what = "is zero everywhere" if value == 0 else f"holds one value only ({value:g})"
                yield Finding(
                    "constant-band", "error", f.file, f"the band {what}", f.profile.band(int(i), names), int(i) + 1,
                    value, "the band was never written or filled up; read it again or leave the file out",
                )  # fmt: skip


MEMBER = Check("all-zero or constant bands", _run)
