"""The index of a folder: which files belong to which key. Nothing is opened; pairing is by key, never by position."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from swath.core.errors import UserError
from swath.data.card import Card, LabelCard, LayerCard
from swath.data.check.lists import LISTS, listed, read_splits
from swath.data.names import SPLIT_WORDS, Fields, Pattern, counted_anew, day_of, split_called
from swath.data.raster import RASTERS

VECTORS = (".geojson", ".gpkg", ".parquet", ".geoparquet", ".shp", ".fgb")
TABLES = (".csv", ".parquet")


@dataclass(frozen=True)
class Asset:
    """One image file of a key: the layer it belongs to, its date (days since the epoch), band and step where named, and
    its cloud mask where the layer has such."""

    path: str
    layer: str
    date: int | None = None
    band: str = ""
    step: int = 0
    clouds: str = ""


@dataclass(frozen=True)
class Item:
    """Everything that shares one key; paths are relative to the root."""

    key: str
    images: tuple[Asset, ...]
    labels: Mapping[str, str]
    split: str = ""
    fields: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Index:
    """Items that have an image, and what did not pair: said, never dropped in silence."""

    root: Path
    items: tuple[Item, ...]
    images_without_label: tuple[str, ...] = ()
    labels_without_image: tuple[str, ...] = ()
    duplicates: tuple[tuple[str, str, str], ...] = ()
    bad_dates: tuple[tuple[str, str], ...] = ()
    listed_only: tuple[str, ...] = ()
    """Keys that a split list names and no image has."""


def scan(root: Path) -> list[str]:
    """Every file below root, relative, sorted; hidden files and folders are left out."""
    if not root.is_dir():
        raise UserError("there is no such folder", where=str(root))
    found: list[str] = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        base = os.path.relpath(folder, root).replace(os.sep, "/")
        found.extend(f if base == "." else f"{base}/{f}" for f in files if not f.startswith("."))
    return sorted(found)


def file_pattern(path: str, suffixes: tuple[str, ...]) -> list[Pattern]:
    """A card's `path` as patterns: itself when it has fields, else the files of that folder by their stem."""
    if "{" in path:
        return [Pattern(path)]
    base = f"{path.strip('/')}/" if path.strip("/") else ""
    splits = "|".join(SPLIT_WORDS)
    return [Pattern(f"{base}{{key}}{s}") for s in suffixes] + [
        Pattern(f"{base}{{split:(?i:{splits})}}/{{key}}{s}") for s in suffixes
    ]


def per_key(label: LabelCard) -> bool:
    """Whether the label is one file per key (else one table, layer or annotation file for all)."""
    return "{" in label.path or not Path(label.path).suffix


class _Collector:
    """Files by key. `anew`: the splits' folders count their files anew, so that the split is part of the key."""

    def __init__(self, anew: bool) -> None:
        self.anew = anew
        self.images: dict[str, list[Asset]] = {}
        self.labels: dict[str, dict[str, str]] = {}
        self.fields: dict[str, dict[str, str]] = {}
        self.duplicates: list[tuple[str, str, str]] = []
        self.bad_dates: list[tuple[str, str]] = []
        self.undated: dict[str, tuple[str, str]] = {}
        self.clouds: dict[tuple[str, str, int | None, int], str] = {}
        self._seen: dict[tuple[str, ...], str] = {}

    def key(self, found: Fields) -> str:
        split = found.get("split")
        return f"{split_called(split)}_{found.key}" if self.anew and split else found.key

    def once(self, identity: tuple[str, ...], path: str) -> bool:
        first = self._seen.setdefault(identity, path)
        if first != path:
            self.duplicates.append((identity[1], first, path))
        return first == path

    def image(self, path: str, layer: LayerCard, patterns: list[Pattern]) -> None:
        for pattern in patterns:
            found = pattern.match(path)
            if found is None:
                continue
            sensor = found.get("sensor")
            if sensor and "{sensor}" in layer.path and sensor.lower() not in (layer.id.lower(), layer.sensor.lower()):
                continue
            day: int | None = None
            if found.get("date"):
                try:
                    day = day_of(found.get("date"), path)
                except UserError:
                    self.bad_dates.append((path, found.get("date")))
                    self.undated[path] = (layer.id, self.key(found))
                    return
            key, step = self.key(found), found.get("step")
            if step and step not in layer.order:
                continue
            if self.once(("image", key, layer.id, str(day), found.get("band"), step), path):
                place = layer.order.index(step) if step else 0
                self.images.setdefault(key, []).append(Asset(path, layer.id, day, found.get("band"), place))
                self.fields.setdefault(key, {}).update(found.values)
            return

    def cloud(self, path: str, layer: LayerCard, patterns: list[Pattern]) -> None:
        for pattern in patterns:
            if (found := pattern.match(path)) is not None:
                date, step = found.get("date"), found.get("step")
                place = layer.order.index(step) if step in layer.order else 0
                day = day_of(date, path) if date else None
                self.clouds.setdefault((layer.id, self.key(found), day, place), path)
                return

    def hidden_by(self, asset: Asset, key: str) -> Asset:
        """The asset with its cloud mask: that of its date, else the key's one for all dates."""
        for day in (asset.date, None):
            if path := self.clouds.get((asset.layer, key, day, asset.step)):
                return replace(asset, clouds=path)
        return asset

    def label(self, path: str, card: LabelCard, patterns: list[Pattern]) -> None:
        for pattern in patterns:
            found = pattern.match(path)
            if found is not None:
                key = self.key(found)
                if self.once(("label", key, card.name), path):
                    self.labels.setdefault(key, {})[card.name] = path
                return


def _anew(files: list[str], layers: list[tuple[LayerCard, list[Pattern]]]) -> bool:
    keys: dict[str, set[str]] = {}
    for path in files:
        found = next((m for _, patterns in layers for p in patterns if (m := p.match(path))), None)
        if found is not None and found.get("split") and "split" not in found.key:
            keys.setdefault(split_called(found.get("split")), set()).add(found.key)
    return counted_anew(keys)


def _collect(card: Card, names: list[str]) -> _Collector:
    """Every file that the card's patterns name, by key."""
    layers = [(x, file_pattern(x.path, RASTERS)) for x in card.layers]
    labels = [(x, file_pattern(x.path, RASTERS + VECTORS)) for x in _own_files(card)]
    clouds = [(x, file_pattern(x.clouds, RASTERS)) for x in card.layers if x.clouds]
    got = _Collector(_anew(names, layers))
    for path in names:
        for layer, patterns in clouds:
            got.cloud(path, layer, patterns)
        for label, patterns in labels:
            got.label(path, label, patterns)
        for layer, patterns in layers:
            got.image(path, layer, patterns)
    return got


def _own_files(card: Card) -> list[LabelCard]:
    """The labels that are one file a key."""
    return [x for x in card.labels if x.path and per_key(x)]


def clouds_of(root: Path, card: Card) -> dict[str, str]:
    """Image -> cloud mask, of the layers that have such; an image without one is an error."""
    got = _collect(card, scan(root))
    wanted = {x.id: x.clouds for x in card.layers if x.clouds}
    found: dict[str, str] = {}
    for key, assets in got.images.items():
        for asset in (got.hidden_by(a, key) for a in assets if a.layer in wanted):
            found[asset.path] = asset.clouds or lacks_clouds(root, asset.path, asset.layer, wanted[asset.layer])
    return found


def lacks_clouds(root: Path, path: str, layer: str, wanted: str) -> str:
    """An image has no cloud mask where its layer has such."""
    raise UserError(
        "the image has no cloud mask",
        where=str(root / path),
        remedy=f"the card looks for it at {wanted}: add it, or take `clouds` from the layer {layer}",
    )


@dataclass(frozen=True)
class Placed:
    """What a file is by the card: an image of a layer or a label, its key and its split."""

    label: bool
    name: str
    key: str
    split: str = ""


def placed(root: Path, card: Card, files: list[str] | None = None) -> dict[str, Placed]:
    """Every image and label file of the card, duplicates and those without a partner included."""
    names = scan(root) if files is None else files
    got = _collect(card, names)
    splits = _splits(root, card, names, got)
    found: dict[str, Placed] = {}
    for key, assets in got.images.items():
        split = splits.get(key) or split_called(got.fields[key].get("split", ""))
        split = card.splits.names.get(split, split)
        found |= {a.path: Placed(False, a.layer, key, split) for a in assets}
        found |= {path: Placed(True, name, key, split) for name, path in got.labels.get(key, {}).items()}
    for key, labels in got.labels.items():
        for name, path in labels.items():
            found.setdefault(path, Placed(True, name, key))
    for _, first, path in got.duplicates:
        found[path] = found[first]
    return found | {path: Placed(False, layer, key) for path, (layer, key) in got.undated.items()}


def build_index(root: Path, card: Card, files: list[str] | None = None) -> Index:
    """Pair the files of a folder as its card says."""
    names = scan(root) if files is None else files
    got = _collect(card, names)
    wanted = [x.name for x in _own_files(card)]
    splits = _splits(root, card, names, got)
    items: list[Item] = []
    lonely: list[str] = []
    for key in sorted(got.images):
        mine = got.labels.get(key, {})
        if wanted and any(n not in mine for n in wanted):
            lonely.extend(a.path for a in got.images[key][:1])
            if not mine:
                continue
        fields = got.fields[key]
        split = splits.get(key) or split_called(fields.get("split", ""))
        split = card.splits.names.get(split, split)
        assets = [got.hidden_by(a, key) for a in got.images[key]]
        images = tuple(sorted(assets, key=lambda a: (a.layer, a.step, a.date or 0, a.band, a.path)))
        items.append(Item(key, images, mine, split, fields))
    orphans = tuple(p for k, v in sorted(got.labels.items()) if k not in got.images for p in v.values())
    return Index(root, tuple(items), tuple(lonely), orphans, tuple(got.duplicates), tuple(got.bad_dates),
                 tuple(sorted(set(splits) - set(got.images))))  # fmt: skip


def no_sample(card: Card, index: Index) -> UserError:
    """Why an index has no item: no image, or no image with a label."""
    if index.images_without_label:
        wanted = ", ".join(f"{x.name} ({x.path})" for x in card.labels if x.path and per_key(x))
        orphan = f"; a label without image is {index.labels_without_image[0]}" if index.labels_without_image else ""
        return UserError(
            f"{len(index.images_without_label)} images, and no label of their keys, for example of "
            f"{index.images_without_label[0]}{orphan}",
            where=str(index.root),
            remedy=f"the card's labels are looked for at: {wanted}; without labels, take them out of the card",
        )
    return UserError(
        "no file fits the card's layers",
        where=str(index.root),
        remedy=f"the layers look for: {', '.join(x.path or '*' for x in card.layers)}",
    )


def key_of(name: str) -> str:
    """The key that a table or list means: a file's stem, whatever folder stands before it."""
    stem = name.strip().replace("\\", "/").rsplit("/", 1)[-1]
    for suffix in RASTERS:
        if stem.lower().endswith(suffix):
            return stem[: -len(suffix)]
    return stem


def _splits(root: Path, card: Card, names: list[str], got: _Collector) -> dict[str, str]:
    """Key -> split from the card's split file, or from whatever list lies at the root or one folder down."""
    own = {x.path for x in card.labels}
    stems = {Path(a.path).stem: key for key, assets in reversed(got.images.items()) for a in assets}
    keys = {key: key for key in got.images}
    if card.splits.file:
        lists = [listed(root / card.splits.file)]
    else:
        tables = [n for n in names if n.lower().endswith(LISTS) and n.count("/") < 2 and n not in own]
        lists = read_splits(root, tables, {*stems, *keys})
    out: dict[str, str] = {}
    for one in lists:
        for problem in one.problems:
            raise UserError(problem, where=str(root / one.file))
        for split, tokens in one.splits.items():
            for token in tokens:
                _assign(out, (stems | keys).get(token, token), split_called(split), root / one.file)
    return out


def _assign(out: dict[str, str], key: str, split: str, path: Path) -> None:
    if out.setdefault(key, split) != split:
        raise UserError(
            f"the sample '{key}' is in two splits: {out[key]} and {split}",
            where=str(path),
            remedy="keep it in one of them",
        )
