"""A folder of rasters: `images/KEY.tif` with `masks/KEY.tif` needs no option; a card says everything else.

Which files belong to a sample is known here without torch, so that they can be read while torch is imported
(`data.opening`); what they hold is told by `_folder_samples`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from swath.core.errors import UserError
from swath.core.sensor import Sensor
from swath.data.card import Card, find_card, load_card
from swath.data.index import VECTORS, Index, build_index, no_sample, scan
from swath.data.propose import Hints, propose

if TYPE_CHECKING:
    from swath.core.batch import Batch
    from swath.core.contracts import LabelSpec
    from swath.data.sources._folder_samples import FolderReader


@dataclass(frozen=True)
class FolderConfig:
    """A folder. `card` is a file or a name (else `card.toml` in the folder, else what the files say of themselves).

    `sensor` and `bands` name what files without band names hold; `pattern` pairs files, e.g. `{site}_{date}.tif`.
    With `assume` a guess is taken where otherwise it would be refused: for looking at data, not for training.
    """

    kind: ClassVar[str] = "folder"
    path: str
    card: str = ""
    sensor: str = ""
    bands: tuple[str, ...] = ()
    pattern: str = ""
    labels: tuple[str, ...] = ()
    assume: bool = False

    def build(self) -> FolderSource:
        root = Path(self.path)
        if not root.is_dir():
            raise UserError("there is no such folder", where=self.path)
        files = scan(root)
        return FolderSource(root, self._card(root, files), self.labels, files)

    def _card(self, root: Path, files: list[str]) -> Card:
        if self.card:
            return self._patterned(find_card(self.card))
        if (root / "card.toml").is_file() and not self.pattern and not self.sensor:
            return load_card(root / "card.toml")
        found = propose(root, Hints(self.sensor, self.bands, self.pattern), files)
        if found.doubts and not self.assume:
            raise UserError(
                "the files do not say what they hold: " + "; ".join(found.doubts),
                where=self.path,
                remedy=f"write it down once with `swath init {self.path}`, or name --sensor and --bands",
            )
        return found.card

    def _patterned(self, card: Card) -> Card:
        """The card with this folder's own pattern, where the files are named otherwise than published."""
        if not self.pattern:
            return card
        if len(card.layers) != 1:
            raise UserError(
                f"the pattern could be of any of the card's {len(card.layers)} layers",
                where=self.card,
                remedy="write a card for this copy and give each layer its path",
            )
        return replace(card, layers=(replace(card.layers[0], path=self.pattern),))


class FolderSource:
    """Samples of a folder, one per key."""

    def __init__(self, root: Path, card: Card, labels: Sequence[str] = (), files: list[str] | None = None) -> None:
        self.root, self.card, self.name, self.licence = root, card, card.name, card.licence
        if not card.layers:
            raise UserError("the card declares no layer", where=card.place or card.name)
        self._label_cards = [x for x in card.labels if not labels or x.name in labels]
        missing = [n for n in labels if n not in [x.name for x in card.labels]]
        if missing:
            raise UserError(
                f"the card has no label '{missing[0]}'",
                where=card.place or card.name,
                remedy=f"it has: {', '.join(x.name for x in card.labels) or 'none'}",
            )
        self.sensors: tuple[Sensor, ...] = tuple(card.stored(x) for x in card.layers)
        self._files = scan(root) if files is None else files

    @cached_property
    def labels(self) -> Mapping[str, LabelSpec]:
        """What the labels mean."""
        return {x.name: x.spec() for x in self._label_cards}

    @cached_property
    def index(self) -> Index:
        """The paired files."""
        index = build_index(self.root, self.card, self._files)
        if not index.items:
            raise no_sample(self.card, index)
        return index

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the card and of every file's name, size and time."""
        digest = hashlib.sha256(self.card.digest.encode())
        for item in self.index.items:
            clouds = (a.clouds for a in item.images if a.clouds)
            for path in (*(a.path for a in item.images), *clouds, *item.labels.values()):
                stat = (self.root / path).stat()
                digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    @property
    def notes(self) -> tuple[str, ...]:
        """What did not pair, in words: it is left out."""
        pairs = (
            (self.index.images_without_label, "image", "label"),
            (self.index.labels_without_image, "label", "image"),
        )
        named = self.index.listed_only
        lost = (f"{len(named)} key(s) of the split lists have no image, for example {named[0]}",) if named else ()
        if bad := self.index.bad_dates:
            lost += (f"{len(bad)} image(s) whose date cannot be read are left out, for example {bad[0][0]}",)
        return lost + tuple(f"{len(p)} {a}(s) without {b} are left out, for example {p[0]}" for p, a, b in pairs if p)

    def __len__(self) -> int:
        return len(self.index.items)

    def splits(self) -> Mapping[str, Sequence[int]]:
        """Indices by split; samples without one are in `all`."""
        out: dict[str, list[int]] = {}
        for i, item in enumerate(self.index.items):
            out.setdefault(item.split or "all", []).append(i)
        return out

    def holds(self, index: int) -> set[str]:
        """The layers that a sample has files of."""
        return {a.layer for a in self.index.items[index].images}

    def files(self, index: int) -> list[Path]:
        """The rasters that a sample is read from, in the order of reading."""
        item = self.index.items[index]
        own = [c for c in self._label_cards if c.name in item.labels and not item.labels[c.name].endswith(VECTORS)]
        images = (p for a in item.images for p in (a.path, a.clouds) if p)
        return [self.root / p for p in (*images, *(item.labels[c.name] for c in own))]

    def sample(self, index: int, bands: Mapping[str, Sequence[str]] | None = None) -> Batch:
        """One key's layers and labels."""
        return self._reader.sample(self.index.items[index], bands)

    @cached_property
    def _reader(self) -> FolderReader:
        from swath.data.sources._folder_samples import FolderReader

        return FolderReader(self.root, self.card, self._label_cards)


MEMBER = FolderConfig
