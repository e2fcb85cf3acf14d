"""The simulated Earth as a data set: sites drawn per split, rendered when asked for, the same for any worker.

`dates` are month-days of `year` (or of the year of an event at the site with `offsets`, in days from it). A `shift`
holds for the splits in `shift_splits` only, so that an in- and out-of-distribution pair is one line.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from swath.core.config import digest
from swath.core.errors import UnknownName, UserError
from swath.core.rng import numpy_generator, seed_of
from swath.core.sensors import SENSORS

if TYPE_CHECKING:
    from swath.core.batch import Batch
    from swath.core.contracts import LabelSpec
    from swath.core.sensor import Sensor
    from swath.world import Site, World

EARTH_KM = 6371.0


@dataclass(frozen=True)
class WorldShift:
    """An axis of `swath.world.AXES` and its dose, 0 to 1."""

    axis: str = "none"
    dose: float = 0.0


@dataclass(frozen=True)
class WorldConfig:
    """A sample of the planet `seed`. `sensors` names bands per sensor (an empty list: all of them).

    `chips` says how many per split; sites of different splits are `buffer_km` apart at least. `missing` is the share
    of chips that lack a sensor, in the splits of `missing_splits`. `keep` rendered chips stay in memory.
    """

    kind: ClassVar[str] = "world"
    seed: int = 7
    sensors: dict[str, tuple[str, ...]] = field(default_factory=lambda: {"sentinel2-l2a": ()})
    labels: tuple[str, ...] = ()
    chips: dict[str, int] = field(default_factory=lambda: {"train": 64, "val": 32, "test": 32})
    size: int = 64
    gsd: float = 10.0
    near: str = "land"
    region: str = ""
    regions: dict[str, str] = field(default_factory=dict[str, str])
    year: int = 2021
    dates: tuple[str, ...] = ("03-20", "06-20", "09-20", "12-20")
    offsets: tuple[int, ...] = ()
    clouds: float = 1.0
    mask_clouds: bool = True
    shift: WorldShift = field(default_factory=WorldShift)
    shift_splits: tuple[str, ...] = ("test",)
    missing: dict[str, float] = field(default_factory=dict[str, float])
    missing_splits: tuple[str, ...] = ("test",)
    buffer_km: float = 5.0
    keep: int = 4096

    def build(self) -> WorldSource:
        return WorldSource(self)


def days_of(dates: Sequence[str], year: int) -> list[int]:
    """Month-days (`06-20`), or whole dates, as days since 1970-01-01."""
    found: list[int] = []
    for text in dates:
        try:
            whole = np.datetime64(text if text.count("-") == 2 else f"{year}-{text}", "D")
        except ValueError:
            raise UserError(f"'{text}' is no date", where="world, dates", remedy="write 06-20 or 2021-06-20") from None
        found.append(int(whole.astype(np.int64)))
    return found


class WorldSource:
    """A core Source over the simulated Earth."""

    name = "world"
    licence = "CC0-1.0"

    def __init__(self, config: WorldConfig) -> None:
        from swath.world import LABELS, Shift, World

        self.config = config
        for label in config.labels:
            if label not in LABELS:
                raise UnknownName("label", label, LABELS, where="world")
        self.labels: Mapping[str, LabelSpec] = {n: LABELS[n] for n in config.labels}
        self.sensors: tuple[Sensor, ...] = tuple(
            SENSORS.get(s).select(b) if b else SENSORS.get(s) for s, b in config.sensors.items()
        )
        if not self.sensors:
            raise UserError("a world without a sensor shows nothing", where="world", remedy="name one in `sensors`")
        home = World(config.seed, clouds=config.clouds, mask_clouds=config.mask_clouds)
        self._worlds: dict[str, World] = {"home": home}
        moved = replace(home, shift=Shift(config.shift.axis, config.shift.dose))
        self._worlds |= {s: moved for s in config.shift_splits}
        self._days = days_of(config.dates, config.year)
        self._kept: OrderedDict[int, Batch] = OrderedDict()

    @property
    def fingerprint(self) -> str:
        from swath import __version__

        return digest({"world": __version__, "config": replace(self.config, keep=0)})

    @cached_property
    def _index(self) -> list[tuple[str, Site]]:
        """(split, site) per sample; a site too near to one of another split is left out and another drawn."""
        taken: dict[str, list[tuple[float, float]]] = {}
        rows: list[tuple[str, Site]] = []
        for split, n in self.config.chips.items():
            others = [p for s, v in taken.items() if s != split for p in v]
            mine: list[Site] = []
            for spare in (n // 20 + 2, n // 4 + 8, n + 16):
                draw = self._draw(split, n + spare if others else n)
                mine = [s for s in draw if _apart((s.lon, s.lat), others, self.config.buffer_km)][:n]
                if len(mine) == n:
                    break
            if len(mine) < n:
                raise UserError(
                    f"only {len(mine)} of {n} sites of '{split}' are {self.config.buffer_km:g} km from the others",
                    where="world",
                    remedy="ask for fewer chips, a wider region or a smaller buffer_km",
                )
            taken[split] = [(s.lon, s.lat) for s in mine]
            rows += [(split, s) for s in mine]
        return rows

    def _draw(self, split: str, n: int) -> list[Site]:
        if n == 0:
            return []
        c = self.config
        world = self._worlds.get(split, self._worlds["home"])
        seed = seed_of(c.seed, "sites", split) % (1 << 31)
        return world.sites(n, seed=seed, near=c.near, region=c.regions.get(split, c.region) or None)

    def __len__(self) -> int:
        return sum(self.config.chips.values())

    def splits(self) -> Mapping[str, Sequence[int]]:
        found: dict[str, Sequence[int]] = {}
        start = 0
        for split, n in self.config.chips.items():
            found[split] = range(start, start + n)
            start += n
        return found

    def sample(self, index: int, bands: Mapping[str, Sequence[str]] | None = None) -> Batch:
        """The chip at `index`; a chip is rendered whole once and kept, then bands are picked from it."""
        from swath.core.batch import Batch

        if not 0 <= index < len(self):
            raise UserError(f"there is no sample {index}; the last one is {len(self) - 1}", where="world")
        whole = self._kept.get(index)
        if whole is None:
            whole = self._render(index)
            self._kept[index] = whole
            while len(self._kept) > self.config.keep:
                self._kept.popitem(last=False)
        if bands is None:
            return whole
        for name in bands:
            if name not in self.config.sensors:
                raise UnknownName("sensor", name, self.config.sensors, where="world")
        layers = {k: whole.layers[k].select(list(v)) for k, v in bands.items() if k in whole.layers}
        return Batch(layers, whole.where, whole.labels)

    def _render(self, index: int) -> Batch:
        c = self.config
        split, site = self._index[index]
        world = self._worlds.get(split, self._worlds["home"])
        days = self._days
        if c.offsets:
            if site.day is None:
                raise UserError("offsets count from an event, and this place has none", where=f"world, near {c.near}",
                                remedy="draw sites near fire or flood, or give dates")  # fmt: skip
            days = [site.day + o for o in c.offsets]
        sensors: dict[str, Sequence[str] | None] = {
            s.id: list(s.names) for s in self.sensors if not self._absent(split, index, s.id)
        }
        if not sensors:
            sensors = {self.sensors[0].id: list(self.sensors[0].names)}
        return world.batch([site], c.size, sensors, days, c.labels, gsd=c.gsd, key=[seed_of(c.seed, split, index)])

    def _absent(self, split: str, index: int, sensor: str) -> bool:
        share = self.config.missing.get(sensor, 0.0)
        if not share or split not in self.config.missing_splits:
            return False
        return bool(numpy_generator(self.config.seed, index, split, sensor, "missing").random() < share)


def _apart(place: tuple[float, float], others: Sequence[tuple[float, float]], km: float) -> bool:
    """Whether a place is farther than `km` from all others, on the sphere."""
    if not others or km <= 0:
        return True
    lon, lat = np.radians(np.asarray(others).T)
    here = np.radians(place)
    half = np.sin((lat - here[1]) / 2) ** 2 + np.cos(lat) * np.cos(here[1]) * np.sin((lon - here[0]) / 2) ** 2
    return bool((2 * EARTH_KM * np.arcsin(np.sqrt(np.clip(half, 0, 1)))).min() > km)


MEMBER = WorldConfig
