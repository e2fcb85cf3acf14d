"""One record per published checkpoint: where the file is, what it may be used for, what it saw. `WEIGHTS.get(name)`.

A record never guesses: revision and sha256 stand only where they are known, and a file without a pinned revision is
not fetched: give the path of a local copy.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

from swath.core import SENSORS, Family, SwathError, UserError
from swath.core.config import parse

SPDX = ("Apache-2.0", "MIT", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-NC-4.0", "CC0-1.0", "ODC-BY-1.0")
_FREE = re.compile(r"LicenseRef-[A-Za-z0-9.-]+")
_HEX = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True)
class Seen:
    """One sensor as the weights saw it: bands in order; ((x in `unit`) * gain + bias - mean) / std, clipped."""

    sensor: str
    bands: tuple[str, ...]
    unit: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    gain: float = 1.0
    bias: float = 0.0
    clip: tuple[float, float] | None = None


@dataclass(frozen=True)
class WeightsRecord:
    """`encoder` is `family/size` (or `tokenizer` names one); `params` counts the encoder as built, `file_params` the
    whole file where known. `sensors` are those of the training data; `settings` are the config's, beside the size."""

    name: str
    title: str
    licence: str
    params: int
    data: str
    sensors: tuple[str, ...]
    paper: str
    encoder: str = ""
    tokenizer: str = ""
    repo: str = ""
    file: str = ""
    revision: str = ""
    sha256: str = ""
    sha256_prefix: str = ""
    url: str = ""
    licence_note: str = ""
    note: str = ""
    file_params: int = 0
    gated: bool = False
    kind: Literal["pretrained", "supervised"] = "pretrained"
    settings: dict[str, str] = field(default_factory=dict[str, str])
    input: tuple[Seen, ...] = ()

    @property
    def fetch(self) -> str:
        """What `weights=NAME` does, in words."""
        place = f"{self.repo}/{self.file}" if self.repo and self.file else self.repo or self.url
        if self.repo and self.revision:
            return f"{place} of the hub at {self.revision}" + (
                "" if self.sha256 or self.sha256_prefix else "; its sha256 is not known"
            )
        return f"not by Swath, for no revision of it is known: fetch {place} yourself and give weights=PATH"

    def __post_init__(self) -> None:
        where = f"weights record {self.name}"
        if self.licence not in SPDX and not _FREE.fullmatch(self.licence):
            raise SwathError(f"'{self.licence}' is neither a known SPDX id nor LicenseRef-...", where=where)
        if bool(self.encoder) == bool(self.tokenizer):
            raise SwathError("a record is of an encoder or of a tokenizer", where=where)
        if bool(self.repo) != bool(self.file) and not self.url:
            raise SwathError("a record needs a hub repository with a file, or a url", where=where)
        for value, size in ((self.sha256, 64), (self.revision, 40), (self.sha256_prefix, 8)):
            if value and (len(value) != size or not _HEX.fullmatch(value)):
                raise SwathError(f"'{value}' is not {size} hexadecimal digits", where=where)
        for sensor in (*self.sensors, *(i.sensor for i in self.input)):
            if sensor not in SENSORS:
                raise SwathError(f"the sensor '{sensor}' is not known", where=where)
        for each in self.input:
            known = SENSORS.get(each.sensor).select(each.bands)
            if any(n and n != len(known.bands) for n in (len(each.mean), len(each.std))):
                raise SwathError(f"{each.sensor} has {len(known.bands)} bands and other statistics", where=where)


def _read(name: str, path: Traversable) -> WeightsRecord:
    data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    return parse({"name": name, **data}, WeightsRecord, where=str(path))


WEIGHTS: Family[WeightsRecord] = Family("weights", "swath.models.weights", _read, suffix=".toml")


def count_of(text: str) -> float:
    """`100M`, `1.5B`, `20k` or a plain number."""
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kKmMbBgG]?)\s*", text)
    if not found:
        raise UserError(f"'{text}' is not a number of parameters", remedy="write 100M, 1.5B, 20k or 1000")
    return float(found[1]) * {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9}[found[2].lower()]


def choose(sensor: str = "", max_params: str = "", licence: str = "") -> list[WeightsRecord]:
    """Records trained on a sensor, no larger than a size, under a licence (any letter case)."""
    if sensor:
        SENSORS.get(sensor)
    limit = count_of(max_params) if max_params else float("inf")
    found = [r for _, r in WEIGHTS if r.params <= limit]
    found = [r for r in found if not sensor or sensor in r.sensors]
    found = [r for r in found if not licence or r.licence.lower() == licence.lower()]
    return sorted(found, key=lambda r: (r.params, r.name))


def fetch_record(name: str) -> tuple[Path, str]:
    """The file of a record from the hub (pinned, cached) and its sha256 where the record has it."""
    from swath.models.loading import fetch, file_sha256

    record = WEIGHTS.get(name)
    if not record.repo or not record.revision:
        place = f"{record.repo}/{record.file}" if record.repo else record.url
        raise UserError(
            f"the record '{name}' has no pinned hub revision, so its file is not fetched",
            where=place,
            remedy="fetch the file yourself and give its path: weights=PATH",
        )
    path = fetch(record.repo, record.file, record.revision, record.sha256)
    if record.sha256_prefix and not file_sha256(path).startswith(record.sha256_prefix):
        raise SwathError(f"{path.name} does not start with the sha256 {record.sha256_prefix}", where=str(path))
    return path, record.sha256


__all__ = ["SPDX", "WEIGHTS", "Seen", "WeightsRecord", "choose", "count_of", "fetch_record"]
