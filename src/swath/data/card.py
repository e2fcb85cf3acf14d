"""A card: one data set's metadata as TOML. What each stored channel is, what its numbers mean, what the labels say.

A data set is a card, not a class. Values that nobody has verified are left out, never invented.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, field, replace
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from swath.core.config import parse
from swath.core.errors import UnknownName, UserError
from swath.core.label_kinds import LabelKind
from swath.core.sensor import Band, Kind, Sensor
from swath.core.sensors import SENSORS

if TYPE_CHECKING:
    from swath.core.contracts import LabelSpec

SKIP = "-"
"""The band name of a stored channel that nobody reads."""


@dataclass(frozen=True)
class LayerCard:
    """One stored stack of one sensor: its channels in file order, and physical = stored * scale + offset.

    With neither `unit`, `scale` nor `offset` the sensor's own storage convention holds. `unit` is the unit of
    stored * scale + offset when that is not the band's own (for example `linear` for radar power).
    Channel i of timestep t is stored at `first + t * stride + i`. `path` says where in the layout: a subfolder or
    file pattern, ids of tortilla leaves, names of HDF5 data sets, a column. `order` names the timesteps where the
    path has `{step}`, `dates_from` the metadata that holds their dates. `clouds` says where the layer's cloud masks lie
    in a folder, one an image; a pixel is not observed where a quarter of it holds one of the values `hides`.
    """

    sensor: str
    bands: tuple[str, ...]
    path: str = ""
    unit: str = ""
    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None
    name: str = ""
    gsd: float | None = None
    first: int = 0
    steps: int = 1
    stride: int = 0
    dates: tuple[str, ...] = ()
    dates_from: str = ""
    order: tuple[str, ...] = ()
    optional: bool = False
    clouds: str = ""
    hides: tuple[int, ...] = ()
    notes: str = ""

    def __post_init__(self) -> None:
        if bool(self.clouds) != bool(self.hides):
            raise ValueError(f"layer {self.id}: `clouds` (where masks lie) and `hides` (values that hide) go together")
        if not self.bands or set(self.bands) == {SKIP}:
            raise ValueError(f"layer {self.id} names no band")
        if self.steps < 1 or self.first < 0 or self.stride < 0:
            raise ValueError(f"layer {self.id}: steps >= 1, first >= 0 and stride >= 0 are needed")
        if self.scale == 0:
            raise ValueError(f"layer {self.id}: a scale of 0 erases the data")

    @property
    def id(self) -> str:
        """The layer's id in a Batch."""
        return self.name or self.sensor

    @property
    def wanted(self) -> tuple[str, ...]:
        """The bands that are read, in file order."""
        return tuple(b for b in self.bands if b != SKIP)

    @property
    def channels(self) -> int:
        """How many channels a file must have at least."""
        return self.first + (self.steps - 1) * (self.stride or len(self.bands)) + len(self.bands)

    def positions(self, wanted: tuple[int, ...]) -> list[list[int]]:
        """Stored channel per timestep and wanted index into `bands` (0-based)."""
        stride = self.stride or len(self.bands)
        return [[self.first + t * stride + i for i in wanted] for t in range(self.steps)]


@dataclass(frozen=True)
class LabelCard:
    """One label: classes in order, the stored `values` (0, 1, ... when not given) and values to `ignore`.

    `path` says where in the layout (subfolder, pattern, leaf, data set); `column` the attribute or table column;
    `key` the table column that holds the sample's key.
    """

    kind: str
    name: str = "label"
    classes: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    ignore: tuple[float, ...] = ()
    colours: tuple[str, ...] = ()
    path: str = ""
    column: str = ""
    key: str = "key"
    unit: str = ""
    scale: float = 1.0
    offset: float = 0.0
    low: float | None = None
    high: float | None = None
    gsd: float | None = None
    notes: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(LabelKind):
            raise ValueError(f"a label is one of {', '.join(get_args(LabelKind))}, not '{self.kind}'")
        if self.values and self.classes and len(self.values) != len(self.classes):
            raise ValueError(f"label {self.name}: {len(self.values)} values for {len(self.classes)} classes")

    @property
    def legend(self) -> dict[int, int]:
        """Stored value -> class index; empty when the classes are not known."""
        values = self.values or tuple(range(len(self.classes)))
        return {v: i for i, v in enumerate(values)}

    def spec(self) -> LabelSpec:
        from swath.core.contracts import LabelSpec

        return LabelSpec(
            self.name,
            cast(Any, self.kind),
            self.classes,
            self.colours,
            self.unit,
            self.low,
            self.high,
            self.gsd,
        )


@dataclass(frozen=True)
class SplitCard:
    """How the samples are divided. `rule` in words; `file` a JSON or CSV of keys beside the card; `sizes` published."""

    rule: str = ""
    file: str = ""
    sizes: dict[str, int] = field(default_factory=dict[str, int])
    names: dict[str, str] = field(default_factory=dict[str, str])
    buffer_m: float | None = None


@dataclass(frozen=True)
class OwnSensor:
    """A sensor that only this data set has."""

    id: str
    kind: Kind
    bands: tuple[Band, ...]
    nodata: float | None = None
    dtype: str = "float32"
    body: str = "earth"
    title: str = ""


@dataclass(frozen=True)
class Card:
    """One data set: what people choose by, and how its files are read. `layout` holds `kind` and its options."""

    name: str
    title: str = ""
    tasks: tuple[str, ...] = ()
    layers: tuple[LayerCard, ...] = ()
    labels: tuple[LabelCard, ...] = ()
    layout: dict[str, Any] = field(default_factory=dict[str, Any])
    splits: SplitCard = field(default_factory=SplitCard)
    sensors: tuple[OwnSensor, ...] = ()
    licence: str = ""
    citation: str = ""
    url: str = ""
    year: int | None = None
    samples: int | None = None
    size_gb: float | None = None
    coverage: str = ""
    gsd: tuple[float, ...] = ()
    groups: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict[str, str])
    statistics: dict[str, Any] = field(default_factory=dict[str, Any])
    notes: str = ""
    place: str = ""

    def __post_init__(self) -> None:
        for word, ids in (("layer", [x.id for x in self.layers]), ("label", [x.name for x in self.labels])):
            twice = sorted({i for i in ids if ids.count(i) > 1})
            if twice:
                raise ValueError(f"two of the {word}s are called '{twice[0]}': give one a `name`")
        kind = self.layout.get("kind", "folder")
        if kind != "folder" and any(x.clouds for x in self.layers):
            raise ValueError(f"cloud masks of a layer's own are read from folders, not from the layout '{kind}'")

    def sensor(self, name: str) -> Sensor:
        """A sensor of the card's own, or a known one."""
        for own in self.sensors:
            if own.id == name:
                return Sensor(own.id, own.kind, own.bands, own.nodata, own.dtype, own.body, own.title)
        return SENSORS.get(name)

    def stored(self, layer: LayerCard) -> Sensor:
        """The layer's sensor with the bands that are read, in file order, under the layer's id."""
        sensor = self.sensor(layer.sensor).select(layer.wanted)
        bands = sensor.bands if layer.gsd is None else tuple(replace(b, gsd=layer.gsd) for b in sensor.bands)
        return replace(sensor, id=layer.id, bands=bands)

    def layer(self, name: str) -> LayerCard:
        """The layer of this id."""
        for layer in self.layers:
            if layer.id == name:
                return layer
        raise UnknownName("layer", name, [x.id for x in self.layers], where=f"card {self.name}")

    @property
    def digest(self) -> str:
        """Hash of everything the card says."""
        return hashlib.sha256(repr(replace(self, place="")).encode()).hexdigest()


_RENAMED = {"layer": "layers", "label": "labels", "sensor": "sensors"}


def read_card(text: str | bytes, where: str, name: str = "") -> Card:
    """A card from TOML; `[[layer]]`, `[[label]]` and `[[sensor]]` are its tables. Only `UserError` leaves here."""
    try:
        data: dict[str, Any] = tomllib.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, ValueError) as why:
        raise UserError(f"the card is not TOML: {why}", where=where) from why
    data = {_RENAMED.get(k, k): v for k, v in data.items()}
    for own in data.get("sensors", []) if isinstance(data.get("sensors"), list) else []:
        if isinstance(own, dict):
            cast("dict[str, Any]", own)["bands"] = own.pop("band", own.get("bands"))
    try:
        card = parse({"name": name, **data, "place": where} if name else {**data, "place": where}, Card, where=where)
        for layer in card.layers:
            card.stored(layer)
    except UserError as error:
        if error.where == where or not error.where:
            raise
        raise UserError(error.what, where=f"{where}: {error.where}", remedy=error.remedy) from error
    except Exception as why:
        raise UserError(f"the card is not valid: {why}", where=where) from why
    return card


def load_card(path: str | Path) -> Card:
    """Read a card file."""
    file = Path(path)
    try:
        return read_card(file.read_bytes(), str(file), "")
    except OSError as why:
        raise UserError(f"the card cannot be read: {why.strerror}", where=str(file)) from why


def member(name: str, path: Traversable) -> Card:
    """Reader of the family of shipped cards."""
    return read_card(path.read_text(encoding="utf-8"), str(path), name)


def find_card(name: str, beside: Path | None = None) -> Card:
    """A card by file, by folder that holds `card.toml`, or by the name of a shipped one."""
    from swath.data.cards import CARDS

    options = [Path(name)] if beside is None else [beside / name, Path(name)]
    for file in options:
        if file.is_dir() and (file / "card.toml").is_file():
            return load_card(file / "card.toml")
        if file.suffix == ".toml" and file.is_file():
            return load_card(file)
    if name.endswith(".toml"):
        raise UserError("there is no such card file", where=name)
    return CARDS.get(name)
