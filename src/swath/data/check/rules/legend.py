"""Label values that the legend does not know; without a legend, values that only few files hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from swath.data.check.facts import MOST_CLASSES, Facts
from swath.data.check.finding import Finding
from swath.data.check.survey import Check, Survey


def _run(survey: Survey) -> Iterator[Finding]:
    for group, pairs in survey.masks().items():
        files = [(m, f) for m, f in pairs if f.classes is not None]
        legend = survey.legend or next((f.legend for _, f in files if f.legend), None)
        if legend:
            known = set(legend) | set(survey.ignore)
            for _, f in files:
                yield from _outside(f, known, survey.legend_from or "the class names in the file", "error")
        elif files:
            yield from _rare(survey, group, [f for _, f in files])
        if len(files) > 2 and len(files) >= 0.7 * len(pairs):
            yield from _fractions([f for _, f in pairs if f.continuous])


def _fractions(files: list[Facts]) -> Iterator[Finding]:
    """Labels that hold no whole numbers, among labels of classes."""
    for f in files:
        assert f.profile is not None
        seen = [float(f.column(n)[0]) for n in ("p50", "min", "max", "mean")]
        value = next((v for v in seen if v == v and not v.is_integer()), seen[0])
        yield Finding(
            "legend", "error", f.file, f"value {value:g}: the labels of this file are no whole numbers (or more than "
            f"{MOST_CLASSES} of them); the other files hold classes", f.profile.band(0), 1, value,
            "was it resampled with anything but nearest? Write the classes again",
        )  # fmt: skip


def _outside(f: Facts, known: set[int], whose: str, level: str, why: str = "") -> Iterator[Finding]:
    assert f.profile is not None and f.classes is not None
    total = sum(f.classes.values())
    for value in sorted(set(f.classes) - known):
        if f.profile.nodata is not None and value == f.profile.nodata:
            continue
        n = f.classes[value]
        yield Finding(
            "legend", "error" if level == "error" else "warning", f.file,
            f"value {value} ({n} pixels, {n / total:.2%}) is not in {whose}: {_short(known)}{why}",
            f.profile.band(0), 1, value, f"correct the label, or declare {value} as a class or as `ignore` in a card",
        )  # fmt: skip


def _short(values: set[int]) -> str:
    ordered = sorted(values)
    if len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]} to {ordered[-1]}"
    return ", ".join(str(v) for v in ordered[:24]) + (" ..." if len(ordered) > 24 else "")


def _rare(survey: Survey, group: str, files: list[Facts]) -> Iterator[Finding]:
    holders = Counter(v for f in files if f.classes for v in f.classes)
    pixels = Counter[int]()
    for f in files:
        pixels.update(f.classes or {})
    often = max(2, round(0.1 * len(files))) if len(files) > 3 else 1
    core = {v for v, n in holders.items() if n >= often}
    common_ignore = {v for v in core & {255, -1, -9999, 65535, 254} if _apart(v, core - {v})}
    for v in sorted(common_ignore):
        survey.ignore = survey.ignore | {v}
        survey.assumed.append(f"{group}/: {v} means ignore ({holders[v]} of {len(files)} files hold it)")
    core -= common_ignore
    if not core:
        return
    dense = len(files) >= 6 and all(holders[v] >= 0.6 * len(files) for v in core)
    survey.assumed.append(f"{group}/: the classes are {_short(core)}, the values that most files hold")
    for f in files:
        for value in sorted(set(f.classes or {}) - core - common_ignore):
            alone = dense and holders[value] <= max(1, 0.02 * len(files))
            level = "error" if alone or _apart(value, core) else "warning"
            one = Facts(f.file, profile=f.profile, classes={value: (f.classes or {})[value]})
            total = sum((f.classes or {}).values())
            for finding in _outside(one, core, "the legend that the other files show", level):
                share = (f.classes or {})[value] / total
                message = finding.message.replace("100.00%", f"{share:.2%}", 1)
                told = f"{message}; {holders[value]} of {len(files)} files hold it"
                yield Finding(finding.check, finding.level, f.file, told, finding.band, 1, value, finding.remedy)


def _apart(value: int, core: set[int]) -> bool:
    """Not a neighbour of the known classes: the next class in a row may just be rare."""
    return bool(core) and (value < min(core) or value > max(core) + 1)


MEMBER = Check("label values outside the legend", _run)
