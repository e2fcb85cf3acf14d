"""Pixel time series without images: NumPy arrays (N, T, C) with companions, or a Parquet table, a row per key and date.

A sample is one pixel: layers (1, T, C, 1, 1). In a table each band is a column called by the band's name or alias
(`path` may give a form such as `s2_{band}`); a missing cell is an invalid timestep.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from swath.core.batch import Batch, Label, Layer
from swath.core.contracts import LabelSpec
from swath.core.errors import UserError
from swath.core.sensor import Sensor
from swath.data.card import Card, LayerCard, find_card
from swath.data.decode import Pixels, Storage, layer_of
from swath.data.labels import label_of
from swath.data.names import day_of, days_of, split_called
from swath.data.place import where


@dataclass(frozen=True)
class PixelsConfig:
    """A folder of .npy arrays, or a Parquet file. Names of companions and columns may be left empty where absent.

    `year` turns months (0 to 11) into dates of that year, rolling over where months fall; without it there are none.
    """

    kind: ClassVar[str] = "pixels"
    path: str
    card: str = ""
    values: str = "values.npy"
    latlon: str = "latlon.npy"
    months: str = ""
    dates: str = ""
    target: str = ""
    test: str = ""
    key: str = "key"
    split: str = "split"
    year: int | None = None

    def build(self) -> PixelsSource:
        path = Path(self.path)
        card = self._card(path)
        if not card.layers:
            raise UserError("the card declares no layer", where=card.place or card.name)
        if path.is_dir():
            return PixelsSource(card, _from_arrays(path, self, card))
        if path.suffix == ".parquet":
            return PixelsSource(card, _from_table(path, self, card))
        raise UserError("pixel series are a folder of .npy files or a .parquet file", where=self.path)

    def _card(self, path: Path) -> Card:
        if self.card:
            return find_card(self.card)
        beside = (path if path.is_dir() else path.parent) / "card.toml"
        if not beside.is_file():
            raise UserError(
                "pixel series do not say what their columns are",
                where=self.path,
                remedy="name a card, or put card.toml beside the data",
            )
        return find_card(str(beside))


@dataclass(frozen=True)
class Series:
    """What the files hold: per layer stored values (N, T, C); names, places, days (N, T), labels, splits."""

    files: tuple[Path, ...]
    values: Mapping[str, Pixels]
    names: tuple[str, ...]
    lonlat: Pixels
    days: Pixels | None
    labels: Mapping[str, Sequence[Any]]
    splits: tuple[str, ...]


class PixelsSource:
    """One pixel a sample."""

    def __init__(self, card: Card, series: Series) -> None:
        self.card, self.series, self.name, self.licence = card, series, card.name, card.licence
        self.sensors: tuple[Sensor, ...] = tuple(card.stored(x) for x in card.layers)
        self._cards = {x.name: x for x in card.labels if x.name in series.labels}
        self.labels: Mapping[str, LabelSpec] = {n: x.spec() for n, x in self._cards.items()}

    @property
    def names(self) -> tuple[str, ...]:
        return self.series.names

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the card and of the files' names, sizes and times."""
        digest = hashlib.sha256(self.card.digest.encode())
        for file in self.series.files:
            stat = file.stat()
            digest.update(f"{file.name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.series.names)

    def splits(self) -> Mapping[str, Sequence[int]]:
        """Indices by split; `all` where there is none."""
        out: dict[str, list[int]] = {}
        for i, split in enumerate(self.series.splits):
            out.setdefault(split_called(split) or "all", []).append(i)
        return out

    def sample(self, index: int, bands: Mapping[str, Sequence[str]] | None = None) -> Batch:
        """One pixel's layers and labels."""
        series = self.series
        layers: dict[str, Layer] = {}
        for card in self.card.layers:
            if bands is not None and card.id not in bands:
                continue
            storage = Storage.of(self.card, card, None if bands is None else bands[card.id])
            stack = series.values[card.id][index][:, list(storage.index), None, None]
            days = None if series.days is None else [int(d) for d in series.days[index]]
            layers[card.id] = layer_of(stack, storage, card.nodata, days)
        if not layers:
            raise UserError("the sample has none of the wanted layers", where=self.name)
        place = (float(series.lonlat[index, 0]), float(series.lonlat[index, 1]))
        labels: dict[str, Label] = {
            n: label_of(series.labels[n][index], c, f"{self.name}, {series.names[index]}")
            for n, c in self._cards.items()
        }
        return Batch(layers, where(series.names[index], None, place), labels)


def _load(path: Path) -> Pixels:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as why:
        raise UserError(f"the array cannot be read: {str(why)[:160]}", where=str(path)) from why


def _from_arrays(root: Path, config: PixelsConfig, card: Card) -> Series:
    files = [root / config.values]
    raw = _load(files[0])
    if raw.ndim != 3 or raw.dtype.kind not in "iuf":
        raise UserError(f"the values must be numbers (N, T, C), not {raw.dtype} {raw.shape}", where=str(files[0]))
    n, t, c = raw.shape

    def companion(name: str, shape: tuple[int, ...]) -> Pixels | None:
        if not name or (name == "latlon.npy" and not (root / name).exists()):
            return None
        files.append(root / name)
        held = _load(files[-1])
        if held.shape != shape:
            raise UserError(f"it has the shape {held.shape}; {shape} is needed", where=str(files[-1]))
        return held

    for layer in card.layers:
        if layer.first + len(layer.bands) > c:
            raise UserError(
                f"layer {layer.id} needs {layer.first + len(layer.bands)} channels, the file has {c}",
                where=str(files[0]),
            )
    latlon = companion(config.latlon, (n, 2))
    months = companion(config.months, (n, t))
    dates = companion(config.dates, (n, t))
    target = companion(config.target, (n,))
    test = companion(config.test, (n,))
    days: Pixels | None = None
    if dates is not None:
        days = np.array([[days_of(v.item(), str(root / config.dates)) for v in row] for row in dates])
    elif months is not None and config.year is not None:
        days = np.stack([_days_of_months(row, config.year, str(root / config.months)) for row in months])
    label = card.labels[0].name if card.labels else ""
    return Series(
        tuple(files),
        {x.id: raw[:, :, x.first : x.first + len(x.bands)] for x in card.layers},
        tuple(f"{i:07d}" for i in range(n)),
        np.full((n, 2), np.nan) if latlon is None else latlon[:, ::-1].astype(np.float64),
        days,
        {} if target is None or not label else {label: target.tolist()},
        tuple("" for _ in range(n)) if test is None else tuple("test" if v else "train" for v in test),
    )


def _days_of_months(months: Pixels, year: int, place: str) -> Pixels:
    if months.min() < 0 or months.max() > 11:
        raise UserError(f"months are counted from 0 to 11, there are {months.min()} to {months.max()}", where=place)
    out: list[int] = []
    last = -1
    for month in months.tolist():
        year += int(month < last)
        last = month
        out.append(day_of(f"{year:04d}-{int(month) + 1:02d}-15"))
    return np.array(out)


def _from_table(path: Path, config: PixelsConfig, card: Card) -> Series:
    from pyarrow import parquet

    try:
        table: Any = parquet.read_table(path)
    except Exception as why:
        raise UserError(f"the table cannot be read: {str(why)[:160]}", where=str(path)) from why
    if config.key not in table.column_names:
        raise UserError(
            f"there is no column '{config.key}'", where=str(path), remedy=f"columns: {', '.join(table.column_names)}"
        )
    keys = [str(k) for k in table.column(config.key).to_pylist()]
    date = config.dates or "date"
    has_dates = date in table.column_names
    stamps = [days_of(v, str(path)) for v in table.column(date).to_pylist()] if has_dates else [0] * len(keys)
    rows: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        rows.setdefault(key, []).append(i)
    order = {k: sorted(v, key=lambda i: stamps[i]) for k, v in rows.items()}
    steps = max((len(v) for v in order.values()), default=0)
    if steps == 0:
        raise UserError("the table is empty", where=str(path))
    place = np.full((len(order), steps), -1)
    for n, held in enumerate(order.values()):
        place[n, : len(held)] = held
    values = {x.id: _columns(table, x, card, place, path) for x in card.layers}
    first = place[:, 0]

    def once(name: str) -> list[Any] | None:
        return [table.column(name)[int(i)].as_py() for i in first] if name in table.column_names else None

    lon, lat = once("lon"), once("lat")
    nowhere: list[Any] = [np.nan] * len(order)
    days = np.where(place >= 0, np.array(stamps)[place], 0) if has_dates else None
    found = {x.name: (once(x.column or x.name)) for x in card.labels}
    return Series(
        (path,),
        values,
        tuple(order),
        np.array([lon or nowhere, lat or nowhere], dtype=np.float64).T,
        days,
        {k: v for k, v in found.items() if v is not None},
        tuple(str(s or "") for s in (once(config.split) or [""] * len(order))),
    )


def _columns(table: Any, layer: LayerCard, card: Card, place: Pixels, path: Path) -> Pixels:
    """Stored values (N, T, C) of a layer; NaN where a key has no row or the cell is empty."""
    columns = {str(c).lower(): str(c) for c in table.column_names}
    sensor = card.sensor(layer.sensor)
    parts: list[Pixels] = []
    for name in layer.bands:
        band = sensor.band(name)
        forms = [(layer.path or "{band}").replace("{band}", n).lower() for n in (name, band.name, *band.aliases)]
        column = next((columns[f] for f in forms if f in columns), None)
        if column is None:
            raise UserError(
                f"there is no column for band {band.name} of {layer.id}",
                where=str(path),
                remedy=f"looked for {', '.join(forms)}; columns: {', '.join(columns.values())}",
            )
        held = np.array([np.nan if v is None else v for v in table.column(column).to_pylist()], dtype=np.float64)
        parts.append(np.where(place >= 0, held[place], np.nan))
    return np.stack(parts, axis=-1)


MEMBER = PixelsConfig
