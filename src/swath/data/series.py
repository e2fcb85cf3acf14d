"""Timesteps in names: folders `A/` and `B/`, tails `_pre` and `_post`, dates. What they have in common is one layer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby

ORDERS = (
    ("a", "b"), ("pre", "post"), ("before", "after"), ("t1", "t2"), ("t0", "t1"), ("time1", "time2"), ("im1", "im2"),
    ("img1", "img2"), ("image1", "image2"), ("imgs_1", "imgs_2"), ("img_1", "img_2"), ("early", "late"), ("1", "2"),
    ("pre_disaster", "post_disaster"), ("pre_event", "post_event"), ("date1", "date2"),
)  # fmt: skip
_DATE = re.compile(r"\A(?:(?:19|20)\d{2}-?(?:0[1-9]|1[0-2])(?:-?(?:0[1-9]|[12]\d|3[01])(?:T\d{6}Z?)?)?)\Z")
_TAIL = re.compile(r"[_\-](?:(?:19|20)\d{2}-?(?:0[1-9]|1[0-2])(?:-?(?:0[1-9]|[12]\d|3[01])(?:T\d{6}Z?)?)?)\Z")
Shape = tuple[str, ...]


def merged(groups: Mapping[Shape, list[str]]) -> dict[Shape, list[str]]:
    """Groups whose folders differ in a time alone as one, with `{step:A|B}` or `{date}` in its place."""
    out = dict(groups)
    for place in range(max((len(s) for s in groups), default=0)):
        with_place = [s for s in out if len(s) > place and "{" not in s[place]]

        def rest(s: Shape, place: int = place) -> Shape:
            return (*s[:place], "", *s[place + 1 :])

        for _, same in groupby(sorted(with_place, key=rest), key=rest):
            shapes = {s[place]: s for s in same}
            words, field = _field(list(shapes))
            if field:
                one = shapes[words[0]]
                out[(*one[:place], field, *one[place + 1 :])] = [p for w in words for p in out.pop(shapes[w])]
    return out


def _field(words: Sequence[str]) -> tuple[list[str], str]:
    """Which of the folders are times of one another, and what stands for them in a pattern."""
    dated = [w for w in words if _DATE.match(w)]
    if len(dated) > 1:
        return dated, "{date}"
    lower = {w.lower(): w for w in words}
    order = next((o for o in ORDERS if set(o) <= lower.keys()), ())
    found = [lower[w] for w in order]
    return found, "{step:" + "|".join(found) + "}" if found else ""


def tail_of(stems: Collection[str], labels: Collection[str]) -> str:
    """What the names of one key end with: `_{date}`, `_{step:pre|post}`, or nothing."""
    if not stems or len(set(labels) & set(stems)) > 0.5 * len(stems):
        return ""
    dated = [m for s in stems if (m := _TAIL.search(s))]
    if len(dated) >= 0.8 * len(stems):
        keys = Counter(s[: -len(m.group(0))] for s in stems if (m := _TAIL.search(s)))
        separator = Counter(m.group(0)[0] for m in dated).most_common(1)[0][0]
        if "" not in keys and (len(stems) >= 1.5 * len(keys) or keys.keys() & set(labels)):
            return separator + "{date}"
    for separator in "_-.":
        ends = Counter(s.rpartition(separator)[2] for s in stems if separator in s)
        for order in ORDERS:
            found = {w.lower(): w for w in ends if w.lower() in order}
            if len(found) == len(order) and sum(ends[w] for w in found.values()) >= 0.8 * len(stems):
                return f"{separator}{{step:{'|'.join(found[w] for w in order)}}}"
    return ""


def strip(stem: str, tail: str) -> str:
    """The key of a stem that ends with such a tail."""
    if tail.endswith("{date}"):
        found = _TAIL.search(stem)
        return stem[: found.start()] if found else stem
    return stem.rpartition(tail[0])[0] if tail else stem


def order_of(path: str) -> tuple[str, ...]:
    """The timesteps that a pattern's `{step:A|B}` names."""
    found = re.search(r"\{step:([^{}]+)\}", path)
    return tuple(found.group(1).split("|")) if found else ()
