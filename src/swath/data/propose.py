"""A card for a folder that has none: what is found becomes the card, and every assumption is said beside it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swath.core.errors import UserError
from swath.core.sensors import SENSORS
from swath.data.card import Card, LabelCard, LayerCard
from swath.data.check.layout import empty_folders
from swath.data.identify import folder_word, identify, named, sensor_of
from swath.data.index import TABLES, VECTORS, scan
from swath.data.loose import VECTOR_FILES, coco_label, table_label, vector_label
from swath.data.names import SPLIT_WORDS, Pattern
from swath.data.probe import UNSEEN, darkest, displayed, judge, probe, sentinel
from swath.data.raster import RASTERS, info
from swath.data.series import ORDERS, merged, order_of, strip, tail_of

LABEL_WORDS = {
    "mask", "masks", "label", "labels", "annotation", "annotations", "gt", "groundtruth", "target", "targets",
    "seg", "segmentation", "lulc",
}  # fmt: skip
TARGET_WORDS = {"hr", "hires", "highres", "clear", "cloudfree", "reference", "references"}
"""Folders of the images that a task on images answers with."""
IMAGES = ("superres", "gapfill")
DENSE = ("segment", "regress")
OBJECTS = ("instances", "boundaries")
"""Tasks on objects with masks."""
IMAGE_WORDS = {"image", "images", "img", "imgs", "chips", "inputs", "rasters", "scenes", "tiles"}
_IMAGE_TAIL = re.compile(r"^(?P<key>.+?)(?P<tail>[_.\-](?:image|img|sat|merged|chip|input))$", re.IGNORECASE)
_LABEL_TAIL = re.compile(r"^(?P<key>.+?)(?P<tail>[_.\-](?:mask|label|labels|gt|annotation|target))$", re.IGNORECASE)
_NAMED = re.compile(r"(.*[A-Za-z])_[0-9]+")
TIMES = {word for order in ORDERS for word in order}


@dataclass(frozen=True)
class Note:
    """One thing the proposal holds, and whether it is known or assumed."""

    text: str
    certain: bool = True


@dataclass(frozen=True)
class Proposal:
    """A card and where each of its lines comes from."""

    card: Card
    notes: tuple[Note, ...]

    @property
    def doubts(self) -> tuple[str, ...]:
        return tuple(n.text for n in self.notes if not n.certain)

    def remedy(self, usual: str) -> str:
        """What would help: where nothing was observed no hint tells the storage, but a card's word is taken."""
        if not any(UNSEEN in d for d in self.doubts):
            return usual
        return "leave out files that hold nodata alone, or give a card: how values are stored is then taken from it"


@dataclass(frozen=True)
class Hints:
    """What the user says about a folder."""

    sensor: str = ""
    bands: tuple[str, ...] = ()
    pattern: str = ""
    task: str = ""


def _shape(path: str) -> tuple[str, ...]:
    """The folders of a path, with a split's folder as `{split}`."""
    return tuple("{split}" if p.lower() in SPLIT_WORDS else p for p in path.split("/")[:-1])


def _suffix(paths: list[str]) -> str:
    return Counter("." + p.rsplit(".", 1)[-1] for p in paths).most_common(1)[0][0]


def _is(words: set[str], shape: tuple[str, ...]) -> bool:
    return any(folder_word(p) in words for p in shape)


def _spec(shape: tuple[str, ...], paths: list[str], tail: str = "") -> str:
    """A layer's path: the bare folder where that is enough, else a pattern."""
    if not tail and shape and not any("{" in p for p in shape):
        return "/".join(shape)
    return "/".join((*shape, "{key}" + tail + _suffix(paths)))


def _groups(files: list[str]) -> dict[tuple[str, ...], list[str]]:
    out: dict[tuple[str, ...], list[str]] = {}
    for path in files:
        if path.lower().endswith(RASTERS):
            out.setdefault(_shape(path), []).append(path)
    return out


def propose(root: Path, hints: Hints = Hints(), files: list[str] | None = None) -> Proposal:
    """Look at the names, at one header per layer and at a few files' values."""
    names = scan(root) if files is None else files
    groups = merged(_groups(names))
    if not groups:
        raise UserError(
            "there is no raster in this folder",
            where=str(root),
            remedy=f"known file types: {', '.join(RASTERS[:6])}",
        )
    notes: list[Note] = []
    images, labels = _divide(root, groups, names, hints, notes)
    card = Card(name=root.resolve().name, layout={"kind": "folder", "path": "."})
    for found in images:
        card = _add_layer(root, card, found, hints, notes)
    if not labels:
        notes += [Note(f"{x}/ is there and holds no label: the images are unlabelled", False)
                  for x in empty_folders(root, LABEL_WORDS)]  # fmt: skip
    card = replace(card, labels=tuple(labels), tasks=(hints.task,) if hints.task else ())
    return Proposal(card, tuple(notes))


One = tuple[str, list[str], str]
Found = list[One]
Groups = dict[tuple[str, ...], list[str]]


def _divide(
    root: Path, groups: dict[tuple[str, ...], list[str]], names: list[str], hints: Hints, notes: list[Note]
) -> tuple[Found, list[LabelCard]]:
    """Images (path, files, folder) and labels, by the names of folders or by the ends of file names."""
    words = LABEL_WORDS | (TARGET_WORDS if hints.task in IMAGES else set())
    labelled = {s: p for s, p in groups.items() if _is(words, s)} or _beside(root, groups, hints, notes)
    rest = {s: p for s, p in groups.items() if s not in labelled}
    if not rest:
        raise UserError("there are labels but no images", where=str(root), remedy="images belong in images/")
    stems = {_stem(p) for paths in rest.values() for p in paths}
    known = {_stem(p) for p in names if p.endswith(VECTORS)}.union(_stem(p) for ps in labelled.values() for p in ps)
    told, keys = _by_pattern(root, rest, hints.pattern) if hints.pattern else ([], set[str]())
    classes = [s for s in rest if not _is(IMAGE_WORDS, s) and not any(map(sensor_of, s))]
    series = tail_of(stems, known) if not told and (labelled or len(rest) == 1 or not classes) else ""
    seen = keys or {strip(s, series) for s in stems}
    if series:
        notes.append(Note(f"names end with '{series}': several timesteps of a key"))
    labels: list[LabelCard] = []
    image_tail = ""
    for shape, paths in sorted(labelled.items()):
        tail, image_tail = _tails(paths, seen)
        if tail or image_tail:
            notes.append(Note(f"in {'/'.join(shape)} names end with '{tail}', those of images with '{image_tail}'"))
        labels.append(_raster_label(root, (_spec(shape, paths, tail), paths, hints), len(labels), notes))
    if told:
        return told, labels or _loose_labels(root, names, (sorted(seen), hints.task), notes)
    if len(rest) == 1 and not labels and not series:
        shape, paths = next(iter(rest.items()))
        pair = _by_tail(root, shape, paths, hints, notes)
        if pair is not None:
            return pair
    if len(classes) == len(rest) >= 2 and not labels and len({len(s) for s in rest}) == 1:
        return _by_class(rest, notes)
    named = _by_name(rest, notes) if hints.task == "classify" and not labels and not series else None
    if named is not None and not _loose_labels(root, names, (sorted(seen), hints.task), []):
        return named
    images: Found = [(_spec(s, p, image_tail + series), p, _folder(s)) for s, p in rest.items()]
    if not labels:
        labels = _loose_labels(root, names, (sorted(seen), hints.task), notes)
    return sorted(images), labels


def _beside(root: Path, groups: Groups, hints: Hints, notes: list[Note]) -> Groups:
    """`heights/KEY.tif` beside `images/KEY.tif`: the one folder of single bands that has the images' keys and the name
    of no sensor, for tasks that take a mask or a map."""
    if hints.task not in DENSE or hints.pattern:
        return {}
    images = {_stem(p) for s, paths in groups.items() if _is(IMAGE_WORDS, s) for p in paths}
    found = {
        s: p for s, p in groups.items()
        if s and not _is(IMAGE_WORDS, s) and not any(map(sensor_of, s))
        and len(images & {_stem(x) for x in p}) > len(p) / 2 and info(root / p[0]).count == 1
    }  # fmt: skip
    if len(found) != 1:
        return {}
    notes.append(Note(f"labels: the rasters in {'/'.join(next(iter(found)))}", False))
    return found


def _by_pattern(root: Path, groups: Groups, pattern: str) -> tuple[Found, set[str]]:
    """Images that are named like the user's pattern, and their keys. Without folders it names the files of every folder
    of images, else it is read from the root; every folder is a layer, and every `{sensor}`."""
    found: dict[tuple[str, str], list[str]] = {}
    keys: set[str] = set()
    for shape, paths in groups.items():
        ended = pattern if pattern.lower().endswith(RASTERS) else pattern + _suffix(paths)
        whole = Pattern(ended if "/" in pattern else "/".join((*shape, ended)))
        for path in paths:
            if (said := whole.match(path)) is not None:
                sensor = said.get("sensor")
                one = re.sub(r"\{sensor(:[^{}]+)?\}", sensor, whole.text) if sensor else whole.text
                found.setdefault((one, sensor or ("" if "/" in pattern else _folder(shape))), []).append(path)
                keys.add(said.key)
    if not found:
        raise UserError(
            f"no image is named like '{pattern}'",
            where=str(root),
            remedy=f"one is {next(iter(groups.values()))[0]}; a pattern with folders is read from {root.name}/",
        )
    return [(one, paths, folder) for (one, folder), paths in sorted(found.items())], keys


def _folder(shape: tuple[str, ...]) -> str:
    """The last of the folders that is no split's."""
    return next((x for x in reversed(shape) if x != "{split}"), "")


def _by_tail(
    root: Path, shape: tuple[str, ...], paths: list[str], hints: Hints, notes: list[Note]
) -> tuple[Found, list[LabelCard]] | None:
    """`KEY.tif` beside `KEY_mask.tif` in one folder."""
    stems = {p: p.rsplit("/", 1)[-1].rsplit(".", 1)[0] for p in paths}
    tails = Counter(m.group("tail") for s in stems.values() if (m := _LABEL_TAIL.match(s)))
    if not tails:
        return None
    tail = tails.most_common(1)[0][0]
    masks = [p for p, s in stems.items() if s.endswith(tail)]
    images = [p for p, s in stems.items() if not s.endswith(tail)]
    keys = {stems[p][: -len(tail)] for p in masks}
    if not images:
        return None
    own = ""
    if not keys & {stems[p] for p in images}:
        ends = Counter(m.group(0) for p in images if (m := re.search(r"[_.\-][A-Za-z]\w*$", stems[p])))
        own = ends.most_common(1)[0][0] if ends else ""
        if not own or not keys & {stems[p].removesuffix(own) for p in images}:
            return None
    notes.append(Note(f"labels end with '{tail}', images with '{own}'"))
    image_path = "/".join((*shape, "{key}" + own + _suffix(images)))
    if not own:
        image_path = "/".join((*shape, f"{{key:(?:(?!{re.escape(tail)}\\.)[^/])+?}}{_suffix(images)}"))
    label = _raster_label(root, ("/".join((*shape, "{key}" + tail + _suffix(masks))), masks, hints), 0, notes)
    return [(image_path, images, shape[-1] if shape else "")], [label]


def _by_class(rest: dict[tuple[str, ...], list[str]], notes: list[Note]) -> tuple[Found, list[LabelCard]]:
    """One folder per class."""
    classes = tuple(sorted({s[-1] for s in rest}))
    notes.append(Note(f"one folder per class: {', '.join(classes)}"))
    paths = [p for ps in rest.values() for p in ps]
    pattern = "/".join((*next(iter(rest))[:-1], "{folder}/{key}" + _suffix(paths)))
    return [(pattern, paths, "")], [LabelCard("class", classes=classes, column="folder")]


def _by_name(rest: Groups, notes: list[Note]) -> tuple[Found, list[LabelCard]] | None:
    """`CLASS_NUMBER.tif` in one folder: several words, each before many numbers."""
    stems = [_stem(p) for paths in rest.values() for p in paths]
    counts = Counter(m.group(1) for s in stems if (m := _NAMED.fullmatch(s)))
    plain = len(rest) == 1 and counts.total() == len(stems) and min(counts.values(), default=0) > 1
    if not plain or len(counts) < 2 or any(sensor_of(c) or c.lower() in TIMES for c in counts):
        return None
    shape, paths = next(iter(rest.items()))
    notes.append(Note(f"names begin with a class: {', '.join(sorted(counts))}", False))
    pattern = "/".join((*shape, "{name:[^/]*[A-Za-z]}_{key:[0-9]+}" + _suffix(paths)))
    return [(pattern, paths, _folder(shape))], [LabelCard("class", classes=tuple(sorted(counts)), column="name")]


def _raster_label(root: Path, found: tuple[str, list[str], Hints], order: int, notes: list[Note]) -> LabelCard:
    """A mask, a map, an image or objects: as the task wants, else whole numbers in one band are classes."""
    path, paths, hints = found
    task, head = hints.task, info(root / paths[0])
    name = "label" if order == 0 else f"label{order + 1}"
    if task in IMAGES:
        return _image_label(root, name, found, notes)
    if task in OBJECTS and head.count == 1 and not head.dtype.startswith("float"):
        values = {int(v) for v in np.unique(probe([root / p for p in paths]).values)}
        if max(values, default=0) > 2 and not values <= {0, 1, 2, 255}:
            notes.append(Note(f"label '{name}': the numbers in {path} are taken for objects, one each", False))
            return LabelCard("boxes", name=name, classes=("object",), path=path)
    kind = "mask" if head.count == 1 and not head.dtype.startswith("float") else "map"
    if task == "regress":
        kind = "map"
    elif kind == "map" and head.count == 1 and task in ("segment", "change", "boundaries"):
        values = probe([root / p for p in paths]).values
        if values.size and bool((values == values.round()).all()):
            kind = "mask"
            notes.append(Note(f"label '{name}': whole numbers stored as {head.dtype} are taken for classes", False))
    notes.append(Note(f"label '{name}' is a {kind}: {head.count} band of {head.dtype} in {path}"))
    seen = probe([root / p for p in paths]) if kind == "map" else None
    empty = None if seen is None or seen.nodata is not None else sentinel(seen.values)
    if empty is not None:
        notes.append(Note(f"label '{name}': {empty:g}, far from all other values, means 'not known'", False))
    return LabelCard(kind, name=name, path=path, ignore=() if empty is None else (empty,))


def _image_label(root: Path, name: str, found: tuple[str, list[str], Hints], notes: list[Note]) -> LabelCard:
    """An image that the task answers with: its bands and units are found as a layer's are."""
    path, paths, hints = found
    head, seen = info(root / paths[0]), probe([root / p for p in paths])
    who = identify(head, "", hints.sensor, hints.bands)
    values = seen.values[: len(who.bands)]
    if who.own is not None:
        unit, units, scale, offset = who.own.bands[0].unit, displayed(values, seen.dtype), 1.0, 0.0
    else:
        sensor = SENSORS.get(who.sensor).select(who.bands)
        band, units = sensor.bands[0], judge(values, seen.dtype, sensor)
        unit, scale, offset = band.unit, band.scale, band.offset
    notes.append(Note(f"label '{name}' is an image of {', '.join(who.bands)} in {path}: {who.why}", who.certain))
    notes.append(Note(f"label '{name}': {units.why}", units.certain))
    return LabelCard(
        "image", name=name, classes=who.bands, path=path, unit=unit,
        scale=scale if units.scale is None else units.scale, offset=offset if units.offset is None else units.offset,
    )  # fmt: skip


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def _tails(labels: list[str], images: set[str]) -> tuple[str, str]:
    """What label and image names end with besides the key they share; nothing when the names are equal."""
    if any(_stem(p) in images for p in labels):
        return "", ""
    tails = Counter(m.group("tail") for p in labels if (m := _LABEL_TAIL.match(_stem(p))))
    tail = tails.most_common(1)[0][0] if tails else ""
    keys = {_stem(p).removesuffix(tail) for p in labels}
    if keys & images:
        return tail, ""
    ends = Counter(m.group("tail") for s in images if (m := _IMAGE_TAIL.match(s)))
    own = ends.most_common(1)[0][0] if ends else ""
    return (tail, own) if own and keys & {s.removesuffix(own) for s in images} else ("", "")


def _loose_labels(root: Path, names: list[str], wanted: tuple[list[str], str], notes: list[Note]) -> list[LabelCard]:
    """A table, vector layer or COCO file, or a folder of vector files; `wanted`: the images' keys and the task."""
    keys, task = wanted
    if task == "detect" or task in OBJECTS:
        for path in (p for p in names if p.endswith(".json") and p.count("/") < 2):
            found = coco_label(root, path)
            if found is not None:
                notes.append(Note(f"boxes of {len(found.classes)} classes in {path} (COCO)"))
                return [replace(found, column="segmentation") if task in OBJECTS else found]
    if task == "detect":
        return []
    folders = Counter(p.rpartition("/")[0] for p in names if p.endswith(VECTOR_FILES))
    for folder, _ in folders.most_common():
        last = folder.rsplit("/", 1)[-1]
        files = [p for p in names if p.endswith(VECTOR_FILES) and p.rpartition("/")[0] == folder]
        if not last or (folder_word(last) not in LABEL_WORDS and not {_stem(p) for p in files} & set(keys)):
            continue
        return [_vector(root, (folder, files, task), notes)]
    for path in (p for p in names if p.endswith(VECTOR_FILES) and "/" not in p):
        return [_vector(root, (path, [path], task), notes)]
    for path in (p for p in names if p.endswith(TABLES) and p.count("/") < 2 and not _stem(p).startswith("split")):
        found = table_label(root, path, keys, task)
        if found is not None:
            told = f"column '{found.column}'" if found.column else f"{len(found.classes)} columns of 0 and 1"
            notes.append(Note(f"labels in {path}: {told}, keyed by '{found.key}'", found.kind != "class"))
            return [found]
        notes.append(Note(f"{path} holds no label for '{task}' that fits the images: a card can name one", False))
    return []


def _vector(root: Path, what: One, notes: list[Note]) -> LabelCard:
    path, files, task = what
    if task in OBJECTS:
        notes.append(Note(f"vector labels in {path}: every polygon is an object"))
        return LabelCard("boxes", classes=("object",), path=path)
    found = vector_label(root, path, files)
    by = f"the classes of column '{found.column}'" if found.column else "every polygon is class 1"
    notes.append(Note(f"vector labels in {path}: {by}", bool(found.column)))
    return found


def _some(bands: tuple[str, ...]) -> str:
    """Bands as one reads them in a line."""
    return ", ".join(bands if len(bands) <= 20 else (*bands[:6], f"... {len(bands)} in all"))


def _add_layer(root: Path, card: Card, found: One, hints: Hints, notes: list[Note]) -> Card:
    path, files, folder = found
    head = info(root / files[0])
    who = identify(head, folder, hints.sensor, hints.bands)
    notes.append(Note(f"{path or '.'}: {who.sensor} [{_some(who.bands)}]: {who.why}", who.certain))
    if who.own is not None:
        card = replace(card, sensors=(who.own,))
    layer = LayerCard(who.sensor, who.bands, path=path, order=order_of(path))
    seen = probe([root / f for f in files])
    empty = sentinel(seen.values) if seen.nodata is None else None
    if empty is not None:
        notes.append(Note(f"{path or '.'}: {empty:g}, far from all other values, means 'no data'", False))
        seen = replace(seen, values=seen.values[:, (seen.values != empty).all(0)])
    values = seen.values[: len(who.bands)] if len(seen.values) >= len(who.bands) else seen.values
    if who.own is not None:
        units = displayed(values, seen.dtype)
    else:
        units = judge(values, seen.dtype, card.sensor(who.sensor).select(who.bands))
    notes.append(Note(f"{who.sensor}: {units.why}", units.certain))
    _check_cirrus(who.bands, seen.values, (str(root / files[0]), bool(hints.bands or named(head))), notes)
    gsd = _gsd(head)
    nodata = seen.nodata if seen.nodata is not None else empty
    layer = replace(layer, unit=units.unit, scale=units.scale, offset=units.offset, nodata=nodata, gsd=gsd)
    if layer.id in [x.id for x in card.layers]:
        layer = replace(layer, name=f"{layer.id}-{folder_word(folder) or len(card.layers)}")
        notes.append(Note(f"a second stack of {who.sensor} is called {layer.name}", False))
    return replace(card, layers=(*card.layers, layer))


def _check_cirrus(
    bands: tuple[str, ...], values: NDArray[np.float64], told: tuple[str, bool], notes: list[Note]
) -> None:
    """Refuse an order of bands that nobody named and the pixels contradict; doubt one that was named."""
    if "cirrus" not in bands or len(bands) != len(values) or not values.size:
        return
    found, said = darkest(np.median(values, axis=1)[None]), bands.index("cirrus")
    if found is None or found == said:
        return
    words = f"cirrus would be band {said + 1}, but band {found + 1} is by far the darkest"
    if told[1]:
        notes.append(Note(f"{words}: is the order of the bands right?", False))
        return
    rest = [b for b in bands if b not in ("cirrus", "nir08")]
    last = ",".join([*rest[:found], "cirrus", *rest[found:], "nir08"])
    known = found == said - 1 and "nir08" in bands[:said]
    raise UserError(
        words,
        where=told[0],
        remedy=f"B8A seems to stand last: --bands {last}" if known else "name the bands in their order with --bands",
    )


def _gsd(head: object) -> float | None:
    grid = getattr(head, "grid", None)
    if grid is None or not grid.crs or grid.crs in ("EPSG:4326", "OGC:CRS84"):
        return None
    size = min(grid.gsd)
    return round(size, 3) if 0.01 <= size <= 100_000 else None
