"""The label histogram: classes absent from a split, one class only, and balance."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from swath.data.check.finding import Finding
from swath.data.check.survey import Check, Survey

RARE = 0.005
MOST = 0.99


def _run(survey: Survey) -> Iterator[Finding]:
    for group, pairs in survey.masks().items():
        per_split: dict[str, Counter[int]] = defaultdict(Counter)
        holders: dict[str, Counter[int]] = defaultdict(Counter)
        first: dict[int, str] = {}
        for m, f in pairs:
            for value, n in (f.classes or {}).items():
                nodata = f.profile.nodata if f.profile else None
                if value not in survey.ignore and value != nodata:
                    per_split[m.split or "all"][value] += n
                    holders[m.split or "all"][value] += 1
                    first.setdefault(value, f.file)
        total = sum(per_split.values(), Counter[int]())
        if not total:
            continue
        survey.labels[group] = _table(survey, per_split, total)
        yield from _absent(survey, group, _Counts(per_split, holders, total, first))
        yield from _balance(survey, group, total, pairs[0][1].file)


def _name(survey: Survey, value: int) -> str:
    known = (survey.legend or {}).get(value)
    return f"{value} ({known})" if known else str(value)


def _table(survey: Survey, per_split: dict[str, Counter[int]], total: Counter[int]) -> dict[str, object]:
    everything = sum(total.values())
    return {
        "histogram": {s: {str(v): n for v, n in sorted(c.items())} for s, c in sorted(per_split.items())},
        "shares": {str(v): n / everything for v, n in sorted(total.items())},
        "names": {str(v): (survey.legend or {}).get(v, str(v)) for v in sorted(total)},
    }


@dataclass(frozen=True)
class _Counts:
    """Pixels and files per split and class, pixels per class, and the first file of each class."""

    pixels: dict[str, Counter[int]]
    files: dict[str, Counter[int]]
    total: Counter[int]
    first: dict[int, str]


def _absent(survey: Survey, group: str, counts: _Counts) -> Iterator[Finding]:
    per_split, holders, total, first = counts.pixels, counts.files, counts.total, counts.first
    splits = [s for s in per_split if s != "all"]
    everything = sum(total.values())
    for split in sorted(splits) if len(splits) > 1 else []:
        known = set(survey.legend or {}) - survey.ignore
        for value in sorted((set(total) | known) - set(per_split[split])):
            if value not in total:
                continue
            others = [s for s in splits if value in per_split[s]]
            share, many = total[value] / everything, sum(holders[s][value] for s in others)
            sure = share >= 0.001 or many > 2
            yield Finding(
                "classes", "error" if sure else "warning", group,
                f"class {_name(survey, value)} is absent from the split {split}; it is in {', '.join(sorted(others))}"
                f" ({share:.2%} of all label pixels, first in {first[value]})", value=value,
                remedy="a class that is not trained on cannot be learned, one that is not tested has no score: "
                "split again, stratified (`swath data split --stratify`)",
            )  # fmt: skip
    for value in sorted(set(survey.legend or {}) - survey.ignore - set(total)):
        yield Finding(
            "classes", "warning", group, f"class {_name(survey, value)} of the legend is in no label", value=value,
            remedy="take it out of the legend, or add samples",
        )  # fmt: skip


def _balance(survey: Survey, group: str, total: Counter[int], file: str) -> Iterator[Finding]:
    everything = sum(total.values())
    value, n = total.most_common(1)[0]
    if len(total) == 1:
        yield Finding(
            "classes", "error", group, f"every label pixel is class {_name(survey, value)}: there is nothing to learn",
            value=value, remedy="are these the right labels?",
        )  # fmt: skip
        return
    if n / everything >= MOST:
        yield Finding(
            "classes", "warning", group,
            f"class balance: {n / everything:.2%} of the label pixels are class {_name(survey, value)}",
            value=n / everything, remedy="accuracy will say little; weigh the loss, and judge by IoU or F1 per class",
        )  # fmt: skip
    for value, n in sorted(total.items()):
        if n / everything < RARE:
            yield Finding(
                "classes", "warning", group,
                f"class balance: class {_name(survey, value)} has {n} pixels ({n / everything:.3%})",
                value=n / everything, remedy="weigh the loss or sample this class more often",
            )  # fmt: skip


MEMBER = Check("classes absent from a split, a single class, class balance", _run)
