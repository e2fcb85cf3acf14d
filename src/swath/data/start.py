"""`swath init`: a card and a run file from what a folder holds: nobody types a mean, a band list or a class count.

Everything assumed stands as a comment beside what it led to.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from swath.core.errors import UnknownName, UserError
from swath.core.rng import seed_of
from swath.data.card import Card, LabelCard, SplitCard, load_card
from swath.data.check.layout import empty_folders
from swath.data.index import Index, build_index, no_sample, per_key, scan
from swath.data.place import lonlat
from swath.data.propose import LABEL_WORDS, Hints, Note, propose
from swath.data.raster import RASTERS, info, opened

TASKS = {
    "segment": ("mask",),
    "classify": ("class",),
    "multilabel": ("tags",),
    "regress": ("map", "scalar"),
    "scalar": ("scalar",),
    "detect": ("boxes",),
    "change": ("mask",),
    "instances": ("boxes",),
    "boundaries": ("mask", "boxes"),
    "series": ("class",),
    "gapfill": ("image",),
    "superres": ("image",),
}
UNLABELLED = "pretrain"
"""No task, but what is learnt before one."""
LIKE = {"series": "classify"}
"""Tasks whose labels lie in a folder as another task's do."""
SPLIT = (("train", 0.7), ("val", 0.15), ("test", 0.15))
TURNS = ("segment", "change", "regress", "detect", "instances", "boundaries", "classify", "multilabel")
STEPS = 1000
MOST_CLASSES = 300
_DEGREE_M = 111_320.0


@dataclass(frozen=True)
class Started:
    """What was written, what was found, and what was assumed."""

    card: Path | None
    run: Path
    found: dict[str, Any]
    assumed: tuple[str, ...]


def start(root: Path, task: str, hints: Hints, out: Path | None = None, encoder: str = "swath-vit") -> Started:
    """Write card.toml (with splits.json) and run.yaml into `out`, by default the folder itself."""
    if task not in (*TASKS, UNLABELLED):
        raise UnknownName("task", task, (*TASKS, UNLABELLED))
    if not root.is_dir():
        raise UserError("there is no such folder", where=str(root))
    target = (out or root).resolve()
    if (target / "run.yaml").exists():
        raise UserError("run.yaml is there already", where=str(target), remedy="remove it, or choose another --out")
    files = scan(root)
    kept = root / "card.toml"
    if kept.is_file():
        card, notes = load_card(kept), [Note(f"the card {kept} is there already and was kept")]
        card_path = kept.resolve()
    else:
        found = propose(root, replace(hints, task=LIKE.get(task, task)), files)
        card, notes = found.card, list(found.notes)
        card_path = target / "card.toml"
    index = build_index(root, card, files)
    if not index.items:
        raise no_sample(card, index)
    _say_unpaired(index, notes)
    card = _label_for(root, card, task, index, notes)
    writes: dict[Path, str] = {}
    splits = _splits(root, card, index, notes)
    fresh = not any(i.split for i in index.items)
    if fresh and kept.is_file():  # the card stays as it is; a file of this name at the root is found without its word
        writes[root.resolve() / "splits.json"] = json.dumps(splits.keys, indent=0)
    elif fresh:
        file = "splits.json" if target == root.resolve() else str(target / "splits.json")
        card = replace(card, splits=SplitCard(splits.rule, file, {k: len(v) for k, v in splits.keys.items()}))
        writes[target / "splits.json"] = json.dumps(splits.keys, indent=0)
    crop = 0
    if not kept.is_file():
        if target != root.resolve():  # a card that lies elsewhere says where the files are
            card = replace(card, layout={**card.layout, "path": str(root.resolve())})
        looked = _look(root, card, index, splits.keys)
        notes += looked.notes
        crop = looked.crop if task != UNLABELLED else 0
        if crop:
            notes.append(Note(f"images differ in size: training cuts squares of {crop} pixels", False))
        card = replace(card, samples=len(index.items), statistics=looked.statistics)
        writes[card_path] = card_text(card, notes)
    data = {"kind": "folder", "path": str(root.resolve()), "card": str(card_path)}
    if task == "regress" and card.labels[0].kind == "scalar":
        task = "scalar"
        notes.append(Note("one number a sample: the task is 'scalar'"))
    what = {"kind": task, **({"label": card.labels[0].name} if len(card.labels) > 1 else {})}
    run = run_of(data, card.name, what, encoder, len(splits.keys.get("train", index.items)))
    if crop:
        run["augment"] = {**run.get("augment", {}), "crop": crop}
    writes[target / "run.yaml"] = run_text(run, notes)
    write(writes)
    facts = {
        "samples": len(index.items),
        "layers": {x.id: list(x.wanted) for x in card.layers},
        "classes": list(card.labels[0].classes) if card.labels else [],
        "splits": {k: len(v) for k, v in splits.keys.items()},
    }
    return Started(card_path, target / "run.yaml", facts, tuple(n.text for n in notes if not n.certain))


def _say_unpaired(index: Index, notes: list[Note]) -> None:
    for word, paths in (("image", index.images_without_label), ("label", index.labels_without_image)):
        if paths:
            notes.append(Note(f"{len(paths)} {word}s have no partner and are left out, for example {paths[0]}", False))
    for key, first, second in index.duplicates[:1]:
        notes.append(Note(f"the key '{key}' occurs twice ({first}, {second}): the first one counts", False))


def _label_for(root: Path, card: Card, task: str, index: Index, notes: list[Note]) -> Card:
    """The card with its labels' classes looked up; the task's label stands first."""
    if task == UNLABELLED:  # nothing is asked of labels; what looked like one may be a folder's name
        return replace(card, labels=(), tasks=())
    wanted = TASKS[task]
    fits = [x for x in card.labels if x.kind in wanted]
    if not fits:
        has = ", ".join(f"{x.name} ({x.kind})" for x in card.labels) or "none"
        empty = [] if card.labels else empty_folders(root, LABEL_WORDS)
        raise UserError(
            f"the task '{task}' needs a label of kind {' or '.join(wanted)}; found: {has}"
            + (f" ({', '.join(empty)}/ is empty)" if empty else ""),
            where=str(root),
            remedy="add such a label to card.toml, or remove that file to let the folder be looked at anew"
            if (root / "card.toml").is_file()
            else "put masks or maps into labels/KEY.tif, classes into one folder each, or write a card for others",
        )
    labels = tuple(_classes(root, x, index, notes) for x in (*fits, *(y for y in card.labels if y not in fits)))
    return replace(card, labels=labels)


def _classes(root: Path, label: LabelCard, index: Index, notes: list[Note]) -> LabelCard:
    if label.kind != "mask" or label.classes or not per_key(label):
        return label
    counts: Counter[int] = Counter()
    nodata: set[int] = set()
    for item in index.items:
        path = item.labels.get(label.name, "")
        if not path.lower().endswith(RASTERS):
            continue
        with opened(root / path) as data:
            values, n = np.unique(data.read(1), return_counts=True)
            if values.dtype.kind == "f":
                values, n = values[np.isfinite(values)], n[np.isfinite(values)]
                if bool((values != values.round()).any()):
                    raise UserError(
                        f"the label holds {values[values != values.round()][0]:g}: classes are whole numbers",
                        where=str(root / path),
                        remedy="choose --task regress for quantities, or resample classes by nearest neighbour",
                    )
            if data.nodata is not None and np.isfinite(data.nodata):
                nodata.add(int(data.nodata))
        counts.update(dict(zip((int(v) for v in values), (int(c) for c in n), strict=True)))
    if len(counts) > MOST_CLASSES:
        raise UserError(
            f"the masks hold {len(counts)} different values: these are quantities, not classes",
            where=str(root / label.path),
            remedy="choose --task regress, or correct the masks",
        )
    binary = set(counts) <= {0, 255} and 255 not in nodata
    # the highest of all, and far from the rest: what a file of bytes writes where nobody labelled
    unset = 255 in counts and max(counts) == 255 and 254 not in counts and not binary
    ignore = tuple(float(v) for v in sorted(counts) if v < 0 or (v == 255 and unset) or (v in nodata and v != 0))
    if binary and 255 in counts:
        notes.append(Note(f"label '{label.name}': 255 beside 0 alone is the second class", False))
    values = tuple(v for v in sorted(counts) if float(v) not in ignore)
    if not values:
        raise UserError("the masks hold nothing but ignored values", where=str(root / label.path))
    if ignore:
        notes.append(
            Note(f"label '{label.name}': {[int(v) for v in ignore]} means 'not labelled' and is ignored", False)
        )
    if 0 in nodata and 0 in values:
        notes.append(Note(f"label '{label.name}': the files call 0 nodata; it is kept as a class, background", False))
    if len(values) == 1:
        values = (0, 1) if values[0] in (0, 1) else (0, 255) if values[0] == 255 else values
        notes.append(Note(f"label '{label.name}': only the value {sorted(counts)} occurs", False))
    total = sum(counts[v] for v in values) or 1
    shares = ", ".join(f"{v}: {100 * counts[v] / total:.2f} %" for v in values[:20])
    notes.append(Note(f"label '{label.name}': values and their shares of the pixels: {shares}"))
    names = tuple(f"class{v}" for v in values)
    plain = values == tuple(range(len(values)))
    return replace(label, classes=names, values=() if plain else values, ignore=ignore)


@dataclass(frozen=True)
class Splits:
    """Keys by split, and the rule in words."""

    keys: dict[str, list[str]]
    rule: str


def _splits(root: Path, card: Card, index: Index, notes: list[Note]) -> Splits:
    if any(i.split for i in index.items):
        keys: dict[str, list[str]] = {}
        for item in index.items:
            keys.setdefault(item.split or "all", []).append(item.key)
        for name, _ in SPLIT[:2]:
            if name not in keys:
                notes.append(Note(f"the folder's own splits have no '{name}'", False))
        return Splits(keys, card.splits.rule or "as found in the folder")
    places = {i.key: _place(root, i.images[0].path) for i in index.items}
    known = {k: p for k, p in places.items() if p is not None}
    if len(known) == len(places):
        enough = max(3, min(10, len(places) // 2))
        for blocks in _blocks(known):
            if len(set(blocks.values())) >= enough:
                rule = f"whole spatial blocks of about {_side(known, blocks)} m by a hash of their place; no buffer"
                notes.append(Note(f"splits: {rule}"))
                return Splits(_deal(blocks), rule)
    rule = "random by a hash of the key: neighbouring chips may fall into different splits"
    notes.append(Note(f"splits: {rule}", False))
    return Splits(_deal({k: k for k in places}), rule)


def _place(root: Path, path: str) -> tuple[float, float, float] | None:
    """Metres east and north (roughly) of a file's centre, and its side in metres."""
    grid = info(root / path).grid
    lon, lat = lonlat(grid)
    if grid is None or not np.isfinite(lon):
        return None
    side = max(grid.gsd) * max(grid.shape)
    if grid.crs == "EPSG:4326":
        side *= _DEGREE_M
    return lon * _DEGREE_M * float(np.cos(np.radians(lat))), lat * _DEGREE_M, side


def _blocks(places: Mapping[str, tuple[float, float, float]]) -> list[dict[str, str]]:
    """Assignments of keys to square blocks, from coarse to fine; the finest is one chip a block."""
    side = float(np.median([p[2] for p in places.values()]))
    out: list[dict[str, str]] = []
    for times in (32, 16, 8, 4, 2):
        size = side * times
        out.append({k: f"{int(x // size)}/{int(y // size)}/{size:.0f}" for k, (x, y, _) in places.items()})
    return out


def _side(places: Mapping[str, tuple[float, float, float]], blocks: Mapping[str, str]) -> str:
    return next(iter(blocks.values())).rsplit("/", 1)[-1]


def _deal(blocks: Mapping[str, str]) -> dict[str, list[str]]:
    """Whole blocks to splits in the order of their hash, each time to the split that lacks most."""
    members: dict[str, list[str]] = {}
    for key, block in sorted(blocks.items()):
        members.setdefault(block, []).append(key)
    total = len(blocks)
    out: dict[str, list[str]] = {name: [] for name, _ in SPLIT}
    for block in sorted(members, key=lambda b: seed_of("split", b)):
        lacks = {name: share - len(out[name]) / total for name, share in SPLIT}
        empty = [n for n, _ in SPLIT if not out[n]]
        name = empty[0] if empty else max(lacks, key=lambda n: lacks[n])
        out[name].extend(members[block])
    return {name: sorted(keys) for name, keys in out.items() if keys}


@dataclass(frozen=True)
class Looked:
    """What the training samples hold: each band's statistics, and what is wrong with them together."""

    statistics: dict[str, Any]
    notes: list[Note]
    crop: int = 0
    """The side that fits into all of them, where they differ in size."""


def _look(root: Path, card: Card, index: Index, splits: Mapping[str, Sequence[str]]) -> Looked:
    """Mean and standard deviation of each band over the valid pixels of at most 500 training samples, and whether
    Sentinel-2 files with and without the offset of 2022 are mixed, among these and a few of the other samples."""
    from swath.data.sources.folder import FolderSource

    train = set(splits.get("train", ()))
    rows = [i for i, item in enumerate(index.items) if not train or item.key in train]
    rows = rows[:: max(1, len(rows) // 500)][:500]
    rest = [i for i, item in enumerate(index.items) if train and item.key not in train]
    rest = rest[:: max(1, len(rest) // 50)][:50] if any(x.sensor.startswith("sentinel2") for x in card.layers) else []
    sums: dict[str, Any] = {}
    lows: dict[str, list[tuple[str, Any]]] = {}
    sizes: dict[str, set[tuple[int, int]]] = {}
    wanted = {x.id: list(card.stored(x).names) for x in card.layers}
    bare = FolderSource(root, replace(card, labels=()))
    bare.index = index
    for n, i in enumerate((*rows, *rest)):
        for name, layer in bare.sample(i, wanted).layers.items():
            sizes.setdefault(name, set()).add((layer.shape[3], layer.shape[4]))
            if n < len(rows):
                values = layer.x[0].double().movedim(1, 0)[:, layer.valid[0, :, 0]]
                held = sums.setdefault(name, [0, 0.0, 0.0])
                held[0] += values.shape[1]
                held[1] += values.sum(1).numpy()
                held[2] += (values**2).sum(1).numpy()
            for t in range(layer.shape[1]) if card.layer(name).sensor.startswith("sentinel2") else ():
                one = layer.x[0, t].double()[:, layer.valid[0, t, 0]].numpy()
                if one.shape[1]:
                    lows.setdefault(name, []).append((index.items[i].key, np.quantile(one, 0.01, axis=1)))
    out: dict[str, Any] = {"samples": len(rows)}
    for name, (n, s1, s2) in sums.items():
        if n:
            mean = s1 / n
            std = np.sqrt(np.maximum(s2 / n - mean**2, 0.0))
            out[name] = {"pixels": int(n), "mean": _short(mean), "std": _short(std)}
    mixed = (_mixed(card, name, told) for name, told in lows.items())
    return Looked(out, [note for note in mixed if note is not None], _crop(sizes))


def _crop(sizes: Mapping[str, set[tuple[int, int]]]) -> int:
    """The side of a square that fits into every sample's finest layer (in whole patches where there is room); 0 where
    samples are of one size."""
    if all(len(s) < 2 for s in sizes.values()):
        return 0
    side = max(min(min(size) for size in s) for s in sizes.values())
    return side // 16 * 16 if side >= 32 else side


def _mixed(card: Card, name: str, lows: Sequence[tuple[str, Any]]) -> Note | None:
    """Some images with, some without the offset of +1000 that processing baseline 04.00 brought (2022)."""
    from swath.data.check.rules.unit import mixed_offset

    layer = card.layer(name)
    bands = card.stored(layer).bands
    own = layer.offset is None and layer.scale is None
    if bands[0].unit != "reflectance" or len(bands) < 3:
        return None
    offset = bands[0].offset if own else layer.offset or 0.0
    found, has_it = mixed_offset((np.array([low for _, low in lows]) - offset) * 10_000)
    if not found:
        return None
    return Note(
        f"{name}: {len(found)} of {len(lows)} images seem to {'carry' if has_it else 'lack'} the offset of +1000 that "
        f"Sentinel-2 has since 2022, the others to {'lack' if has_it else 'have'} it (for example "
        f"{lows[found[0].row][0]}): one of the two is read 0.1 of reflectance off; bring all to one convention",
        False,
    )


def _short(values: Any) -> list[float]:
    return [float(f"{v:.7g}") for v in values]


def run_of(data: Mapping[str, Any], name: str, task: Mapping[str, Any], encoder: str, train: int) -> dict[str, Any]:
    """The run as plain data: a small encoder trained whole, or for `pretrain` learning without labels."""
    chosen: dict[str, Any] = {"kind": encoder, "size": "tiny"} if encoder == "swath-vit" else {"kind": encoder}
    if task["kind"] == UNLABELLED:
        tokens = {"kind": "mae", "mask": {"kind": "random", "ratio": 0.75}}
        return {
            "name": name,
            "data": dict(data),
            "encoder": chosen,
            "objective": tokens if encoder == "swath-vit" else {"kind": "inpaint"},
            "loop": {**loop_of(train), "lr": 0.0003},
            "out": f"runs/{name}",
        }
    return {
        "name": name,
        "data": dict(data),
        "encoder": chosen,
        "task": dict(task),
        "tuning": {"kind": "full"},
        **({"augment": {"flips": True, "turns": True}} if task["kind"] in TURNS else {}),
        "loop": loop_of(train),
        "out": f"runs/{name}",
    }


def loop_of(train: int) -> dict[str, Any]:
    """A loop for so many training samples: small batches, for it is steps that a new head needs, about a thousand of
    them; a batch is no larger than half the training split."""
    batch = max(1, min(8, train // 2))
    epochs = max(10, min(100, math.ceil(STEPS / max(1, train // batch))))
    steady = {"warmup": 0.1, "clip": 1.0, "seed": 0, "precision": "fp32"}
    return {"epochs": epochs, "batch_size": batch, "lr": 0.001, **steady}


def run_text(run: Mapping[str, Any], notes: Sequence[Note]) -> str:
    """The run as YAML, doubts first."""
    import yaml

    doubts = [f"# assumed: {n.text}" for n in notes if not n.certain]
    head = ["# Written by swath init. Classes, bands and statistics come from the data's card.", *doubts]
    return "\n".join(head) + "\n" + yaml.safe_dump(dict(run), sort_keys=False)


def card_text(card: Card, notes: Sequence[Note]) -> str:
    """The card as TOML with every note as a comment."""
    rows = ["# Written by swath init from what the files hold. Correct what is wrong; everything reads this card."]
    rows += [f"# {'found' if n.certain else 'assumed'}: {n.text}" for n in notes]
    plain: dict[str, Any] = {
        "name": card.name,
        "tasks": list(card.tasks),
        "samples": card.samples,
    }
    rows += ["", *_pairs(plain), "", "[layout]", *_pairs(card.layout), ""]
    split = {k: v for k, v in asdict(card.splits).items() if v}
    rows += ["[splits]", *_pairs(split), ""] if split else []
    for layer in card.layers:
        rows += ["[[layer]]", *_pairs(_changed(layer)), ""]
    for label in card.labels:
        rows += ["[[label]]", *_pairs(_changed(label)), ""]
    for own in card.sensors:
        rows += ["[[sensor]]", *_pairs({"id": own.id, "kind": own.kind}), ""]
        for band in own.bands:
            rows += ["[[sensor.band]]", *_pairs(_changed(band)), ""]
    if card.statistics:
        rows += ["[statistics]", *_pairs(card.statistics)]
    return "\n".join(rows).rstrip() + "\n"


def _changed(value: Any) -> dict[str, Any]:
    """A dataclass's fields that differ from their defaults."""
    out: dict[str, Any] = {}
    for f in fields(value):
        held = getattr(value, f.name)
        if held != f.default:
            out[f.name] = held
    return out


def _pairs(table: Mapping[str, Any]) -> list[str]:
    return [f"{k} = {toml(v)}" for k, v in table.items() if v is not None and v != ()]


def toml(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(str(k))} = {toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml(v) for v in value) + "]"
    return repr(value)


def write(texts: Mapping[Path, str]) -> None:
    """All files or none: written aside, then moved into place."""
    staged: list[tuple[Path, Path]] = []
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f".{path.name}.{os.getpid()}")
            aside.write_text(text, encoding="utf-8")
            staged.append((aside, path))
        for aside, path in staged:
            os.replace(aside, path)
    except OSError as why:
        for aside, _ in staged:
            aside.unlink(missing_ok=True)
        raise UserError(
            f"cannot write: {why.strerror}", where=str(why.filename), remedy="choose a folder with --out"
        ) from why
