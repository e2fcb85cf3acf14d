"""Values inside the physical range of the sensor's bands (or of the unit that the values look like)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from swath.data.check.expect import WORDS, classify
from swath.data.check.finding import Finding
from swath.data.check.survey import Check, Survey


def _run(survey: Survey) -> Iterator[Finding]:
    for group, pairs in survey.images().items():
        expect = survey.expects[group]
        if not expect.low or (not expect.declared and expect.look in ("byte", "other")):
            continue
        scale = np.array(expect.scale or (1.0,) * expect.channels)
        offset = np.array(expect.offset or (0.0,) * expect.channels)
        low, high = np.array(expect.low), np.array(expect.high)
        slack = np.where(np.isfinite(high - low), 0.5 * (high - low), 0.0) if expect.declared else 0.0 * low
        for _, f in pairs:
            if f.profile is None or f.profile.bands != expect.channels:
                continue
            look = classify(f)
            if look not in (expect.look, "other"):
                continue
            values = {n: f.column(n) * scale + offset for n in ("min", "max", "p01", "p99")}
            over = {"max": values["max"] - high, "min": low - values["min"]}
            for side, tail in (("max", "p99"), ("min", "p01")):
                edge = high if side == "max" else low
                beyond = over[side] > 1e-6 * np.maximum(1.0, np.where(np.isfinite(edge), np.abs(edge), 0.0))
                for i in np.flatnonzero(beyond):
                    many = bool(values[tail][i] > high[i] if side == "max" else values[tail][i] < low[i])
                    stored = float(f.column(side)[i])
                    physical = f" ({values[side][i]:g} {expect.unit})" if expect.declared and expect.unit else ""
                    what = f"{expect.sensor} {expect.unit}" if expect.declared else WORDS[expect.look]
                    yield Finding(
                        "value-range", "error" if many or over[side][i] > slack[i] else "warning", f.file,
                        f"{'largest' if side == 'max' else 'smallest'} value {stored:g}{physical} is outside "
                        f"{low[i]:g} to {high[i]:g} of {what}{'' if many else ', in less than 1 % of the pixels'}",
                        f.profile.band(int(i), expect.bands), int(i) + 1, stored,
                        "a nodata value that is not declared, a wrong unit, or saturation",
                    )  # fmt: skip


MEMBER = Check("values outside the sensor's physical range", _run)
