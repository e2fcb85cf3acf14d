"""World: a planet from a seed. Any place, any day, any sensor, and every label, from one state.

world = World(7)
sites = world.sites(16, seed=1, near="cropland")
batch = world.batch(sites, 128, ["sentinel2-l2a", "sentinel1-rtc"], days=[19500, 19600], labels=["crop_type"])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch

from swath.core import (
    SENSORS,
    Batch,
    Grid,
    Label,
    Layer,
    Sensor,
    UnknownName,
    UserError,
    Where,
    Window,
    collate,
    seed_of,
)
from swath.core.config import digest
from swath.world import globe, labels, optics, radar, weather
from swath.world.ground import Ground, survey
from swath.world.moment import Moment, look
from swath.world.noise import Frame, Plane
from swath.world.places import Site, find_sites
from swath.world.shift import Shift
from swath.world.sky import Sky, sky

Bands: TypeAlias = Mapping[str, Sequence[str] | None] | Sequence[str]
Places: TypeAlias = Sequence[Site] | Sequence[tuple[float, float]]
MASKED = ("sentinel2-l2a", "hls-l30", "hls-s30", "modis", "planet-superdove")
ALIGN = 60.0
LARGEST = 2048


@dataclass(frozen=True)
class World:
    """A simulated Earth. `clouds` scales how cloudy it is (0 is clear); `shift` moves it along one axis by a dose.

    Products with a cloud mask of their own (Sentinel-2 L2A, Landsat SR, HLS, ...) have cloudy pixels invalid when
    `mask_clouds`; the values under the cloud are what the sensor saw either way.
    """

    seed: int
    clouds: float = 1.0
    mask_clouds: bool = True
    shift: Shift = field(default_factory=Shift)

    def shifted(self, axis: str, dose: float) -> World:
        """The same planet, observed off along one axis: `World(7).shifted("season", 0.5)`."""
        return replace(self, shift=Shift(axis, dose))

    def sites(self, n: int, seed: int = 0, near: str = "land", region: str | None = None) -> list[Site]:
        """`n` places on land (or near "cropland", "forest", "city", "water", "fire", ...), drawn by area."""
        return find_sites(self.seed, n, seed, near, self.shift.region(region))

    def frame(self, lonlat: Site | tuple[float, float], size: int, gsd: float = 10.0) -> Frame:
        """The window of `size` pixels around a place, snapped so that coarser pixels fit in."""
        lon, lat = (lonlat.lon, lonlat.lat) if isinstance(lonlat, Site) else lonlat
        x, y = globe.xy_of(lon, lat)
        step = ALIGN if abs(ALIGN / gsd - round(ALIGN / gsd)) < 1e-9 else gsd
        half = size * gsd / 2
        col, row = round((x - half) / step), round((-y - half) / step)
        return Frame(gsd, round(row * step / gsd), round(col * step / gsd), size, size)

    def batch(
        self,
        lonlat: Places,
        size: int,
        sensors: Bands,
        days: Sequence[int],
        labels: Sequence[str] = (),
        *,
        gsd: float = 10.0,
        key: Sequence[int] | None = None,
    ) -> Batch:
        """One sample a place: every sensor at its own gsd over `size` pixels of `gsd`, in physical units."""
        gsd = self.shift.gsd(gsd)
        frames = [self.frame(p, size, gsd) for p in lonlat]
        keys = list(key) if key is not None else [seed_of(self.seed, f.row, f.col, size) for f in frames]
        if len(keys) != len(frames):
            raise UserError(f"{len(keys)} keys for {len(frames)} places", where="world")
        return collate([self.window(f, sensors, days, labels, k) for f, k in zip(frames, keys, strict=True)])

    def window(
        self, frame: Frame, sensors: Bands, days: Sequence[int], labels: Sequence[str] = (), key: int = 0
    ) -> Batch:
        """The sample over one frame of the absolute pixel lattice."""
        if not days:
            raise UserError("no day is asked for", where="world", remedy="give days since 1970-01-01")
        chosen = _chosen(sensors)
        stage = Stage(self, frame, [self.shift.day(int(d)) for d in days], tuple(chosen))
        layers = {s.id: stage.layer(s) for s in chosen}
        found = {name: stage.label(name) for name in labels}
        lon, lat = globe.lonlat_of(*(np.array(v) for v in frame.grid.xy(frame.height / 2, frame.width / 2)))
        where = Where(torch.tensor([key]), torch.tensor([[float(lon), float(lat)]], dtype=torch.float64), (frame.grid,))
        return Batch(layers, where, found)

    def scene(self, lonlat: Site | tuple[float, float], size: int, sensors: Bands, days: Sequence[int]) -> WorldScene:
        """A large scene at 10 m, read by windows."""
        return WorldScene(self, self.frame(lonlat, size), tuple(_chosen(sensors)), tuple(days))

    def state(self, frame: Frame, days: Sequence[int]) -> list[Moment]:
        """The state itself on each day: cover, green and dry fractions, snow, flood, burns, ... over a frame."""
        ground = survey(frame, self.seed)
        return [look(ground, self.shift.day(int(d))) for d in days]


def comes_masked(sensor: str) -> bool:
    """Whether a product has a cloud mask of its own."""
    return sensor in MASKED or sensor.endswith("-sr")


def _chosen(sensors: Bands) -> list[Sensor]:
    """Sensors with their bands; what the world cannot show is refused."""
    wanted = dict(sensors) if isinstance(sensors, Mapping) else dict.fromkeys(sensors)
    found: list[Sensor] = []
    for name, bands in wanted.items():
        sensor = SENSORS.get(name)
        if sensor.body != "earth":
            raise UserError(f"the simulated Earth has no {name}: it looks at {sensor.body}", where="world")
        found.append(sensor if bands is None else sensor.select(list(bands)))
    return found


class Stage:
    """One window with everything computed once: grounds by pixel size, moments and skies by day."""

    def __init__(self, world: World, frame: Frame, days: Sequence[int], sensors: Sequence[Sensor]) -> None:
        self.world, self.frame, self.days, self.sensors = world, frame, list(days), sensors
        self._grounds: dict[float, Ground] = {}
        self._moments: dict[tuple[float, int], Moment] = {}
        self._skies: dict[tuple[float, int], Sky] = {}

    def fine(self, sensor: Sensor) -> Frame:
        """The frame whose state a sensor sees: the window's own pixels, or the sensor's where they are smaller."""
        if sensor.gsd >= self.frame.gsd * 0.999:
            return self.frame
        k = self.frame.gsd / sensor.gsd
        f = self.frame
        fine = Frame(sensor.gsd, round(f.row * k), round(f.col * k), round(f.height * k), round(f.width * k))
        if max(fine.shape) > LARGEST:
            raise UserError(f"{sensor.id} would need {fine.height} x {fine.width} pixels of {sensor.gsd:g} m here",
                            where="world", remedy="ask for a smaller size or gsd")  # fmt: skip
        return fine

    def ground(self, frame: Frame) -> Ground:
        if frame.gsd not in self._grounds:
            near = [s for s in self.sensors if s.kind == "optical"]
            self._grounds[frame.gsd] = survey(optics.margin(near, frame), self.world.seed)
        return self._grounds[frame.gsd]

    def moment(self, frame: Frame, day: int) -> Moment:
        key = (frame.gsd, day)
        if key not in self._moments:
            self._moments[key] = look(self.ground(frame), day, self.world.shift.warming)
        return self._moments[key]

    def sky(self, frame: Frame, day: int) -> Sky:
        key = (frame.gsd, day)
        if key not in self._skies:
            self._skies[key] = sky(self.ground(frame), day, self.world.clouds)
        return self._skies[key]

    def layer(self, sensor: Sensor) -> Layer:
        """The stack of one sensor over the window."""
        frame = self.fine(sensor)
        if sensor.kind in ("elevation", "classes"):
            x = weather.still(sensor, self.moment(frame, self.days[-1]), frame)
            return _layer(sensor, self._resize(x, sensor, frame)[None], None, None)
        planes: list[Plane] = []
        clear: list[Plane] = []
        palette = (
            optics.Palette(self.world.shift.sensor(sensor), self.ground(frame)) if sensor.kind == "optical" else None
        )
        for day in self.days:
            m = self.moment(frame, day)
            if palette is not None:
                s = self.sky(frame, day)
                x = optics.render(palette, m, s, frame, noise=self.world.shift.noise)
                weather.heat(x, sensor, m, s, frame)
                clear.append(self._share(_cut(s.cloud, m, frame), sensor, frame) < 0.25)
            elif sensor.kind == "sar":
                x = radar.render(sensor, m, frame)
            else:
                x = weather.daily(sensor, m, frame)
            planes.append(self._resize(x, sensor, frame))
        masked = self.world.mask_clouds and bool(clear) and comes_masked(sensor.id)
        return _layer(sensor, np.stack(planes), np.stack(clear) if masked else None, self.days)

    def _resize(self, x: Plane, sensor: Sensor, frame: Frame) -> Plane:
        if sensor.gsd <= frame.gsd * 1.001:
            return x
        shape = tuple(max(1, round(n * frame.gsd / sensor.gsd)) for n in x.shape[1:])
        big = weather.pool(x, (shape[0], shape[1]), nearest=sensor.kind == "classes", decibel=sensor.kind == "sar")
        return optics.store(big, sensor) if sensor.kind == "optical" else big

    def _share(self, plane: Plane, sensor: Sensor, frame: Frame) -> Plane:
        """The mean of a share over a sensor's pixels."""
        if sensor.gsd <= frame.gsd * 1.001:
            return plane
        h, w = (max(1, round(n * frame.gsd / sensor.gsd)) for n in plane.shape)
        return weather.pool(plane[None], (h, w))[0]

    def label(self, name: str) -> Label:
        """The label of this name over the window."""
        if name not in labels.LABELS:
            raise UnknownName("label", name, labels.LABELS, where="world")
        if name == "hires":
            return self._hires()
        moments = {d: self.moment(self.frame, d) for d in dict.fromkeys((self.days[0], self.days[-1]))}
        view = labels.View(self.frame, self.ground(self.frame), moments, lambda d: self.sky(self.frame, d), self.days,
                           self.world.shift.convention)  # fmt: skip
        return labels.draw(name, view)

    def _hires(self) -> Label:
        """True colour of the last day, four times finer and without clouds."""
        f = self.frame
        fine = Frame(f.gsd / 4, f.row * 4, f.col * 4, f.height * 4, f.width * 4)
        sensor = SENSORS.get("planet-superdove").select(["red", "green", "blue"])
        wide = optics.margin([sensor], fine)
        ground = survey(wide, self.world.seed)
        day = self.days[-1]
        x = optics.render(optics.Palette(sensor, ground), look(ground, day), sky(ground, day, 0.0), fine)
        value = torch.from_numpy(x)[None]
        return Label("image", value, torch.ones_like(value[:, :1], dtype=torch.bool))


def _cut(plane: Plane, m: Moment, frame: Frame) -> Plane:
    top, left = frame.row - m.ground.frame.row, frame.col - m.ground.frame.col
    return plane[top : top + frame.height, left : left + frame.width]


def _layer(sensor: Sensor, x: Plane, clear: Plane | None, days: Sequence[int] | None) -> Layer:
    values = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))[None]
    t, _, h, w = values.shape[1:]
    valid = torch.ones(1, t, 1, h, w, dtype=torch.bool)
    if clear is not None:
        valid &= torch.from_numpy(clear)[None, :, None]
    times = None if days is None else torch.tensor([list(days)], dtype=torch.int64)
    return Layer(sensor, values, valid, times)


@dataclass(frozen=True)
class WorldScene:
    """A scene of the simulated Earth (contract `core.contracts.Scene`): any window at constant memory."""

    world: World
    frame: Frame
    sensors: tuple[Sensor, ...]
    days: tuple[int, ...]

    @property
    def grid(self) -> Grid:
        return self.frame.grid

    @property
    def fingerprint(self) -> str:
        f = self.frame
        place = [f.gsd, f.row, f.col, f.height, f.width]
        return digest({"world": self.world, "frame": place, "sensors": [(s.id, s.names) for s in self.sensors],
                       "days": list(self.days)})  # fmt: skip

    def read(
        self, window: Window, bands: Mapping[str, Sequence[str]] | None = None, labels: Sequence[str] = ()
    ) -> Batch:
        """Every layer over a window of `grid`; pixels beyond the grid are invalid."""
        wanted: dict[str, Sequence[str] | None] = {s.id: list(s.names) for s in self.sensors}
        if bands is not None:
            unknown = [n for n in bands if n not in wanted]
            if unknown:
                raise UnknownName("sensor", unknown[0], wanted, where="world scene")
            wanted = dict(bands)
        f = self.frame
        part = Frame(f.gsd, f.row + window.row, f.col + window.col, window.height, window.width)
        batch = self.world.window(part, wanted, self.days, labels, key=seed_of(self.world.seed, part.row, part.col))
        inside = window.clip(self.grid.window)
        if inside == window:
            return batch
        return Batch({k: _outside(v, window, inside) for k, v in batch.layers.items()}, batch.where, batch.labels)


def _outside(layer: Layer, window: Window, inside: Window) -> Layer:
    """The layer with everything beyond the scene invalid."""
    h, w = layer.shape[3:]
    box = inside.within(window)
    rows = (torch.arange(h) + 0.5) * window.height / h
    cols = (torch.arange(w) + 0.5) * window.width / w
    keep = ((rows >= box.row) & (rows < box.stop[0]))[:, None] & ((cols >= box.col) & (cols < box.stop[1]))[None]
    valid = layer.valid & keep
    return Layer(layer.sensor, torch.where(valid | keep, layer.x, torch.zeros(())), valid, layer.times)


__all__: list[Any] = ["LARGEST", "Site", "World", "WorldScene"]
