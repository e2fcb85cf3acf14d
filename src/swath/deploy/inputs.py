"""What `map` and `embed` read: rasters, or a STAC item, collection or catalogue; all of it, or a place and dates.

`dates` is a span (`2024-05-01/2024-08-31`) that keeps what lies in it, or a list (`2024-05-01,2024-06-10`) whose every
day must be there: a day without an image is an error that names it, or, with `holes`, a timestep that saw nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import torch

from swath.core import Batch, Grid, Layer, Scene, Sensor, SwathError, UserError, Window
from swath.data.names import day_of
from swath.data.raster import RASTERS
from swath.data.scene import RasterScene, SceneHints, open_scene
from swath.data.stac import Query, StacScene, search

WORLD = (-180.0, -90.0, 180.0, 90.0)
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Wanted:
    """What of the input is wanted: `aoi` is west,south,east,north in degrees or a vector file (its bounds)."""

    aoi: str = ""
    dates: str = ""
    collection: str = ""
    cloud: float | None = None
    mask: str = ""
    holes: bool = False

    def box(self) -> Box | None:
        """The place in longitude and latitude."""
        if not self.aoi:
            return None
        if Path(self.aoi).exists():
            return _bounds(Path(self.aoi))
        try:
            west, south, east, north = (float(v) for v in self.aoi.split(","))
        except ValueError as why:
            raise UserError(
                f"'{self.aoi}' is no place and no file", where="--aoi", remedy="write west,south,east,north in degrees"
            ) from why
        if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
            raise UserError(f"a box is west,south,east,north in degrees, not {self.aoi}", where="--aoi")
        return west, south, east, north

    def listed(self) -> tuple[int, ...] | None:
        """The days that must be there; None for a span or for all."""
        if not self.dates or "/" in self.dates:
            return None
        return tuple(sorted({day_of(d, "--dates") for d in self.dates.split(",")}))

    def span(self) -> tuple[float, float]:
        """First and last day."""
        if (days := self.listed()) is not None:
            return days[0], days[-1]
        first, _, last = self.dates.partition("/")
        low = -math.inf if first in ("", "..") else day_of(first, "--dates")
        high = math.inf if last in ("", "..") else day_of(last, "--dates")
        if low > high:
            raise UserError(f"the span {self.dates} ends before it begins", where="--dates")
        return low, high


@dataclass(frozen=True)
class OpenInputs:
    """Opens rasters, or one catalogue, as a scene; worker processes carry it."""

    refs: tuple[str, ...]
    hints: SceneHints = field(default_factory=SceneHints)
    card: str = ""
    wanted: Wanted = field(default_factory=Wanted)

    def __call__(self) -> Scene:
        wanted = self.wanted
        if is_catalogue(self.refs):
            scene: Any = _from_stac(self.refs[0], self.hints, wanted)
        else:
            for name in ("collection", "cloud", "mask"):
                if getattr(wanted, name):
                    raise UserError(f"rasters have no {name} to choose by", where=f"--{name}")
            scene = open_scene(self.refs[0] if len(self.refs) == 1 else list(self.refs), self.card or None, self.hints)
        return view(scene, wanted) if wanted.aoi or wanted.dates else scene


def is_catalogue(refs: Sequence[str]) -> bool:
    """Whether the input is a STAC document or service, by its name."""
    if len(refs) != 1:
        return False
    path = urlsplit(refs[0]).path.lower() if "://" in refs[0] else refs[0].lower()
    if path.endswith((".json", ".geojson")):
        return True
    return refs[0].startswith(("http://", "https://")) and not path.endswith(RASTERS)


def derived_from(scene: Scene, refs: Sequence[str]) -> list[str]:
    """Addresses that a result is derived from: the items' own where there are any."""
    inner = scene.scene if isinstance(scene, View) else scene
    if not isinstance(inner, StacScene):
        return [str(r) for r in refs]
    return [str(i.get_self_href() or i.id) for i in inner.items]


def _from_stac(url: str, hints: SceneHints, wanted: Wanted) -> StacScene:
    box, (low, high) = wanted.box(), wanted.span()
    dates = f"{_iso(low - 1)}/{_iso(high + 1)}" if wanted.dates else ""  # their clock is UTC, our days are the sun's
    asked = Query(
        url, box or WORLD, wanted.collection, dates, wanted.cloud, hints.sensor, hints.bands,
        mask=cast(Any, wanted.mask), resample="bilinear",
    )  # fmt: skip
    if wanted.mask not in ("", "scl", "fmask"):
        raise UserError(f"clouds are masked by scl or fmask, not by '{wanted.mask}'", where="--mask")
    items = search(asked)
    if box is None:
        box = _one_place(items, url)
    scene = StacScene(items, replace(asked, bbox=box))
    if scene.sensors[0].kind != "classes":
        return scene
    return StacScene(items, replace(asked, bbox=box, resample="nearest"))


def _one_place(items: Sequence[Any], url: str) -> Box:
    """The box of items that all show one place."""
    boxes = {tuple(round(float(v), 3) for v in i.bbox) for i in items if i.bbox is not None and len(i.bbox) == 4}
    if len(boxes) != 1:
        raise UserError(
            f"{len(items)} items lie at {len(boxes)} places", where=url, remedy="say which place: --aoi W,S,E,N"
        )
    return cast(Box, tuple(float(v) for v in items[0].bbox))


def _iso(day: float) -> str:
    return ".." if math.isinf(day) else (date(1970, 1, 1) + timedelta(days=int(day))).isoformat()


def _bounds(file: Path) -> Box:
    import geopandas

    try:
        frame = geopandas.read_parquet(file) if file.suffix == ".parquet" else geopandas.read_file(file)
        west, south, east, north = (float(v) for v in frame.to_crs("OGC:CRS84").total_bounds)
    except Exception as why:
        raise UserError(f"the place cannot be read: {why}", where=str(file)) from why
    return west, south, east, north


def view(scene: Scene, wanted: Wanted) -> View:
    """A part of a scene; refuses a place that it does not show and days that it does not have."""
    window = scene.grid.window
    box = wanted.box()
    if box is not None and not isinstance(scene, StacScene):
        window = window_of(scene.grid, box)
    days: tuple[int, ...] | None = None
    if wanted.dates:
        have = scene.days if isinstance(scene, RasterScene | StacScene) else ()
        if not have:
            raise UserError("its images carry no dates", where="--dates", remedy="name the files by date, or leave it")
        days = _days(have, wanted)
        if isinstance(scene, RasterScene | StacScene):
            scene = scene.on(days)
    return View(scene, window, days)


def _days(have: Sequence[int], wanted: Wanted) -> tuple[int, ...]:
    listed, (low, high) = wanted.listed(), wanted.span()
    lacking = [d for d in listed or () if d not in have]
    if lacking and not wanted.holes:
        raise UserError(
            f"the scene has no image of {', '.join(_iso(d) for d in lacking)}",
            where=f"--dates; it has {', '.join(_iso(d) for d in have[:12])}{' ...' if len(have) > 12 else ''}",
            remedy="give the missing files, or pass --allow-holes to go on without those dates",
        )
    found = [d for d in have if low <= d <= high and (listed is None or d in listed)]
    if not found:
        raise UserError(
            f"the scene has no image within {wanted.dates}",
            where=f"--dates; it has {', '.join(_iso(d) for d in have[:12])}",
        )
    return listed or tuple(found)


def window_of(grid: Grid, box: Box) -> Window:
    """The pixels of a grid that a box of longitude and latitude touches."""
    from pyproj import Transformer

    if not grid.crs:
        raise UserError("the scene has no crs, so a place cannot be found in it", where="--aoi")
    west, south, east, north = Transformer.from_crs("OGC:CRS84", grid.crs, always_xy=True).transform_bounds(*box)
    corners = [grid.rowcol(x, y) for x in (west, east) for y in (south, north)]
    rows, cols = [r for r, _ in corners], [c for _, c in corners]
    top, left = math.floor(min(rows) + 1e-6), math.floor(min(cols) + 1e-6)
    bottom, right = math.ceil(max(rows) - 1e-6), math.ceil(max(cols) - 1e-6)
    window = Window(top, left, bottom - top, right - left).clip(grid.window)
    if not window.area:
        raise UserError(f"the scene does not show {box}", where="--aoi")
    return window


class View:
    """A window and some days of a scene. Ground beyond the window stays readable, as context for its edge."""

    def __init__(self, scene: Scene, window: Window, days: tuple[int, ...] | None = None) -> None:
        self.scene, self.window, self.days = scene, window, days
        self.grid: Grid = scene.grid.crop(window)
        self.sensors: tuple[Sensor, ...] = scene.sensors

    @property
    def fingerprint(self) -> str:
        text = f"{self.scene.fingerprint} {self.window} {self.days}"
        return hashlib.sha256(text.encode()).hexdigest()

    def read(self, window: Window, bands: Mapping[str, Sequence[str]] | None = None) -> Batch:
        batch = self.scene.read(window.shift(self.window.row, self.window.col), bands)
        if self.days is None:
            return batch
        return Batch({k: on_days(v, self.days) for k, v in batch.layers.items()}, batch.where, batch.labels)


def read_days(
    scene: Scene, window: Window, bands: Mapping[str, Sequence[str]] | None = None
) -> tuple[Batch, tuple[int, ...]]:
    """A window date by date, and the days whose images could not be read: they saw nothing there.

    Where every day fails, or there is one only, the first error is raised.
    """
    if isinstance(scene, View):
        inner, window, days = scene.scene, window.shift(scene.window.row, scene.window.col), scene.days
    else:
        inner, days = scene, None
    have = inner.days if isinstance(inner, RasterScene | StacScene) else ()
    parts: list[Batch] = []
    errors: list[Exception] = []
    lost: list[int] = []
    for day in have:
        assert isinstance(inner, RasterScene | StacScene)
        try:
            parts.append(inner.on((day,)).read(window, _present(inner.on((day,)), bands)))
        except (SwathError, OSError, ValueError) as why:
            errors.append(why)
            lost.append(day)
    if not parts:
        raise errors[0] if errors else UserError("the scene cannot be read, and it has no dates to leave out")
    layers: dict[str, Layer] = {}
    for name in dict.fromkeys(k for p in parts for k in p.layers):
        mine = [p.layers[name] for p in parts if name in p.layers]
        layers[name] = mine[0] if mine[0].times is None else on_days(_along_time(mine), days or _days_of(inner, name))
    return Batch(layers, parts[0].where, parts[0].labels), tuple(lost)


def _days_of(scene: Scene, sensor: str) -> tuple[int, ...]:
    """The dates of one sensor."""
    if isinstance(scene, RasterScene):
        return tuple(d for s in scene.stacks if s.card.id == sensor for d in s.dates if d is not None)
    return scene.days if isinstance(scene, StacScene) else ()


def _present(scene: Scene, bands: Mapping[str, Sequence[str]] | None) -> Mapping[str, Sequence[str]] | None:
    ids = {s.id for s in scene.sensors}
    return None if bands is None else {k: v for k, v in bands.items() if k in ids}


def _along_time(layers: Sequence[Layer]) -> Layer:
    """Layers of one sensor, one date each, as one in order of time."""
    first = layers[0]
    times = torch.cat([v.times for v in layers if v.times is not None], 1)
    x, valid = torch.cat([v.x for v in layers], 1), torch.cat([v.valid for v in layers], 1)
    return Layer(first.sensor, x, valid, times)


def on_days(layer: Layer, days: Sequence[int]) -> Layer:
    """A dated layer with exactly these timesteps; one that it does not have saw nothing."""
    if layer.times is None:
        return layer
    have = [int(t) for t in layer.times[0]]
    if have == list(days):
        return layer
    x = layer.x.new_zeros((1, len(days), *layer.shape[2:]))
    valid = layer.valid.new_zeros((1, len(days), *layer.valid.shape[2:]))
    for i, day in enumerate(days):
        if day in have:
            x[:, i], valid[:, i] = layer.x[:, have.index(day)], layer.valid[:, have.index(day)]
    return Layer(layer.sensor, x, valid, torch.tensor([list(days)], dtype=layer.times.dtype))
