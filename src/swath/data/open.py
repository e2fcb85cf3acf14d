"""One door to data: a folder, a card, a tortilla, a shipped card's name or a config value as a Source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from swath.core.config import parse_member
from swath.core.contracts import Source
from swath.core.errors import UserError
from swath.data.card import Card, find_card, load_card
from swath.data.cards import CARDS
from swath.data.raster import RASTERS
from swath.data.sources import SOURCES
from swath.data.tortilla import is_tortilla

TORTILLAS = (".tortilla", ".taco")


def from_card(card: Card, path: str | Path | None = None, card_ref: str = "") -> Source:
    """The source of a card: its `layout` says which reader and options; `path` is where the data lies."""
    return parse_member(_of_card(card, path, card_ref), SOURCES, where=card.place).build()


def _of_card(card: Card, path: str | Path | None, card_ref: str) -> dict[str, Any]:
    if not card.layout:
        raise UserError(
            f"the card '{card.name}' says what the data set is, not how its files lie",
            where=card.place,
            remedy="download it, then write a card for your copy with `swath init FOLDER`",
        )
    options = dict(card.layout)
    inner = str(options.pop("path", "."))
    root = path if path is not None else (Path(card.place).parent if card_ref else None)
    if root is None:
        raise UserError(
            f"where does the data of '{card.name}' lie?",
            where=card.place,
            remedy=f"give its path: swath ... --path FOLDER (published at {card.url or 'an unknown address'})",
        )
    options["path"] = str(Path(root) / inner) if inner != "." else str(root)
    member = SOURCES.get(str(options.get("kind", "")))
    known = {f.name for f in fields(cast(Any, member))}
    if "card" in known:
        options["card"] = card_ref or card.name
    return options


def open_source(ref: Any, *, path: str | Path | None = None, assume: bool = False) -> Source:
    """A Source from a folder, a card file, a tortilla file, the name of a shipped card (with `path`), or a config.

    `assume` accepts guesses about unnamed bands and units: for looking and checking, never for training.
    """
    if isinstance(ref, Card):
        return from_card(ref, path, ref.place if ref.place.endswith("card.toml") else "")
    if is_dataclass(ref) and hasattr(ref, "build"):
        return cast(Any, ref).build()
    if isinstance(ref, Mapping):
        return parse_member(ref, SOURCES, where="data").build()
    if not isinstance(ref, (str, Path)):
        if hasattr(ref, "sample") and hasattr(ref, "splits"):
            return cast(Source, ref)
        raise UserError(f"this is no data: {ref!r}", remedy="give a folder, a card, a tortilla file or a config")
    return parse_member(config_of(ref, path=path, assume=assume), SOURCES, where=str(ref)).build()


def config_of(ref: str | Path, *, path: str | Path | None = None, assume: bool = False) -> dict[str, Any]:
    """What a run file says under `data` of a folder, a card file, a tortilla, a shipped card's name, a run file."""
    file = Path(ref)
    if path is not None and file.exists():
        raise UserError("a path goes with the name of a shipped card; this lies somewhere already", where=str(ref))
    if file.is_dir():
        return _folder(file, assume)
    if file.is_file():
        return _file(file)
    name = str(ref)
    if name in CARDS:
        return _of_card(CARDS.get(name), path, "")
    raise UserError(
        "there is neither such a file or folder nor such a card",
        where=name,
        remedy="`swath data list` shows the cards; check the path's spelling",
    )


def holds_hdf5(root: Path) -> bool:
    """Whether a folder is one of HDF5 samples, as GEO-Bench v1 has them, and of no rasters."""
    kinds = {p.suffix.lower() for p in root.iterdir()}
    return ".hdf5" in kinds and not kinds & set(RASTERS)


def _folder(root: Path, assume: bool) -> dict[str, Any]:
    if (root / "pack.json").is_file():
        return {"kind": "packed", "path": str(root)}
    if (root / "card.toml").is_file():
        card = load_card(root / "card.toml")
        if card.layout and card.layout.get("kind") != "folder":
            return _of_card(card, root, str(root / "card.toml"))
    elif holds_hdf5(root):
        return {"kind": "geobench1", "path": str(root)}
    return {"kind": "folder", "path": str(root), **({"assume": True} if assume else {})}


def _file(file: Path) -> dict[str, Any]:
    if file.suffix == ".toml":
        return _of_card(find_card(str(file)), file.parent, str(file))
    if file.suffix in TORTILLAS or is_tortilla(file):
        return {"kind": "tortilla", "path": str(file)}
    if file.suffix in (".yaml", ".yml"):
        return _run_file(file)
    if file.suffix in (".npy", ".npz", ".parquet"):
        return {"kind": "pixels", "path": str(file)}
    raise UserError(
        f"a file of type '{file.suffix}' is no data set",
        where=str(file),
        remedy="give a folder, a card (.toml), a run file (.yaml) or a tortilla",
    )


def _run_file(file: Path) -> dict[str, Any]:
    """The data of a run file."""
    import yaml

    try:
        data: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as why:
        raise UserError(f"the run file cannot be read: {why}", where=str(file)) from why
    if not isinstance(data, dict) or "data" not in data:
        raise UserError("the run file has no `data`", where=str(file))
    return cast("dict[str, Any]", data)["data"]
