"""Suites as data: which data sets, which rules, which capabilities, which anchors. One TOML file each."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from typing import Any, Literal

from swath.core.errors import SwathError, UnknownName
from swath.core.family import Family
from swath.core.records import Protocol


@dataclass(frozen=True)
class SuiteData:
    """One data set of a suite. `low, high` are the frozen anchors of the min-max scale, where published.

    `source` is the data section of a run where the suite knows it (the world), else `card` names the shipped card and
    the user says where the files lie; `settings` are further keys of the run (task, augment, loop). `score` is our name
    of the metric where the suite's differs; a record's value is offset + factor * score.
    """

    id: str
    task: str
    metric: str
    direction: Literal["max", "min"] = "max"
    low: float | None = None
    high: float | None = None
    card: str = ""
    notes: str = ""
    source: Mapping[str, Any] = field(default_factory=dict[str, Any])
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    score: str = ""
    factor: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class Suite:
    """Data sets, capabilities (named groups of them) and frozen rules. `unknown` lists what was never published.

    `compare` is the comparison that `swath bench run SUITE` makes when no encoder is named; it is no part of the rules.
    """

    name: str
    title: str
    version: str
    data: tuple[SuiteData, ...]
    capabilities: Mapping[str, tuple[str, ...]]
    rules: Mapping[str, Any] = field(default_factory=dict[str, Any])
    unknown: tuple[str, ...] = ()
    source: str = ""
    licence: str = ""
    compare: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def protocol(self) -> Protocol:
        """The frozen rules; anchors and version are part of them."""
        cells = {d.id: [d.task, d.metric, d.direction, d.low, d.high] for d in self.data}
        runs = {d.id: [dict(d.source), dict(d.settings)] for d in self.data if d.source or d.settings}
        rules = {"rules": dict(self.rules), "data": cells} | ({"runs": runs} if runs else {})
        return Protocol(f"{self.name}@{self.version}", rules)

    def dataset(self, name: str) -> SuiteData:
        for d in self.data:
            if d.id == name:
                return d
        raise UnknownName("data set", name, [d.id for d in self.data], where=f"suite {self.name}")

    @property
    def anchors(self) -> dict[str, tuple[float, float]]:
        """Low and high per data set that has them."""
        return {d.id: (d.low, d.high) for d in self.data if d.low is not None and d.high is not None}


def read_suite(name: str, path: Traversable) -> Suite:
    """Read a suite's TOML."""
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    try:
        data = tuple(SuiteData(**d) for d in raw["data"])
        groups = {str(k): tuple(str(i) for i in v) for k, v in raw.get("capabilities", {}).items()}
        head = {k: raw[k] for k in ("title", "version", "source", "licence", "rules", "compare") if k in raw}
        suite = Suite(name=name, data=data, capabilities=groups, unknown=tuple(raw.get("unknown", ())), **head)
    except (KeyError, TypeError) as why:
        raise SwathError(f"the suite is not readable: {why}", where=str(path)) from why
    known = {d.id for d in data}
    for group, members in groups.items():
        if lost := sorted(set(members) - known):
            raise SwathError(f"capability '{group}' names unknown data sets {lost}", where=str(path))
    return suite


SUITES: Family[Suite] = Family("suite", "swath.bench.suites", read_suite, suffix=".toml")

__all__ = ["SUITES", "Suite", "SuiteData", "read_suite"]
