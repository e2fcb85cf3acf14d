"""The report as lines for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from swath.data.check.finding import Finding, Report

SHOWN = 20


def lines(report: Report) -> Iterator[str]:
    """Errors first; of each check at most SHOWN findings, then how many more there are."""
    yield f"{report.data}: {report.files} files, {report.samples} samples, {report.seconds:g} s"
    if report.splits:
        yield "  splits: " + ", ".join(f"{k} {v}" for k, v in report.splits.items())
    for group, table in report.labels.items():
        yield f"  labels of {group}: " + ", ".join(f"{table['names'][k]} {v:.1%}" for k, v in table["shares"].items())
    for d in report.distances:
        yield (
            f"  distance {d['from']} to {d['to']}: nearest {d['nearest_m']:.0f} m, median {d['median_m']:.0f} m, "
            f"{d['overlapping']} overlap"
        )
    for text in report.assumed:
        yield f"  assumed: {text}"
    shown: Counter[tuple[str, str]] = Counter()
    totals = Counter((f.check, f.level) for f in report.findings)
    for finding in report.findings:
        at = finding.check, finding.level
        shown[at] += 1
        if shown[at] <= SHOWN:
            yield from _finding(finding)
        elif shown[at] == SHOWN + 1:
            yield f"{finding.level}: {totals[at] - SHOWN} more of {finding.check}; --json lists them"
    if report.dropped:
        yield f"and {report.dropped} findings beyond the limit per check"
    counts = report.counts()
    yield f"{'ok' if report.ok else 'not ok'}: {counts['error']} errors, {counts['warning']} warnings"


def _finding(finding: Finding) -> Iterator[str]:
    yield f"{finding.line()} [{finding.check}]"
    if finding.remedy:
        yield f"    remedy: {finding.remedy}"
