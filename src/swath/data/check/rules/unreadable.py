"""Files that cannot be read to their last byte."""

from __future__ import annotations

from collections.abc import Iterator

from swath.data.check.finding import Finding
from swath.data.check.survey import Check, Survey


def _run(survey: Survey) -> Iterator[Finding]:
    for fact in survey.facts.values():
        if fact.error:
            yield Finding(
                "unreadable", "error", fact.file, f"cannot be read to the end: {fact.error}", value=fact.error,
                remedy="fetch or write the file again; it may be truncated",
            )  # fmt: skip


MEMBER = Check("unreadable, empty or truncated files", _run)
