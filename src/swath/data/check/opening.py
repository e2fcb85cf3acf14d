"""What DATA is: a folder, a card, a run file or any other source; and what it says the files should hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from swath.core.errors import SwathError, UserError
from swath.data.card import Card, LayerCard, load_card
from swath.data.check.expect import Expect, declared
from swath.data.check.layout import Layout
from swath.data.check.lists import Legend
from swath.data.names import Pattern
from swath.data.open import config_of, open_source


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
            for group in mine:
                self.expects[group] = _expect(self.card, layer)
            if not mine and not layer.optional:
                layout.assumed.append(f"no group of files is the card's layer {layer.id}")
        masks = [x for x in self.card.labels if x.kind == "mask" and x.classes]
        if masks:
            values = masks[0].values or tuple(range(len(masks[0].classes)))
            self.legend = dict(zip(values, masks[0].classes, strict=True))
            self.ignore = frozenset(int(v) for v in masks[0].ignore if float(v).is_integer())


def _own_layout(card: Card, layout: Layout) -> None:
    """Where the card gives a label's folder, that decides which group holds labels."""
    folders = {x.path.strip("/") for x in card.labels if x.path and "{" not in x.path and "*" not in x.path}
    if folders:
        from dataclasses import replace

        layout.members = [
            replace(m, role="label" if m.group in folders else "image") if m.group in folders or not m.role else m
            for m in layout.members
        ]


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
