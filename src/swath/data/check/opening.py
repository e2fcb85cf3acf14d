"""What DATA is: a folder, a card or a run file; and what it says the files should hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from swath.core.errors import UserError
from swath.data.check.expect import Expect
from swath.data.check.layout import Layout
from swath.data.check.lists import Legend


@dataclass
class Opened:
    """The folder to look at, and what is declared about it."""

    root: Path
    expects: dict[str, Expect] = field(default_factory=dict[str, Expect])
    legend: Legend | None = None
    ignore: frozenset[int] = frozenset()
    batch_size: int | None = None

    def fit(self, layout: Layout) -> None:
        """Tie what is declared to the groups that the folder has."""


def open_data(path: Path) -> Opened:
    """A folder as it is; a card (`.toml`) or run file (`.yaml`) by what it says."""
    if path.is_dir():
        return Opened(path)
    if not path.exists():
        raise UserError("there is no such folder or file", where=str(path))
    if path.suffix.lower() in (".yaml", ".yml"):
        return _run_file(path)
    raise UserError("this is no folder, card (.toml) or run file (.yaml)", where=str(path))


def _run_file(path: Path) -> Opened:
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as why:
        raise UserError(f"the run file is not YAML: {why}", where=str(path)) from why
    found = dict(_leaves(data))
    place = next((v for k, v in found.items() if k.rsplit(".", 1)[-1] in _PLACES and _exists(path, v)), None)
    if place is None:
        raise UserError(
            "the run file names no folder or card that exists",
            where=str(path),
            remedy="check `data.source.root` or `card`",
        )
    opened = open_data(_exists(path, place) or Path(place))
    size = next((v for k, v in found.items() if k.rsplit(".", 1)[-1] == "batch_size" and isinstance(v, int)), None)
    opened.batch_size = size
    return opened


_PLACES = ("root", "folder", "card", "path", "data", "source")


def _leaves(data: Any, at: str = "") -> list[tuple[str, Any]]:
    if isinstance(data, dict):
        return [leaf for k, v in cast("dict[str, Any]", data).items() for leaf in _leaves(v, f"{at}.{k}")]
    return [(at, data)]


def _exists(run: Path, value: Any) -> Path | None:
    if not isinstance(value, str) or not value:
        return None
    for option in (run.parent / value, Path(value)):
        if option.is_dir() or (option.is_file() and option.suffix == ".toml"):
            return option
    return None
