"""Splits: keys in two of them, names that do not exist, samples in none, batches that cannot be filled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath

from swath.data.check.finding import Finding
from swath.data.check.survey import Check, Survey


def _run(survey: Survey) -> Iterator[Finding]:
    known = {m.key for m in survey.layout.members} | {PurePosixPath(m.file).stem for m in survey.layout.members}
    places: dict[str, dict[str, str]] = defaultdict(dict)
    for one in survey.layout.lists:
        for problem in one.problems:
            yield Finding("split-lists", "error", one.file, problem, remedy="write it as CSV, JSON or lines of keys")
        for split, tokens in one.splits.items():
            seen: set[str] = set()
            for token in tokens:
                places[token].setdefault(split, one.file)
                if token in seen:
                    yield Finding(
                        "split-lists", "error", one.file, f"'{token}' stands twice in {split}", value=token,
                        remedy="list every key once",
                    )  # fmt: skip
                seen.add(token)
                if token not in known:
                    yield Finding(
                        "split-lists", "error", one.file, f"'{token}' of {split} is no file of this folder",
                        value=token, remedy="add the file, or take the key out of the list",
                    )  # fmt: skip
    for token, splits in places.items():
        if len(splits) > 1:
            files = ", ".join(dict.fromkeys(splits.values()))
            yield Finding(
                "split-lists", "error", files, f"'{token}' is in several splits: {', '.join(sorted(splits))}",
                value=token, remedy="keep it in one",
            )  # fmt: skip
    yield from _sizes(survey)


def _sizes(survey: Survey) -> Iterator[Finding]:
    splits = survey.layout.splits()
    if not splits:
        if survey.batch_size is not None:
            n = len({m.key for m in survey.layout.members if m.role == "image"})
            yield from _batch(survey.batch_size, "all samples", n)
        return
    without = sorted({m.file for m in survey.layout.members if m.role == "image" and not m.split})
    if without:
        yield Finding(
            "split-lists", "warning", without[0], f"{len(without)} images are in no split, this is the first",
            value=len(without), remedy="list them, or leave them out on purpose",
        )  # fmt: skip
    for name in ("train", "val", "test"):
        n = len(splits.get(name, ()))
        if n == 0:
            level = "info" if name == "test" else "error"
            yield Finding(
                "split-lists", level, ".", f"the split {name} is empty", value=0,
                remedy="`swath data split` makes leak-proof splits",
            )  # fmt: skip
        elif survey.batch_size is not None:
            yield from _batch(survey.batch_size, f"the split {name}", n, error=name == "train")


def _batch(size: int, what: str, n: int, error: bool = True) -> Iterator[Finding]:
    if n < size:
        yield Finding(
            "batch-size", "error" if error else "warning", ".",
            f"the batch size {size} is larger than {what} ({n} samples)",
            value=size, remedy=f"a loader that drops the last batch would give none: use at most {n}",
        )  # fmt: skip


MEMBER = Check("split lists, and batch size against split size", _run)
