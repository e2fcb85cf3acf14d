"""The plan of a map: a fixed lattice of tiles, grouped into cells, each cell with a key. No engine, no input or output.

key = sha256(weights, scene, the cell's tiles, parameters, version). Every tile belongs to one cell and is computed
once; where tiles of two cells overlap, each keeps its weighted share and the assembly adds the shares in a fixed
order. So workers, order, shards and restarts cannot change a bit of the result.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

from swath.core import Batch, Grid, Scene, SwathError, UserError, Window
from swath.core.config import digest
from swath.deploy.blend import Axis
from swath.deploy.predictor import PredictorSpec

FORMAT = 5
"""Raised whenever the same inputs would give other pixels."""

CHEAP = 0.087
"""An overlap up to this share of a tile costs at most a fifth more pixels: (1 - 0.087)^-2 = 1.2."""

FAR = 4
"""So many cells of features from an end, an answer hears nothing of it, unless the model says how far it looks."""

OFTEN, TOO_OFTEN = 4.0, 64.0
"""A pixel computed more often than this is worth a word; more often than that, refused (tiles that
share seven eighths and more)."""

Precision = Literal["fp32", "bf16"]

BATCH: dict[Precision, int] = {"fp32": 4, "bf16": 16}
"""Tiles per forward on a processor: activations stay near its caches, and weights are fetched less often."""

BATCH_CUDA = 32
"""Enough rows for a GPU."""


@dataclass(frozen=True)
class MapSettings:
    """What decides the pixels of a map, beside model and scene. 0 and None mean: as the model advises.

    `overlap` is what neighbouring tiles share at least (by default what costs no more than a fifth); `batch`,
    `threads`, `device` and `precision` are here because they move the last bits of a float. `mosaic`: features of
    a cell's tiles are joined before anything is made of them, where the model can be asked so.
    """

    tile: int = 0
    overlap: int | None = None
    batch: int = 0
    precision: Precision = "fp32"
    device: str = "cpu"
    threads: int = 1
    cell: int = 1024
    proba: bool = False
    entropy: bool = False
    confidence: bool = False
    sets: bool = False
    mosaic: bool = True

    def resolved(self, spec: PredictorSpec) -> MapSettings:
        """With the model's advice filled in, and what cannot work refused."""
        tile = self.tile or spec.tile
        if tile % spec.multiple:
            raise UserError(
                f"tiles of {tile} pixels do not suit {spec.name}",
                where="--tile",
                remedy=f"choose a multiple of {spec.multiple}",
            )
        overlap = advised(tile, spec, self.mosaic) if self.overlap is None else self.overlap
        if not 0 <= overlap < tile:
            raise UserError(
                f"tiles of {tile} pixels cannot overlap by {overlap}", where="--overlap", remedy=f"0 to {tile - 1}"
            )
        batch = self.batch or (BATCH[self.precision] if self.device == "cpu" else BATCH_CUDA)
        if min(batch, self.threads, self.cell) < 1:
            raise UserError("batch, threads and cell must be 1 or more", where="settings")
        if spec.label.kind != "mask" and (self.proba or self.entropy or self.confidence or self.sets):
            gives = "objects" if spec.label.kind == "boxes" else "values"
            raise UserError(
                f"{spec.name} gives {gives}, not classes: it has no probabilities, entropy or sets", where="settings"
            )
        if self.sets and spec.conformal is None:
            raise UserError(
                f"{spec.name} carries no conformal threshold, so the size of a prediction set is unknown",
                where="--sets",
                remedy="calibrate the bundle first",
            )
        return replace(self, tile=tile, overlap=overlap, batch=batch)


def joins(tile: int, spec: PredictorSpec) -> bool:
    """Whether features of such tiles can be joined: they hold whole pairs of cells, which is what decoders pool."""
    return spec.stride > 0 and spec.label.kind != "boxes" and tile % (2 * spec.stride) == 0


def advised(tile: int, spec: PredictorSpec, mosaic: bool = True) -> int:
    """The default overlap: within `CHEAP`, tiles in phase with the model's patches if it can be, then room for a halo.

    Tiles that start on one lattice of patches see the same patches: out of phase they differ far more where they meet
    than a halo could mend (`benchmarks/map_seams.py`). For objects it is a quarter of the tile: only what fits into an
    overlap is sure to lie whole in some tile. Where features are joined it is whole cells of them, if only none: what
    is left of `blend.COSTS` goes where two units of work meet (`blend.in_cells`).
    """
    if mosaic and joins(tile, spec):
        return tile // 14 // spec.stride * spec.stride
    if spec.label.kind == "boxes":
        return max(1, tile // 4 // spec.multiple * spec.multiple or tile // 4)
    whole = 2 * spec.halo + 2
    least = max(tile // 14, whole if whole <= CHEAP * tile else 0)
    step = spec.multiple
    while step > 1:
        up, down = -(-least // step) * step, least // step * step
        if up <= CHEAP * tile:
            return min(up, tile - 1)
        if 2 * down >= least:
            return down
        step = step // 2 if step % 2 == 0 else 1
    return min(least, tile - 1)


def lattice(settings: MapSettings, spec: PredictorSpec, coarse: int) -> tuple[int, int]:
    """Multiples on which tiles start, and on which joined features do: 0 where they cannot be joined. `coarse`: the
    pixels of the coarsest layer."""
    overlap, tile = settings.overlap or 0, settings.tile
    align = math.lcm(coarse, math.gcd(spec.multiple, overlap or spec.multiple))
    align = align if align <= tile - overlap else coarse
    if not settings.mosaic or not joins(tile, spec) or align % spec.stride:
        return align, 0
    pairs = math.lcm(align, 2 * spec.stride)
    return align, pairs if tile % pairs == 0 and overlap <= tile - pairs else 0


@dataclass(frozen=True)
class Shaping:
    """`min_area` in square metres, on the ellipsoid; `simplify` is a tolerance in the crs's unit, topology kept."""

    min_area: float = 0.0
    simplify: float = 0.0


@dataclass(frozen=True)
class Cell:
    """The unit of work: rows `row` and columns `col` of cells; `read` is the ground its tiles cover, unclipped."""

    index: int
    row: int
    col: int
    read: Window
    key: str

    @property
    def name(self) -> str:
        return f"{self.row:04d}-{self.col:04d}-{self.key[:16]}"


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything about a map that can be known before a model runs."""

    grid: Grid
    spec: PredictorSpec
    settings: MapSettings
    fingerprint: str
    align: int = 1
    steps: int = 1
    dates: tuple[int, int] | None = None
    phase: int = 0
    """Multiple on which joined features start; 0 where tiles are answered one by one."""

    @classmethod
    def of(cls, scene: Scene, spec: PredictorSpec, settings: MapSettings) -> Plan:
        """Lay the lattice over a scene; reads one small window, to learn how the layers' resolutions fit."""
        if min(scene.grid.shape) < 1:
            raise UserError("the scene has no pixels", where=str(scene.grid.shape))
        have = {s.id: s for s in scene.sensors}
        usable = [i for i in spec.inputs if i.sensor in have]
        lacking = [i.sensor for i in spec.inputs if i.required and i.sensor not in have]
        if lacking or not usable:
            raise UserError(
                f"{spec.name} needs {', '.join(lacking or [i.sensor for i in spec.inputs])}; the scene has "
                f"{', '.join(have) or 'nothing'}",
                where="scene",
                remedy="give the missing product too, or say which sensor a file is",
            )
        for item in usable:
            sensor = have[item.sensor]
            known = {n.lower() for own in sensor.bands for n in (own.name, *own.aliases)}
            lacking = [b for b in item.bands if b.lower() not in known]
            if lacking:
                raise UserError(
                    f"{spec.name} needs {', '.join(lacking)} of {item.sensor}; the scene has {', '.join(sensor.names)}",
                    where="scene",
                    remedy="give all the bands that the model was tuned on, or name those of the file with --bands",
                )
        wanted, settings = settings, settings.resolved(spec)
        coarse, steps, dates = probe(scene, {i.sensor: i.bands for i in usable}, settings.tile)
        align, phase = lattice(settings, spec, coarse)
        if settings.mosaic and not phase:
            settings = replace(wanted, mosaic=False).resolved(spec)
            align, _ = lattice(settings, spec, coarse)
        plan = cls(scene.grid, spec, settings, scene.fingerprint, align, steps, dates, phase)
        if plan.repeats > TOO_OFTEN:
            raise UserError(
                f"tiles of {settings.tile} pixels that share {settings.overlap} compute every pixel "
                f"{plan.repeats:,.0f} times",
                where="--overlap",
                remedy=f"at most {settings.tile - math.ceil(settings.tile / math.sqrt(TOO_OFTEN) / align) * align}; "
                f"the model's own advice is {advised(settings.tile, spec)}",
            )
        return plan

    @cached_property
    def rows(self) -> Axis:
        return self._axis(self.grid.shape[0])

    @cached_property
    def cols(self) -> Axis:
        return self._axis(self.grid.shape[1])

    def _axis(self, length: int) -> Axis:
        s = self.settings
        place = {"halo": self.spec.halo, "align": self.align, "cell": s.cell, "phase": self.phase}
        return Axis.of(length, s.tile, s.overlap or 0, **place)

    @property
    def margin(self) -> int:
        """Pixels about a block of joined features that are answered and thrown away: 0 where none are joined."""
        return math.ceil((self.spec.reach or FAR * self.spec.stride) / self.phase) * self.phase if self.phase else 0

    @cached_property
    def digest(self) -> str:
        """Identity of the whole map."""
        from swath import __version__

        return digest(
            {
                "format": FORMAT,
                "version": __version__,
                "weights": self.spec.digest,
                "label": asdict(self.spec.label),
                "conformal": self.spec.conformal,
                "inputs": [asdict(i) for i in self.spec.inputs],
                "halo": self.spec.halo,
                "extras": list(self.spec.extras),
                "scene": self.fingerprint,
                "grid": asdict(self.grid),
                "align": self.align,
                "phase": self.phase,
                "margin": self.margin,
                "settings": asdict(self.settings),
            }
        )

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """In row order."""
        out: list[Cell] = []
        tile = self.settings.tile
        for i, (r0, r1) in enumerate(self.rows.groups):
            for j, (c0, c1) in enumerate(self.cols.groups):
                top, left = self.rows.places[r0], self.cols.places[c0]
                read = Window(top, left, self.rows.places[r1 - 1] + tile - top, self.cols.places[c1 - 1] + tile - left)
                key = digest({"map": self.digest, "cell": [i, j], "read": [read.row, read.col, *read.shape]})
                out.append(Cell(len(out), i, j, read, key))
        return tuple(out)

    def manifest(self) -> dict[str, Any]:
        """What is written beside the cells, for people."""
        return {"grid": asdict(self.grid), "settings": asdict(self.settings), "weights": self.spec.digest}

    def tiles(self, cell: Cell) -> list[tuple[int, int]]:
        """(row, column) indices of a cell's tiles in the lattice, in row order."""
        rows, cols = range(*self.rows.groups[cell.row]), range(*self.cols.groups[cell.col])
        return [(r, c) for r in rows for c in cols]

    def tile_window(self, row: int, col: int) -> Window:
        return Window(self.rows.places[row], self.cols.places[col], self.settings.tile, self.settings.tile)

    def shard(self, text: str) -> tuple[Cell, ...]:
        """The cells of part `i/n` (i from 1)."""
        i, n = parse_shard(text)
        return self.cells[i - 1 :: n]

    @property
    def computed(self) -> float:
        """Pixels that the model computes per output pixel."""
        tiles = len(self.rows.places) * len(self.cols.places)
        return tiles * self.settings.tile**2 / (self.grid.shape[0] * self.grid.shape[1])

    @property
    def repeats(self) -> float:
        """How often a pixel under the tiles is computed: as `computed`, but for what lies outside a small scene."""
        return math.prod(a.tile * len(a.places) / (a.places[-1] + a.tile) for a in (self.rows, self.cols))

    @property
    def layers(self) -> dict[str, tuple[str, int]]:
        """Name of each output -> (dtype, bands)."""
        k, s = self.spec.channels, self.settings
        extras = {name: ("float32", 1) for name in self.spec.extras}
        if self.spec.label.kind == "boxes":
            return {}
        if self.spec.label.kind != "mask":
            return {"value": ("float32", k), **extras}
        wanted = {
            "class": ("uint8" if k <= 255 else "uint16", 1),
            "proba": ("uint16", k) if s.proba else None,
            "entropy": ("uint16", 1) if s.entropy else None,
            "confidence": ("uint16", 1) if s.confidence else None,
            "sets": ("uint8" if k <= 254 else "uint16", 1) if s.sets else None,
        }
        return {**{name: v for name, v in wanted.items() if v is not None}, **extras}

    @property
    def bytes_per_pixel(self) -> int:
        size = {"uint8": 1, "uint16": 2, "float32": 4}
        return sum(size[t] * n for t, n in self.layers.values())

    def memory(self) -> int:
        """Bytes that one worker holds above model and libraries: a cell being computed and one read ahead."""
        steps = self.steps
        edge = max(max(c.read.shape) for c in self.cells)
        bands = sum(len(i.bands) for i in self.spec.inputs)
        reading = 2 * edge**2 * bands * steps * 5
        computing = edge**2 * (self.spec.planes * 8 + self.bytes_per_pixel + 8)
        batch = self.settings.batch * self.settings.tile**2 * (bands * steps * 8 + self.spec.channels * 8)
        joined = edge**2 // self.spec.stride**2 * self.spec.width * 4 if self.phase else 0
        return int(reading + computing + batch + joined)

    def disk(self) -> int:
        """Bytes at the worst moment: finished cells, the raw raster, the final file before its compression; the latter
        two with overviews."""
        return int(self.grid.shape[0] * self.grid.shape[1] * self.bytes_per_pixel * (1 + 4 / 3 + 4 / 3))


def parse_shard(text: str) -> tuple[int, int]:
    """`i/n` as two numbers."""
    first, _, last = text.partition("/")
    if not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        raise UserError(f"'{text}' is no shard", where="--shard", remedy="write i/n with 1 <= i <= n, such as 3/16")
    return int(first), int(last)


def _first_read(scene: Scene, bands: dict[str, tuple[str, ...]] | None, tile: int) -> Batch:
    """A small window: the first, or, where that cannot be read, the last or the middle one."""
    h, w = scene.grid.shape
    last = max(0, h - tile) // tile * tile, max(0, w - tile) // tile * tile
    places = dict.fromkeys([(0, 0), last, (last[0] // tile // 2 * tile, last[1] // tile // 2 * tile)])
    errors: list[Exception] = []
    for row, col in places:
        try:
            return scene.read(Window(row, col, tile, tile), bands)
        except (SwathError, OSError, ValueError) as why:
            errors.append(why)
    raise errors[0]


def probe(scene: Scene, bands: dict[str, tuple[str, ...]] | None, tile: int) -> tuple[int, int, tuple[int, int] | None]:
    """What one small read says: pixel sizes as one multiple on which tiles start, number of dates, first and last."""
    probe = _first_read(scene, bands, tile)
    align, steps = 1, 1
    days: list[int] = []
    for name, layer in probe.layers.items():
        steps = max(steps, layer.shape[1])
        if layer.times is not None:
            days += [int(d) for d in layer.times.flatten()]
        for size in layer.shape[3:]:
            coarse, rest = divmod(tile, size)
            if rest and size % tile:
                raise UserError(
                    f"a tile of {tile} pixels is {size} pixels of {name}: no whole ratio",
                    where="--tile",
                    remedy="choose a tile that is a multiple of every layer's pixel size",
                )
            align = math.lcm(align, max(1, coarse))
    return align, steps, (min(days), max(days)) if days else None
