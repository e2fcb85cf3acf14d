"""What DATA is: a folder, a card, a run file or any other source; and what it says the files should hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, cast

from swath.core.errors import SwathError, UserError
from swath.data.card import Card, LabelCard, LayerCard, load_card
from swath.data.check.expect import Expect, declared
from swath.data.check.layout import Layout, Member, holds_labels
from swath.data.check.lists import Legend
from swath.data.index import VECTORS, file_pattern, placed
from swath.data.names import Pattern
from swath.data.open import config_of, open_source
from swath.data.raster import RASTERS


@dataclass
class Opened:
    """Either a folder of rasters to look at (`root`, with the card's word on it), or a source of samples."""

    root: Path
    card: Card | None = None
    source: Any = None
    batch_size: int | None = None
    expects: dict[str, Expect] = field(default_factory=dict[str, Expect])
    legend: Legend | None = None
    ignore: frozenset[int] = frozenset()

    def fit(self, layout: Layout) -> None:
        """Tie what the card declares to the groups that the folder has."""
        if self.card is None:
            return
        _own_layout(self.card, layout)
        groups = layout.groups("image")
        for layer in self.card.layers:
            mine = [g for g, ms in groups.items() if _fits(layer, g, len(groups), ms[0].file)]
            mine = [g for g in mine if not g.endswith(")") or g.endswith(f"({layer.id})")]
            for group in mine:
                self.expects[group] = _expect(self.card, layer)
            if not mine and not layer.optional:
                layout.assumed.append(f"no group of files is the card's layer {layer.id}")
        layout.lacking = [(x.name, x.path) for x in self.card.labels if x.path and not _there(x, layout)]
        masks = [x for x in self.card.labels if x.kind == "mask" and x.classes]
        if masks:
            values = masks[0].values or tuple(range(len(masks[0].classes)))
            self.legend = dict(zip(values, masks[0].classes, strict=True))
            self.ignore = frozenset(int(v) for v in masks[0].ignore if float(v).is_integer())


def _own_layout(card: Card, layout: Layout) -> None:
    """What the card calls an image, a label and a key; files that it does not name are none of its data."""
    known = placed(layout.root, card)
    layers = {p.name for p in known.values() if not p.label}
    folders: dict[str, set[str]] = {}
    for path, p in known.items():
        if not p.label:
            folders.setdefault(str(PurePosixPath(path).parent), set()).add(p.name)
    members: list[Member] = []
    strangers: list[str] = []
    for m in layout.members:
        p = known.get(m.file)
        if p is None:
            strangers.append(m.file)
            continue
        several = not p.label and len(folders[str(PurePosixPath(m.file).parent)]) > 1
        group = f"{m.group} ({p.name})" if several else m.group.removesuffix(" (labels)")
        members.append(Member(m.file, "label" if p.label else "image", group, p.key, p.split or m.split))
    if not layers or not members:  # the card is of other files: they are looked at as they are
        return
    layout.members = members
    layout.assumed = [a for a in layout.assumed if not a.startswith("the key is ")]
    clouds = [file_pattern(x.clouds, RASTERS) for x in card.layers if x.clouds]
    strangers = [f for f in strangers if not any(p.match(f) for patterns in clouds for p in patterns)]
    if strangers:
        layout.assumed.append(f"{len(strangers)} rasters are named by no layer or label of the card and are left out, "
                              f"for example {strangers[0]}")  # fmt: skip
    kinds = {x.name: x.kind for x in card.labels}
    layout.numbered = {
        m.group for m in members if m.role == "label" and kinds[known[m.file].name] in ("boxes", "map", "image")
    }


def _there(label: LabelCard, layout: Layout) -> bool:
    """Whether some file is a declared label's."""
    path = label.path.strip("/")
    if "{" in path:
        return any(Pattern(path).match(m.file) for m in layout.members) or path.lower().endswith(VECTORS)
    place = layout.root / path
    return place.is_file() or (place.is_dir() and holds_labels(place))


def _fits(layer: LayerCard, group: str, groups: int, file: str) -> bool:
    path = layer.path.strip("/")
    if "{band}" in path:
        return False
    if "{" in path:
        return Pattern(path).match(file) is not None if not path.endswith("/") else group == path.rstrip("/")
    if path in ("", "*"):
        return groups == 1
    return group == path or group.startswith(path.rstrip("*/") + "/") or (path.startswith(group + "/") and "*" in path)


def _expect(card: Card, layer: LayerCard) -> Expect:
    names = ["-"] * layer.channels
    for step in layer.positions(tuple(range(len(layer.bands)))):
        for channel, band in zip(step, layer.bands, strict=True):
            names[channel] = band
    return declared(card.sensor(layer.sensor), names, (layer.unit, layer.scale, layer.offset, layer.nodata))


def open_data(path: Path, place: str | None = None) -> Opened:
    """A folder as it is (with its `card.toml`, where it has one), a card, a run file, or what `open_source` reads; a
    shipped card's data lie in `place`."""
    if place is not None:
        return Opened(path, source=_source(str(path), place))
    if path.is_dir():
        if (path / "card.toml").is_file():
            return _by_card(path / "card.toml", path)
        return Opened(path) if config_of(path)["kind"] == "folder" else Opened(path, source=_source(str(path)))
    if path.suffix.lower() in (".yaml", ".yml") and path.is_file():
        return _run_file(path)
    if path.suffix.lower() == ".toml" and path.is_file():
        return _by_card(path, path.parent)
    return Opened(path, source=_source(str(path), place))


def _source(ref: Any, place: str | None = None) -> Any:
    return open_source(ref, path=place, assume=True)


def _by_card(file: Path, root: Path) -> Opened:
    card = load_card(file)
    kind = str(card.layout.get("kind", "folder"))
    if kind != "folder":
        return Opened(root, card, source=_source(str(file)))
    place = root / str(card.layout.get("path", "."))
    return Opened(place, card)


def _run_file(path: Path) -> Opened:
    import yaml

    try:
        run: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as why:
        raise UserError(f"the run file is not YAML: {why}", where=str(path)) from why
    data: Any = cast("dict[str, Any]", run).get("data") if isinstance(run, dict) else None
    if not isinstance(data, dict):
        raise UserError("the run file has no `data`", where=str(path), remedy="data: {kind: folder, path: FOLDER}")
    table = cast("dict[str, Any]", data)
    opened = _named(table, path)
    size = next((v for k, v in _leaves(run) if k.rsplit(".", 1)[-1] == "batch_size" and isinstance(v, int)), None)
    opened.batch_size = size
    return opened


def _named(data: dict[str, Any], run: Path) -> Opened:
    """The data of a run file: a folder is looked at file by file, anything else sample by sample."""
    place = next(
        (p for p in (run.parent / str(data.get("path", "")), Path(str(data.get("path", "")))) if p.exists()), None
    )
    if str(data.get("kind", "folder")) == "folder":
        if place is None or not data.get("path"):
            raise UserError(f"there is no such folder: {data.get('path', '')}", where=f"{run}: data.path")
        card = str(data.get("card", ""))
        if card:
            found = next((p for p in (run.parent / card, place / card, Path(card)) if p.is_file()), None)
            if found is None:
                from swath.data.card import find_card

                return Opened(place, find_card(card))
            return Opened(place, load_card(found))
        return open_data(place)
    try:
        return Opened(run.parent, source=_source({**data, **({"path": str(place)} if place else {})}))
    except SwathError as error:
        raise UserError(error.what, where=f"{run}: data", remedy=error.remedy) from error


def _leaves(data: Any, at: str = "") -> list[tuple[str, Any]]:
    if isinstance(data, dict):
        return [leaf for k, v in cast("dict[str, Any]", data).items() for leaf in _leaves(v, f"{at}.{k}")]
    return [(at, data)]
