"""Names: keys, dates and sensors out of paths by a pattern such as `{site}_{date}_{sensor}.tif`. Pairing is by key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import UTC, date, datetime

from swath.core.errors import UserError

RESERVED = ("date", "sensor", "band", "split", "class", "step", "any")
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "tst": "test",
}
_FIELD = re.compile(r"\{(\w+)(?::([^{}]+))?\}")
_DATES = {
    "date": r"\d{4}-\d{2}-\d{2}|\d{4}_\d{2}_\d{2}|\d{8}(?:T\d{6}Z?)?|\d{4}-\d{2}|\d{6}",
    "any": r".*?",
}
_EPOCH = date(1970, 1, 1)


def split_called(word: str) -> str:
    """The split that a word means in any spelling; the word itself where it is a name of the user's."""
    return SPLIT_WORDS.get(word.lower(), word)


def days(day: date) -> int:
    """Days since 1970-01-01."""
    return (day - _EPOCH).days


def day_of(text: str, where: str = "") -> int:
    """Days since the epoch of `2021-05-17`, `20210517`, `20210517T101031`, `2021-05`, `202105` or ISO with a time."""
    clean = text.strip().replace("_", "-")
    for form in ("%Y-%m-%d", "%Y%m%d", "%Y%m%dT%H%M%S", "%Y%m%dT%H%M%SZ", "%Y-%m", "%Y%m"):
        try:
            return days(datetime.strptime(clean, form).date())
        except ValueError:
            continue
    try:
        moment = datetime.fromisoformat(text.strip())
        return days((moment.astimezone(UTC) if moment.tzinfo else moment).date())
    except ValueError:
        raise UserError(
            f"'{text}' is not a date", where=where, remedy="write dates as 2021-05-17 or 20210517"
        ) from None


@dataclass(frozen=True)
class Fields:
    """What a path says: the key that pairs files, and the rest by name."""

    key: str
    values: dict[str, str]

    def get(self, name: str) -> str:
        return self.values.get(name, "")


class Pattern:
    """A path pattern with `{field}` places; `{field:regex}` narrows one. Fields not reserved make up the key."""

    def __init__(self, text: str) -> None:
        self.text = text
        parts: list[str] = []
        names: list[str] = []
        end = 0
        for m in _FIELD.finditer(text):
            parts.append(re.escape(text[end : m.start()]).replace(r"\*", "[^/]*"))
            name, narrow = m.group(1), m.group(2)
            if name in names:
                parts.append(f"(?P={name})")
            else:
                parts.append(f"(?P<{name}>{narrow or _DATES.get(name) or '[^/]+?'})")
                names.append(name)
            end = m.end()
        parts.append(re.escape(text[end:]).replace(r"\*", "[^/]*"))
        self.fields = tuple(names)
        try:
            self._regex = re.compile("".join(parts) + r"\Z")
        except re.error as why:
            raise UserError(
                f"'{text}' is not a pattern: {why}", remedy="write e.g. {site}_{date}_{sensor}.tif"
            ) from why
        self.keys = tuple(n for n in names if n not in RESERVED)
        if not self.keys:
            raise UserError(
                f"the pattern '{text}' has no field to pair files by",
                remedy="name one, for example {key}.tif or {site}_{date}.tif",
            )

    def match(self, path: str) -> Fields | None:
        """The fields of a path relative to the pattern's root; None when it does not fit."""
        m = self._regex.match(path)
        if m is None:
            return None
        found = {k: v for k, v in m.groupdict().items() if v is not None}
        return Fields("_".join(found[k] for k in self.keys), found)


def days_of(value: object, where: str = "") -> int:
    """Days since the epoch of a date in metadata: text, YYYYMMDD, a datetime, or seconds since the epoch."""
    if isinstance(value, datetime):
        return days(value.date())
    if isinstance(value, date):
        return days(value)
    if isinstance(value, str):
        return day_of(value, where)
    if isinstance(value, (int, float)) and value == value:
        if 18000101 <= value <= 22001231 and float(value).is_integer():
            return day_of(str(int(value)), where)
        if abs(value) > 1e8:
            return int(value // 86400)
    raise UserError(f"'{value}' is not a date", where=where)


def counted_anew(keys: Mapping[str, Set[str]]) -> bool:
    """Whether most names of the smallest split stand in another one too: then a name says nothing across splits."""
    held = sorted(((len(v), k) for k, v in keys.items() if v))
    if len(held) < 2 or held[0][0] < 3:
        return False
    smallest = held[0][1]
    others = set[str]().union(*(v for k, v in keys.items() if k != smallest))
    return len(keys[smallest] & others) > 0.5 * held[0][0]
