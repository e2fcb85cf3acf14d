"""What a check says: findings that name file, band, value and remedy, and the report that holds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Level = Literal["error", "warning", "info"]
_ORDER = {"error": 0, "warning": 1, "info": 2}
PER_CHECK = 1000


@dataclass(frozen=True)
class Finding:
    """One thing found. `band` reads `name (band 3)` or `band 3`; `number` is its 1-based number."""

    check: str
    level: Level
    file: str
    message: str
    band: str = ""
    number: int | None = None
    value: float | int | str | None = None
    remedy: str = ""

    def line(self) -> str:
        place = f"{self.file}, {self.band}" if self.band else self.file
        return f"{self.level}: {place}: {self.message}"


@dataclass(frozen=True)
class Report:
    """Everything a run of `swath check` has to say; `ok` while no finding is an error."""

    data: str
    files: int
    samples: int
    findings: tuple[Finding, ...]
    splits: Mapping[str, int] = field(default_factory=dict[str, int])
    groups: Mapping[str, Any] = field(default_factory=dict[str, Any])
    labels: Mapping[str, Any] = field(default_factory=dict[str, Any])
    distances: tuple[Mapping[str, Any], ...] = ()
    assumed: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    dropped: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not any(f.level == "error" for f in self.findings)

    def counts(self) -> dict[str, int]:
        found = Counter(f.level for f in self.findings)
        return {level: found.get(level, 0) for level in _ORDER}

    def plain(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {"ok": self.ok, **asdict(self), "counts": self.counts()}


def keep(findings: Iterable[Finding]) -> tuple[tuple[Finding, ...], int]:
    """The findings in order of weight, at most `PER_CHECK` of a check and level, and how many were dropped."""
    seen: Counter[tuple[str, str]] = Counter()
    kept: list[Finding] = []
    dropped = 0
    for finding in findings:
        seen[finding.check, finding.level] += 1
        if seen[finding.check, finding.level] <= PER_CHECK:
            kept.append(finding)
        else:
            dropped += 1
    return tuple(sorted(kept, key=lambda f: (_ORDER[f.level], f.check, f.file, f.number or 0))), dropped
