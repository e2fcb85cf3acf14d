"""Any TorchGeo data set through one adapter: a thin adapter; the card says what its channels are.

A layer's `path` is the key of the sample (`image` by default), a label's likewise (`mask`, `label`, `bbox_xyxy`).
A data set of samples has them by split; one that is indexed by place is cut into a grid of windows, where wanted
together with a second one that holds its labels. Nothing is downloaded.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from swath.core.batch import Batch, Label, Layer
from swath.core.contracts import LabelSpec
from swath.core.errors import UnknownName, UserError
from swath.core.grid import Grid
from swath.core.sensor import Sensor
from swath.data.card import Card, LabelCard, find_card
from swath.data.decode import Pixels, Storage, layer_of, map_label, mask_label
from swath.data.labels import boxes_label, label_of
from swath.data.names import day_of
from swath.data.place import where

_EPOCH = dt.date(1970, 1, 1)


@dataclass(frozen=True)
class Beside:
    """A geographic data set of labels that is read at the same places."""

    name: str
    path: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class TorchgeoConfig:
    """`name` is the class (`LEVIRCD`), `path` its root, `options` its other arguments, `split_names` its splits.

    A geographic one (`Sentinel2`, `NAIP`) needs `window`, in pixels; `stride` is the window when 0; `beside` is the
    data set of its labels (`{name: CDL, path: cdl}`).
    """

    kind: ClassVar[str] = "torchgeo"
    name: str
    path: str
    card: str
    split_names: tuple[str, ...] = ("train", "val", "test")
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    window: int = 0
    stride: int = 0
    beside: Beside | None = None

    def build(self) -> TorchgeoSource:
        made = _class(self.name)
        if self.options.get("download") or (self.beside and self.beside.options.get("download")):
            raise UserError("nothing is downloaded here", where=self.name, remedy="fetch the data first")
        if _geographic(made):
            return TorchgeoSource(self, find_card(self.card), {"all": self._windows(made)})
        if self.window or self.beside:
            raise UserError(f"{self.name} has samples, not places: it takes no window", where=self.path)
        parts: dict[str, Any] = {}
        for split in self.split_names or ("all",):
            extra = {} if split == "all" else {"split": split}
            parts[split] = _open(made, self.path, {"root": self.path, **extra, **self.options})
        return TorchgeoSource(self, find_card(self.card), parts)

    def _windows(self, made: type) -> Windows:
        if self.window < 1:
            raise UserError(
                f"{self.name} is indexed by place, not by sample", where=self.path,
                remedy="give the side of the windows in pixels, for example `window: 256`",
            )  # fmt: skip
        data = _open(made, self.path, {_root(made): self.path, **self.options})
        if self.beside is not None:
            other = _class(self.beside.name)
            if not _geographic(other):
                raise UserError(f"{self.beside.name} is not indexed by place", where=self.beside.path)
            data = data & _open(other, self.beside.path, {_root(other): self.beside.path, **self.beside.options})
        return Windows(data, self.window, self.stride or self.window, self.path)


def _class(name: str) -> Any:
    try:
        import torchgeo.datasets as shelf
    except ImportError as why:
        raise UserError("TorchGeo is not installed", remedy="pip install swath[geo]") from why
    made: Any = getattr(shelf, name, None)
    if not isinstance(made, type):
        raise UnknownName("TorchGeo data set", name, shelf.__all__)
    return made


def _geographic(made: type) -> bool:
    import torchgeo.datasets as shelf

    return issubclass(made, shelf.GeoDataset)


def _root(made: type) -> str:
    """What the class calls its folder."""
    names = inspect.signature(made).parameters
    return "paths" if "paths" in names else "root"


def _open(made: Any, path: str, arguments: Mapping[str, Any]) -> Any:
    try:
        return made(**arguments)
    except Exception as why:
        raise UserError(
            f"TorchGeo cannot open {made.__name__}: {type(why).__name__} {str(why)[:200]}", where=path,
            remedy="check the folder, `options` and `split_names`",
        ) from why  # fmt: skip


class Windows:
    """A geographic data set cut into a grid: item i is what TorchGeo gives for the i-th window."""

    def __init__(self, data: Any, side: int, stride: int, path: str) -> None:
        from torchgeo.samplers import GridGeoSampler

        self.data = data
        self.queries = [q for q in GridGeoSampler(data, size=side, stride=stride)]
        if not self.queries:
            raise UserError(f"no place is as large as a window of {side} pixels", where=path)

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, index: int) -> dict[str, Any]:
        query = self.queries[index]
        held: dict[str, Any] = self.data[query]
        x, y, when = query
        shape = tuple(int(n) for n in np.asarray(held.get("image", held.get("mask"))).shape[-2:])
        across, down = (float(v.stop - v.start) for v in (x, y))
        affine = (across / shape[1], 0.0, float(x.start), 0.0, -down / shape[0], float(y.stop))
        code = self.data.crs.to_epsg()
        crs = f"EPSG:{code}" if code else self.data.crs.to_wkt()
        held["swath grid"] = Grid(crs, affine, (shape[0], shape[1]))
        if (when.stop - when.start).days <= 31:  # longer ones say that no file is dated
            held["swath day"] = (when.start.date() - _EPOCH).days
        return held


class TorchgeoSource:
    """Samples of all splits, one after the other."""

    def __init__(self, config: TorchgeoConfig, card: Card, parts: Mapping[str, Any]) -> None:
        self.config, self.card, self._parts = config, card, dict(parts)
        self.name, self.licence = card.name, card.licence
        self.sensors: tuple[Sensor, ...] = tuple(card.stored(x) for x in card.layers)
        self.labels: Mapping[str, LabelSpec] = {x.name: x.spec() for x in card.labels}
        self._rows = [(s, i) for s, p in self._parts.items() for i in range(len(p))]

    @property
    def names(self) -> list[str]:
        return [f"{s}/{i:07d}" for s, i in self._rows]

    @property
    def fingerprint(self) -> str:
        """Hash of the card, the options and the names and sizes of the files below the root."""
        digest = hashlib.sha256(f"{self.card.digest}{self.config!r}{len(self)}".encode())
        for file in sorted(p for p in Path(self.config.path).rglob("*") if p.is_file()):
            stat = file.stat()
            digest.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def splits(self) -> Mapping[str, Sequence[int]]:
        """Indices by TorchGeo's split."""
        out: dict[str, list[int]] = {}
        for i, (split, _) in enumerate(self._rows):
            out.setdefault(split, []).append(i)
        return out

    def sample(self, index: int, bands: Mapping[str, Sequence[str]] | None = None) -> Batch:
        """One sample's layers and labels."""
        split, row = self._rows[index]
        place = f"{self.config.name} {split}[{row}]"
        try:
            held: dict[str, Any] = self._parts[split][row]
        except Exception as why:
            raise UserError(f"it cannot be read: {type(why).__name__} {str(why)[:160]}", where=place) from why
        layers: dict[str, Layer] = {}
        for card in self.card.layers:
            if bands is not None and card.id not in bands:
                continue
            storage = Storage.of(self.card, card, None if bands is None else bands[card.id])
            stack = _stack(_of(held, card.path or "image", place), place)
            flat = [c for step in storage.channels() for c in step]
            if stack.shape[1] < card.channels:
                raise UserError(f"it has {stack.shape[1]} channels and the card names {card.channels}", where=place)
            part = stack[:, flat].reshape(-1, len(storage.index), *stack.shape[2:])
            times = [day_of(d, self.card.place) for d in card.dates] or None
            if times is None and "swath day" in held and len(part) == 1:
                times = [int(held["swath day"])]
            layers[card.id] = layer_of(part, storage, storage.nodata(None), times)
        if not layers:
            raise UserError("the sample has none of the wanted layers", where=place)
        size = next(iter(layers.values())).shape[3:]
        labels = {x.name: _label(held, x, place, (size[0], size[1])) for x in self.card.labels}
        grid = held.get("swath grid")
        return Batch(layers, where(f"{split}/{row:07d}", grid if isinstance(grid, Grid) else None), labels)


def _of(held: Mapping[str, Any], key: str, place: str) -> Any:
    if key not in held:
        raise UserError(f"the sample has no '{key}'", where=place, remedy=f"it has: {', '.join(map(str, held))}")
    return held[key]


def _stack(value: Any, place: str) -> Pixels:
    pixels = np.asarray(value)
    if pixels.ndim == 3:
        pixels = pixels[None]
    if pixels.ndim != 4:
        raise UserError(f"an image of shape {pixels.shape} is neither (C, H, W) nor (T, C, H, W)", where=place)
    return pixels


def _label(held: Mapping[str, Any], card: LabelCard, place: str, size: tuple[int, int]) -> Label:
    default = {"mask": "mask", "map": "mask", "boxes": "bbox_xyxy"}.get(card.kind, "label")
    value = _of(held, card.path or default, place)
    raw: Any = np.asarray(value)
    if card.kind == "mask":
        return mask_label(raw[0] if raw.ndim == 3 and raw.shape[0] == 1 else raw, card, place)
    if card.kind == "map":
        return map_label(raw if raw.ndim == 3 else raw[None], card)
    if card.kind == "boxes":
        kinds = np.asarray(_of(held, card.column or "label", place)).ravel()
        legend = card.legend
        pairs = zip(raw.reshape(-1, 4).tolist(), kinds.tolist(), strict=True)
        return boxes_label([(box, legend.get(int(k), int(k))) for box, k in pairs], size)
    if card.kind == "tags":
        return label_of(raw.ravel().tolist(), card, place)
    return label_of(raw.ravel()[0].item(), card, place)


MEMBER = TorchgeoConfig
