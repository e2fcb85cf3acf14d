"""Dates that cannot be read, lie outside the age of satellites, or are out of order."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import PurePosixPath

from swath.data.check.finding import Finding
from swath.data.check.survey import Check, Survey

_EIGHT = re.compile(r"^\d{8}$")
_DASHED = re.compile(r"^\d{4}-\d{1,2}-\d{1,2}$")
_FIRST = dt.date(1972, 7, 23)
_COMPACT = re.compile(r"^(\d{4})(\d{2})(\d{2})(?:T?\d{0,6}Z?)?$")


def day(text: str) -> dt.date | None:
    """A calendar day from ISO 8601, `YYYYMMDD[THHMMSS]`, `YYYYDDD` or `YYYY-MM`; None when it is none of them."""
    value = text.strip().rstrip("Z")
    found = _COMPACT.match(value)
    try:
        if found:
            return dt.date(*(int(g) for g in found.groups()))
        if re.fullmatch(r"\d{7}", value):
            return dt.datetime.strptime(value, "%Y%j").date()
        if re.fullmatch(r"\d{4}-\d{2}", value):
            return dt.date(int(value[:4]), int(value[5:]), 1)
        return dt.datetime.fromisoformat(value.replace("/", "-").replace(":", "-", 2) if _exif(value) else value).date()
    except ValueError:
        try:
            return dt.datetime.strptime(value.replace("/", "-")[:10], "%Y-%m-%d").date()
        except ValueError:
            return None


def _exif(value: str) -> bool:
    return bool(re.match(r"^\d{4}[:/]\d{2}[:/]\d{2}", value))


def _run(survey: Survey) -> Iterator[Finding]:
    for fact in survey.facts.values():
        yield from _list(fact.file, list(fact.dates), "in its tags")
    files = {m.key: m.file for m in reversed(survey.layout.members) if m.role == "image"}
    files |= {PurePosixPath(m.file).stem: m.file for m in survey.layout.members if m.role == "image"}
    for key, texts in survey.layout.dates.items():
        yield from _list(files.get(key, key), texts, "in a table")
    yield from _names(survey)


def _list(file: str, texts: list[str], where: str) -> Iterator[Finding]:
    days: list[dt.date] = []
    for text in texts:
        if not text or text.lower() in ("none", "nan", "nat", "null"):
            continue
        found = day(text)
        if found is None:
            yield Finding(
                "dates", "error", file, f"the date '{text}' {where} cannot be read", value=text,
                remedy="write dates as YYYY-MM-DD",
            )  # fmt: skip
            continue
        days.append(found)
        yield from _age(file, found, text, where)
    for before, after in pairwise(days):
        if after < before:
            yield Finding(
                "dates", "error", file, f"dates {where} are out of order: {after} comes after {before}",
                value=str(after), remedy="sort the timesteps, and their dates with them",
            )  # fmt: skip
            break


def _age(file: str, found: dt.date, text: str, where: str) -> Iterator[Finding]:
    if not _FIRST <= found <= dt.date.today() + dt.timedelta(days=1):
        yield Finding(
            "dates", "error", file, f"the date '{text}' {where} is outside {_FIRST} to today", value=text,
            remedy="correct the date",
        )  # fmt: skip


def _names(survey: Survey) -> Iterator[Finding]:
    """Dates in file names: where most files have one at a place, something there that is none is an error."""
    shapes: dict[tuple[str, int], list[tuple[str, list[str]]]] = defaultdict(list)
    for m in survey.layout.members:
        tokens = [t for t in re.split(r"[_.]", PurePosixPath(m.file).stem) if t]
        shapes[m.group, len(tokens)].append((m.file, tokens))
    for (_, length), held in shapes.items():
        for i in range(length):
            dated = [_is_date(tokens[i]) for _, tokens in held]
            if sum(dated) < 0.5 * len(held) or not any(dated):
                continue
            for (file, tokens), good in zip(held, dated, strict=True):
                token = tokens[i].split("T")[0]
                found = day(token) if good else None
                if found is not None:
                    yield from _age(file, found, token, "in its name")
                elif _EIGHT.match(token) or _DASHED.match(token) or sum(dated) >= 0.8 * len(held):
                    yield Finding(
                        "dates", "error", file, f"the date '{token}' in its name cannot be read", value=token,
                        remedy="rename the file with a real date (YYYYMMDD)",
                    )  # fmt: skip
    yield from _numbered(survey)


def _is_date(token: str) -> bool:
    bare = token.split("T", maxsplit=1)[0]
    if not (_EIGHT.match(bare) or _DASHED.match(bare)):
        return False
    return day(bare) is not None and 1970 <= int(bare[:4]) <= 2100


_STEP = re.compile(r"^(?P<head>.*?)[_\-.]?(?:t|step|time|ts)(?P<step>\d{1,3})[_\-.](?P<tail>.*)$", re.IGNORECASE)


def _numbered(survey: Survey) -> Iterator[Finding]:
    """Names such as `site_t0_20200101`, `site_t1_20191201`: the step counts up while the date goes back."""
    series: dict[tuple[str, str], list[tuple[int, dt.date, str]]] = defaultdict(list)
    for m in survey.layout.members:
        stem = PurePosixPath(m.file).stem
        found = _STEP.match(stem)
        token = next((t for t in re.split(r"[_.]", stem) if _EIGHT.match(t) and day(t)), None)
        when = day(token) if token else None
        if found and when:
            series[m.group, found["head"]].append((int(found["step"]), when, m.file))
    counts = Counter(len(v) for v in series.values())
    for steps in series.values() if counts else []:
        ordered = sorted(steps)
        for (_, before, _), (_, after, file) in pairwise(ordered):
            if after < before:
                yield Finding(
                    "dates", "error", file, f"dates are out of order: {after} comes after {before} in the series",
                    value=str(after), remedy="number the timesteps by date",
                )  # fmt: skip
                break


MEMBER = Check("dates that cannot be read, or are out of order", _run)
