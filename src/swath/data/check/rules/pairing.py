"""Images and labels belong together by key, never by their place in a sorted list."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath

from swath.data.check.finding import Finding
from swath.data.check.layout import SENSOR_WORDS, TIME_WORDS, Member, words
from swath.data.check.survey import Check, Survey


def _run(survey: Survey) -> Iterator[Finding]:
    images, labels = survey.layout.groups("image"), survey.layout.groups("label")
    yield from _twice(survey.layout.members)
    yield from _strayed(images)
    yield from _strayed(labels)
    label_keys = {m.key for ms in labels.values() for m in ms}
    image_keys = {m.key for ms in images.values() for m in ms}
    if labels:
        yield from _partners(images, labels, image_keys, label_keys)
    yield from _sensors(images, image_keys)
    for name, path in survey.layout.lacking:
        yield Finding(
            "pairing", "error", path, f"the card's label '{name}' is looked for here, and there is none",
            remedy="add the labels, or take the label out of the card",
        )  # fmt: skip
    for folder in survey.layout.empty if not labels and not survey.layout.lacking else ():
        yield Finding(
            "pairing", "error", folder, "is called as a folder of labels and holds none: no image has its label",
            value=0, remedy="add the labels; or remove the folder, and the images are unlabelled on purpose",
        )  # fmt: skip


def _expected(member: Member, group: str) -> str:
    folder = group.removesuffix(" (labels)")
    return f"{'' if folder == '.' else folder + '/'}{member.key}{PurePosixPath(member.file).suffix}"


def _partners(
    images: dict[str, list[Member]], labels: dict[str, list[Member]], image_keys: set[str], label_keys: set[str]
) -> Iterator[Finding]:
    first_label, first_image = next(iter(labels)), next(iter(images), "images")
    reported: set[str] = set()
    for ms in images.values():
        for m in ms:
            if m.key not in label_keys and m.key not in reported:
                reported.add(m.key)
                yield Finding(
                    "pairing", "error", m.file,
                    f"has no label: no file of key '{m.key}' (expected {_expected(m, first_label)})", value=m.key,
                    remedy="add the label, or take the image out; nothing is paired by position",
                )  # fmt: skip
    for ms in labels.values():
        for m in ms:
            if m.key not in image_keys:
                yield Finding(
                    "pairing", "error", m.file,
                    f"is a label without an image: no file of key '{m.key}' (expected {_expected(m, first_image)})",
                    value=m.key, remedy="add the image, or take the label out",
                )  # fmt: skip


def _twice(members: list[Member]) -> Iterator[Finding]:
    """A key twice in a group: two suffixes, two letter cases, or two splits."""
    seen: dict[tuple[str, str, str], list[Member]] = defaultdict(list)
    stems = Counter((m.group, m.key) for m in members)
    several = {g for (g, _), n in stems.items() if n > 1}
    series = {g for g in several if sum(n > 1 for (h, _), n in stems.items() if h == g) > 0.5 * _keys(stems, g)}
    for m in members:
        seen[m.role, m.group, PurePosixPath(m.file).stem.lower() if m.group in series else m.key.lower()].append(m)
    for (role, _, _), same in seen.items():
        if len(same) > 1:
            names = ", ".join(m.file for m in same)
            splits = sorted({m.split for m in same if m.split})
            extra = f", in the splits {', '.join(splits)}" if len(splits) > 1 else ""
            yield Finding(
                "pairing", "error", same[1].file, f"is a duplicate of the {role} key '{same[0].key}': {names}{extra}",
                value=same[0].key, remedy="keep one file a key",
            )  # fmt: skip


def _strayed(groups: dict[str, list[Member]]) -> Iterator[Finding]:
    """A folder inside a folder of the same kind that repeats a few of its keys: copies, not another sensor."""
    for name, members in groups.items():
        for inner in (g for g in groups if g.startswith(f"{name}/") or name == "."):
            own = {m.key.lower(): m for m in members}
            again = [m for m in groups[inner] if m.key.lower() in own]
            said = set(words(PurePosixPath(inner).name)) & (set(SENSOR_WORDS) | TIME_WORDS)
            if inner == name or said or 2 * len(again) > len(own):
                continue
            for m in again:
                first = own[m.key.lower()]
                yield Finding(
                    "pairing", "error", m.file,
                    f"is a duplicate of the {m.role} key '{first.key}': {first.file}, {m.file}",
                    value=first.key, remedy="keep one file a key",
                )  # fmt: skip


def _keys(stems: Counter[tuple[str, str]], group: str) -> int:
    return sum(1 for g, _ in stems if g == group)


def _sensors(images: dict[str, list[Member]], every: set[str]) -> Iterator[Finding]:
    """Several image groups that share their keys are sensors of the same samples: say which lacks one."""
    keys = {g: {m.key for m in ms} for g, ms in images.items()}
    if len(keys) < 2 or any(len(k & (every if len(k) < len(every) else k)) < 0.5 * len(every) for k in keys.values()):
        return
    for group, have in keys.items():
        for key in sorted(every - have):
            other = next(m.file for g, ms in images.items() if g != group for m in ms if m.key == key)
            yield Finding(
                "pairing", "warning", other, f"has no partner of key '{key}' in {group}/", value=key,
                remedy="a missing sensor is read as invalid; add the file if it exists",
            )  # fmt: skip


MEMBER = Check("missing partners, extra partners and duplicate keys", _run)
