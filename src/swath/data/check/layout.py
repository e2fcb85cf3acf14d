"""What a folder holds, without a card: groups of rasters, which are labels, keys that pair them, splits.

Folder names say the role (`images`, `masks`, ...), a folder called `train` says the split, and the key is the
file's stem. When the stems of images and labels differ, the smallest change that pairs most of them is taken
(a role suffix such as `_mask`, a date, a sensor) and said aloud.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from swath.core.errors import UserError
from swath.data.check.facts import Role
from swath.data.check.lists import Legend, SplitList, read_dates, read_legend, read_splits
from swath.data.names import SPLIT_WORDS, counted_anew, split_called

RASTERS = {".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg", ".vrt", ".img"}
TABLES = {".csv", ".txt", ".lst", ".json", ".parquet", ".tsv", ".geojson"}
VECTORS = {".gpkg", ".fgb", ".shp", ".geoparquet"}
LABELLING = (RASTERS | TABLES | VECTORS) - {".txt", ".lst"}
LABEL_WORDS = {"mask", "masks", "label", "labels", "annotation", "annotations", "gt", "groundtruth", "ground_truth",
               "target", "targets", "seg", "segmentation", "reference", "y", "agb", "lulc", "classes"}  # fmt: skip
IMAGE_WORDS = {"image", "images", "img", "imgs", "data", "x", "chip", "chips", "scene", "scenes", "raster", "rasters",
               "input", "inputs", "merged", "sat", "composite"}  # fmt: skip
SENSOR_WORDS = {"s1": "sentinel1", "s2": "sentinel2", "sentinel1": "sentinel1", "sentinel2": "sentinel2",
                "l8": "landsat8", "l9": "landsat9", "hls": "hls", "dem": "dem", "naip": "naip", "s2l2a": "sentinel2",
                "s2l1c": "sentinel2", "s1grd": "sentinel1", "s1rtc": "sentinel1", "landsat": "landsat"}  # fmt: skip
TIME_WORDS = {"pre", "post", "before", "after", "t1", "t2", "early", "late"}
_DATE = re.compile(r"(?<!\d)(?:(?:19|20)\d{2}[-_]?(?:0[1-9]|1[0-2])[-_]?(?:0[1-9]|[12]\d|3[01])(?:T\d{4,6}Z?)?)(?!\d)")
_WORD = re.compile(r"[_\-.]+")


@dataclass(frozen=True, slots=True)
class Member:
    """One raster of the folder: its path relative to the root, what it is, and to which sample it belongs."""

    file: str
    role: Role
    group: str
    key: str
    split: str = ""


@dataclass
class Layout:
    """The folder, understood: members, split lists, legend, dates from tables, and what was assumed."""

    root: Path
    members: list[Member]
    lists: list[SplitList] = field(default_factory=list[SplitList])
    legend: Legend | None = None
    dates: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    assumed: list[str] = field(default_factory=list[str])
    empty: list[str] = field(default_factory=list[str])
    """Folders called as labels' are that hold none."""
    lacking: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Labels that the card declares, and where, of which there is no file."""
    numbered: set[str] = field(default_factory=set[str])
    """Groups of labels that number objects or are quantities, whatever their type."""

    def groups(self, role: Role) -> dict[str, list[Member]]:
        out: dict[str, list[Member]] = defaultdict(list)
        for m in self.members:
            if m.role == role:
                out[m.group].append(m)
        return dict(out)

    def splits(self) -> dict[str, set[str]]:
        """Sample keys per split."""
        out: dict[str, set[str]] = defaultdict(set)
        for m in self.members:
            if m.split:
                out[m.split].add(m.key)
        return dict(out)


def discover(root: Path) -> Layout:
    """Look at a folder's names; no pixel is read."""
    rasters, tables = _walk(root)
    if not rasters:
        raise UserError(
            "there are no rasters in this folder",
            where=str(root),
            remedy=f"known suffixes: {', '.join(sorted(RASTERS))}",
        )
    layout = Layout(root, [], empty=empty_folders(root, LABEL_WORDS))
    raw = [_place(name) for name in rasters]
    raw = _roles(raw, layout)
    layout.members = _per_split(_pair(raw, layout), layout)
    keys = {m.key for m in layout.members} | {PurePosixPath(m.file).stem for m in layout.members}
    layout.lists = read_splits(root, tables, keys)
    layout.legend = read_legend(root, tables)
    layout.dates = read_dates(root, tables, keys)
    _spread_splits(layout)
    return layout


def _walk(root: Path) -> tuple[list[str], list[str]]:
    rasters: list[str] = []
    tables: list[str] = []
    for folder, dirs, files in os.walk(root):
        dirs[:] = sorted(d for d in dirs if not d.startswith((".", "_")))
        inside = os.path.relpath(folder, root)
        prefix = "" if inside == "." else inside.replace(os.sep, "/") + "/"
        for name in sorted(files):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in RASTERS and not name.startswith("."):
                rasters.append(prefix + name)
            elif suffix in TABLES and prefix.count("/") <= 2:
                tables.append(prefix + name)
    return rasters, tables


def empty_folders(root: Path, names: set[str]) -> list[str]:
    """Folders with such a name that hold, themselves and below, nothing that a label could be in."""
    found: list[str] = []
    for folder in sorted(p for p in root.glob("*") if p.is_dir()) + sorted(p for p in root.glob("*/*") if p.is_dir()):
        if set(words(folder.name)) & names and not holds_labels(folder):
            found.append(folder.relative_to(root).as_posix())
    return found


def holds_labels(folder: Path) -> bool:
    """Whether a raster, a table or vectors lie in a folder, or below."""
    return any(p.suffix.lower() in LABELLING for p in folder.rglob("*"))


def words(text: str) -> list[str]:
    """The words of a name, in lower case."""
    return [w for w in _WORD.split(text.lower()) if w]


def _place(name: str) -> Member:
    """Group and split from the folders' names; the role is decided later, over whole groups."""
    path = PurePosixPath(name)
    split, rest = "", []
    for part in path.parts[:-1]:
        if part.lower() in SPLIT_WORDS and not split:
            split = split_called(part)
        else:
            rest.append(part)
    role: Role = "image"
    last = next((p for p in reversed(rest) if set(words(p)) & (LABEL_WORDS | IMAGE_WORDS)), "")
    if set(words(last)) & LABEL_WORDS:
        role = "label"
    return Member(name, role, "/".join(rest) or ".", path.stem, split)


def _roles(members: list[Member], layout: Layout) -> list[Member]:
    """Files called `..._mask` beside their images are labels too."""
    if any(m.role == "label" for m in members):
        return members
    out: list[Member] = []
    for m in members:
        tail = words(m.key)[-1:]
        is_label = bool(tail) and tail[0] in LABEL_WORDS - {"y", "reference", "target"} and len(words(m.key)) > 1
        out.append(Member(m.file, "label", m.group + " (labels)", m.key, m.split) if is_label else m)
    if any(m.role == "label" for m in out):
        layout.assumed.append("files whose name ends in a word such as _mask or _label are labels")
    return out


def _per_split(members: list[Member], layout: Layout) -> list[Member]:
    """Split folders that count their files anew (`train/images/0.tif`, `test/images/0.tif`): the key has the split."""
    keys: dict[str, set[str]] = defaultdict(set)
    for m in members:
        if m.split:
            keys[m.split].add(m.key)
    if not counted_anew(keys):
        return members
    layout.assumed.append("the splits count their files anew: a key is a split and a stem")
    return [replace(m, key=f"{m.split}_{m.key}") if m.split else m for m in members]


def _strip_word(stem: str, known: Iterable[str]) -> str:
    parts = re.split(r"([_\-.]+)", stem)
    if len(parts) > 2 and parts[-1].lower() in known:
        return "".join(parts[:-2])
    return stem


def _strip_date(stem: str) -> str:
    return _DATE.sub("", stem).strip("_-.")


_CHANGES: list[tuple[str, Callable[[str], str]]] = [
    ("the whole stem", lambda s: s),
    ("the stem without its last word", lambda s: _strip_word(s, LABEL_WORDS | IMAGE_WORDS | set(SENSOR_WORDS))),
    ("the stem without its date", _strip_date),
    ("the stem without its time", lambda s: _strip_word(s, TIME_WORDS)),
    (
        "the stem without date and last word",
        lambda s: _strip_date(_strip_word(s, LABEL_WORDS | IMAGE_WORDS | set(SENSOR_WORDS))),
    ),
]


def _pair(members: list[Member], layout: Layout) -> list[Member]:
    labels = {m.key for m in members if m.role == "label"}
    changed: dict[tuple[Role, str], Callable[[str], str]] = {}
    for group in sorted({m.group for m in members if m.role == "image"}) if labels else []:
        stems = {m.key for m in members if m.role == "image" and m.group == group}
        best = _best_change(stems, labels)
        if best is None or best == (0, 0):
            continue
        changed["image", group] = _CHANGES[best[0]][1]
        for name in {m.group for m in members if m.role == "label"}:
            changed.setdefault(("label", name), _CHANGES[best[1]][1])
        layout.assumed.append(
            f"the key is {_CHANGES[best[0]][0]} in {group}/ and {_CHANGES[best[1]][0]} for the labels"
        )
    if not changed:
        return members
    return [
        Member(m.file, m.role, m.group, changed.get((m.role, m.group), lambda s: s)(m.key), m.split) for m in members
    ]


def _best_change(stems: set[str], labels: set[str]) -> tuple[int, int] | None:
    """Which change of image and label stems pairs most; the plain stems win a tie. None: nothing pairs."""
    scores = {
        (i, j): len({a(s) for s in stems} & {b(s) for s in labels})
        for i, (_, a) in enumerate(_CHANGES)
        for j, (_, b) in enumerate(_CHANGES)
    }
    best = max(scores, key=lambda ij: (scores[ij], -ij[0] - ij[1]))
    if scores[best] == 0:
        return None
    plain = scores[0, 0]
    return best if plain == 0 or scores[best] > max(1.25 * plain, plain + 1) else (0, 0)


def _spread_splits(layout: Layout) -> None:
    """Give every member the split that the lists say (folders win; a quarrel is a finding of its own)."""
    if not layout.lists:
        return
    said = {token: name for one in layout.lists for name, tokens in one.splits.items() for token in tokens}
    layout.members = [
        m
        if m.split
        else Member(m.file, m.role, m.group, m.key, said.get(m.key, said.get(PurePosixPath(m.file).stem, "")))
        for m in layout.members
    ]


def majority(values: Iterable[object]) -> tuple[object, int, int]:
    """The most common value, how many have it, and how many values there are."""
    counts = Counter(values)
    value, n = max(counts.items(), key=lambda kv: (kv[1], str(kv[0])))
    return value, n, sum(counts.values())
