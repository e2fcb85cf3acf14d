"""Score a set of results against six expectations of the community, and say line by line what is missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from swath.bench.suites import SUITES
from swath.core.errors import UserError
from swath.core.records import Result

CONTROLS = ("data", "architecture", "algorithm")


@dataclass(frozen=True)
class Expectation:
    """One expectation: the share of records (or cells) that meet it, and what is missing where."""

    name: str
    met: float
    missing: tuple[str, ...]


def _share(records: Sequence[Result], name: str, lack: Callable[[Result], str]) -> Expectation:
    gaps: dict[str, int] = defaultdict(int)
    fine = 0
    for r in records:
        word = lack(r)
        if word:
            gaps[word] += 1
        else:
            fine += 1
    lines = tuple(f"{word} ({n} records)" for word, n in sorted(gaps.items(), key=lambda kv: -kv[1]))
    return Expectation(name, fine / len(records), lines)


def _weights(r: Result) -> str:
    if r.licences.get("weights", "unknown") in ("", "unknown"):
        return f"{r.encoder}: licence of the weights is unknown"
    if not r.hashes.get("weights"):
        return f"{r.encoder}: no sha256 of the weights"
    return ""


def _origin(r: Result) -> str:
    if r.origin == "rerun" or r.source:
        return ""
    return f"{r.encoder} on {r.dataset}: {r.origin} without its source, table and row"


def _harness(r: Result) -> str:
    needed = {"code version": r.code, "hardware": r.hardware, "seconds": r.seconds, "input units": r.units}
    needed |= {f"hash of {h}": r.hashes.get(h) for h in ("data", "split", "metric", "preprocessing")}
    lost = [k for k, v in needed.items() if not v]
    return f"{r.suite or r.dataset}: no {', '.join(lost)}" if lost else ""


def _controls(r: Result) -> str:
    lost = [c for c in CONTROLS if not r.controls.get(c)]
    return f"{r.encoder}: no id of pretraining {', '.join(lost)}" if lost else ""


def _core(records: Sequence[Result]) -> Expectation:
    """Every encoder of a suite has every data set of one capability (the first is the suite's core)."""
    lines: list[str] = []
    whole = total = 0
    found: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for r in records:
        found[r.suite, r.encoder, r.tuning].add(r.dataset)
    for (suite, encoder, tuning), have in sorted(found.items()):
        total += 1
        if suite not in SUITES:
            lines.append(f"{encoder} ({tuning}): '{suite}' is no frozen, versioned suite")
            continue
        groups = SUITES.get(suite).capabilities
        core = next(iter(groups.values()), tuple(d.id for d in SUITES.get(suite).data))
        lost = sorted(set(core) - have)
        if lost:
            lines.append(f"{encoder} ({tuning}): lacks {', '.join(lost)} of the core of {suite}")
        else:
            whole += 1
    return Expectation("shared core suite", whole / total, tuple(lines))


def _variance(records: Sequence[Result]) -> Expectation:
    """Five seeds or more in a cell, none silently dropped."""
    cells: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for r in records:
        cells[r.protocol, r.dataset, r.encoder, r.tuning, str(r.extra.get("submission", ""))].add(r.seed)
    few = {k: v for k, v in cells.items() if len(v) < 5}
    lines = tuple(f"{e} on {d} ({t}): {len(v)} of 5 seeds" for (_, d, e, t, _), v in sorted(few.items()))
    return Expectation("variance", 1 - len(few) / len(cells), lines)


def audit(records: Sequence[Result]) -> list[Expectation]:
    """The six expectations, in their usual order."""
    if not records:
        raise UserError("there are no records to audit")
    return [
        _share(records, "named licence and weights", _weights),
        _core(records),
        _share(records, "copied versus rerun", _origin),
        _variance(records),
        _share(records, "one harness", _harness),
        _share(records, "data, architecture and algorithm controls", _controls),
    ]
