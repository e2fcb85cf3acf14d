"""`check(DATA)`: find out what DATA is, survey it, run every rule, and report."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from swath.core.errors import UserError
from swath.data.check import CHECKS
from swath.data.check.facts import COLUMN
from swath.data.check.finding import Finding, Report, keep
from swath.data.check.layout import discover
from swath.data.check.opening import Opened, open_data
from swath.data.check.survey import Check, Progress, Survey, survey_of


def check(
    data: str | Path,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    only: tuple[str, ...] = (),
    progress: Progress | None = None,
    path: str | None = None,
) -> Report:
    """Check a folder, a card or a run file. `only` names the checks to run; all when empty. `path`: where the data of a
    shipped card lie."""
    start = time.perf_counter()
    rules: dict[str, Check] = {n: CHECKS.get(n) for n in (only or CHECKS.names())}
    opened = open_data(Path(data), path)
    survey = _survey(opened, workers or max(1, min(8, os.cpu_count() or 1)), progress)
    survey.batch_size = batch_size if batch_size is not None else opened.batch_size
    findings, dropped = keep(_all(rules, survey))
    splits = {s: len(k) for s, k in sorted(survey.layout.splits().items())}
    return Report(
        data=str(data), files=len(survey.layout.members), findings=findings, splits=splits,
        samples=len({m.key for m in survey.layout.members}), groups=_groups(survey), labels=survey.labels,
        distances=tuple(survey.distances), assumed=tuple(dict.fromkeys(survey.assumed)), checks=tuple(rules),
        dropped=dropped, seconds=round(time.perf_counter() - start, 3),
    )  # fmt: skip


def _survey(opened: Opened, workers: int, progress: Progress | None) -> Survey:
    if opened.source is not None:
        from swath.data.check.samples import survey_source

        return survey_source(opened.source, progress)
    if not opened.root.is_dir():
        raise UserError("there is no such folder", where=str(opened.root))
    layout = discover(opened.root)
    opened.fit(layout)
    survey = survey_of(layout, opened.expects, workers, progress)
    if opened.legend is not None:
        survey.legend, survey.legend_from, survey.ignore = opened.legend, "the card", opened.ignore
    return survey


def _all(rules: dict[str, Check], survey: Survey) -> Iterator[Finding]:
    for rule in rules.values():
        yield from rule.run(survey)


def _groups(survey: Survey) -> dict[str, object]:
    """Per group: what it is, and the spread of its bands over the files."""
    out: dict[str, object] = {}
    for group, pairs in survey.images().items():
        expect = survey.expects[group]
        same = [f.stats for _, f in pairs if f.profile and f.profile.bands == expect.channels and f.stats is not None]
        rows: list[dict[str, object]] = []
        if same:
            stack = np.stack(same)
            for i in range(expect.channels):
                name = expect.bands[i] if i < len(expect.bands) else ""
                with np.errstate(all="ignore"):
                    rows.append(
                        {
                            "band": i + 1, "name": name, "min": _number(np.nanmin(stack[:, i, COLUMN["min"]])),
                            "median": _number(np.nanmedian(stack[:, i, COLUMN["p50"]])),
                            "max": _number(np.nanmax(stack[:, i, COLUMN["max"]])),
                        }
                    )  # fmt: skip
        out[group] = {"files": len(pairs), "sensor": expect.sensor, "looks": expect.look, "bands": rows}
    for group, pairs in survey.masks().items():
        out[group] = {"files": len(pairs), "role": "label", "continuous": any(f.continuous for _, f in pairs)}
    return out


def _number(value: object) -> float | None:
    number = float(value)  # type: ignore[arg-type]
    return round(number, 6) if np.isfinite(number) else None
