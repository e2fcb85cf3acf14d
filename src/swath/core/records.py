"""Result and Protocol: a number is a record, or it is a defect. Append-only JSON lines."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast

from swath.core.config import digest
from swath.core.errors import UserError

SCHEMA = 1
Origin = Literal["rerun", "copied", "author"]


@dataclass(frozen=True)
class Protocol:
    """Frozen rules of a measurement; its `digest` is its identity."""

    name: str
    rules: Mapping[str, Any]

    @property
    def digest(self) -> str:
        return digest({"name": self.name, "rules": dict(self.rules)})


@dataclass(frozen=True)
class Result:
    """One score of one fit, and everything needed to believe it. Free facts go to `extra`."""

    protocol: str
    dataset: str
    encoder: str
    tuning: str
    seed: int
    metric: str
    value: float
    origin: Origin
    split: str = "test"
    direction: Literal["max", "min"] = "max"
    suite: str = ""
    decoder: str = ""
    source: str = ""
    failed: bool = False
    hashes: Mapping[str, str] = field(default_factory=dict[str, str])
    licences: Mapping[str, str] = field(default_factory=dict[str, str])
    controls: Mapping[str, str] = field(default_factory=dict[str, str])
    units: Mapping[str, str] = field(default_factory=dict[str, str])
    trials: int | None = None
    low: float | None = None
    high: float | None = None
    seconds: float | None = None
    kwh: float | None = None
    kgco2e: float | None = None
    hardware: str = ""
    code: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    schema: int = SCHEMA

    def line(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, allow_nan=True)

    @classmethod
    def from_line(cls, text: str, *, where: str = "") -> Result:
        try:
            data = json.loads(text)
        except json.JSONDecodeError as why:
            raise UserError(f"a record is not JSON: {why}", where=where) from why
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise UserError("a record of another schema", where=where, remedy=f"this Swath reads schema {SCHEMA}")
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise UserError(f"a record has the unknown fields {unknown}", where=where)
        try:
            return cls(**data)
        except TypeError as why:
            raise UserError(f"a record is incomplete: {why}", where=where) from why


def append(path: str | Path, result: Result) -> None:
    """Add one line; a torn write can only lose the last line, and reading says so."""
    with open(path, "a", encoding="utf-8") as out:
        out.write(result.line() + "\n")
        out.flush()
        os.fsync(out.fileno())


def read(path: str | Path) -> Iterator[Result]:
    """The records of a JSONL file."""
    with open(path, encoding="utf-8") as lines:
        for number, text in enumerate(lines, 1):
            if text.strip():
                yield Result.from_line(text, where=f"{path}:{number}")


def write_whole(path: Path, value: Any) -> None:
    """Plain data as a JSON file, in one move; a number that is none is null."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(_finite(value), indent=1, default=str, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in cast("Sequence[Any]", value)]
    return value
