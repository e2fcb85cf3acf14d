"""`map_scene`: plan, work through the cells, assemble, publish. Run it again after anything, and it goes on."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from swath.core import Batch, Grid, Scene, Sensor, SwathError, UserError, Window
from swath.deploy.assemble import assemble, attribute_table, output_path, quicklook
from swath.deploy.commit import CellStore, Commit, disk_error, publish
from swath.deploy.inputs import derived_from
from swath.deploy.item import encode, map_item
from swath.deploy.plan import OFTEN, Cell, MapSettings, Plan, Shaping, parse_shard
from swath.deploy.predictor import OpenPredictor, OpenScene, Predictor, prepared
from swath.deploy.runner import Work, answer_cell, run_local, worker

VECTORS = (".parquet", ".gpkg", ".fgb")


@dataclass(frozen=True)
class MapRun:
    """How the work is done, which cannot change a pixel."""

    workers: int = 1
    shard: str = ""
    engine: Literal["local", "ray"] = "local"
    address: str = ""
    allow_holes: bool = False
    keep_cells: bool = False
    vectors: Path | None = None
    shaping: Shaping = field(default_factory=Shaping)
    stall_s: float = 3600.0
    iou: float = 0.5


@dataclass(frozen=True)
class Progress:
    """Where the work stands; handed to `tell` after every cell, and before the first one when tiles overlap much."""

    done: int
    total: int
    km2: float
    seconds: float
    left_s: float
    repeats: float = 1.0

    @property
    def words(self) -> str:
        """A line for people; before the first cell (no speed yet) it says what a large overlap costs."""
        if self.seconds == 0:
            return f"every pixel is computed {self.repeats:.3g} times; a smaller --overlap is faster"
        return f"{self.done}/{self.total} cells, {self.km2_per_s:.3g} km2/s, {self.left_s:.0f} s left"

    @property
    def km2_per_s(self) -> float:
        return self.km2 / max(self.seconds, 1e-9)


Tell = Callable[[Progress], None]


@dataclass(frozen=True)
class Mapped:
    """What came of it. `files` is empty when this shard is done and others are not; `holes` are as in `Commit`."""

    files: Mapping[str, Path]
    cells: int
    computed: int
    seconds: float
    holes: tuple[tuple[int, ...], ...] = ()
    already: bool = False
    waiting: int = field(default=0)

    def facts(self) -> dict[str, Any]:
        return {
            "files": {k: str(v) for k, v in self.files.items()},
            "cells": self.cells,
            "computed": self.computed,
            "seconds": round(self.seconds, 3),
            "holes": sum(len(h) == 4 for h in self.holes),
            "gaps": sum(len(h) == 5 for h in self.holes),
            "already": self.already,
            "waiting": self.waiting,
        }


def pixel_km2(plan: Plan) -> float:
    """Ground of one pixel at the scene's centre, on the ellipsoid; 0 where the grid has no crs."""
    from pyproj import CRS

    from swath.deploy.compute import lonlat_of

    if not plan.grid.crs:
        return 0.0
    h, w = plan.grid.shape
    ring = [(h / 2 + a, w / 2 + b) for a, b in ((0, 0), (0, 1), (1, 1), (1, 0))]
    lon, lat = zip(*(lonlat_of(plan.grid.crs, *plan.grid.xy(r, c)) for r, c in ring), strict=True)
    geod = CRS.from_user_input(plan.grid.crs).get_geod()
    return abs(geod.polygon_area_perimeter(lon, lat)[0]) / 1e6 if geod is not None else 0.0


def estimate(plan: Plan, scene: Scene, predictor: Predictor, workers: int = 1) -> dict[str, Any]:
    """`--dry-run`: tiles, memory, time (one tile is measured) and disk."""
    from swath.deploy.compute import read_cell

    predictor = prepared(predictor, plan.settings.precision, plan.settings.device)
    middle = plan.cells[len(plan.cells) // 2]
    tile = plan.tiles(middle)[0]
    one = Plan(
        plan.grid.crop(plan.tile_window(*tile)), plan.spec, plan.settings, plan.fingerprint, plan.align, plan.steps,
        phase=plan.phase,
    )  # fmt: skip
    place = plan.tile_window(*tile)
    shifted = _Shifted(scene, place.row, place.col, scene.grid, scene.sensors)
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        answer_cell(one, one.cells[0], read_cell(one, one.cells[0], shifted, holes=True), predictor)
        seconds.append(time.perf_counter() - begin)
    tiles = len(plan.rows.places) * len(plan.cols.places)
    return {
        "scene": f"{plan.grid.shape[0]} x {plan.grid.shape[1]}",
        "km2": round(plan.grid.shape[0] * plan.grid.shape[1] * pixel_km2(plan), 3),
        "tiles": tiles,
        "tile": plan.settings.tile,
        "overlap": plan.settings.overlap,
        "joined": plan.phase > 0,
        "cells": len(plan.cells),
        "computed_per_output_pixel": round(plan.computed, 3),
        "repeats": round(plan.repeats, 3),
        "seconds": round(min(seconds) * tiles / workers, 1),
        "memory_mb": round(plan.memory() * workers / 1e6),
        "disk_mb": round(plan.disk() / 1e6, 1),
        "plan": plan.digest,
    }


@dataclass(eq=False)
class _Shifted:
    """A scene whose first pixel is elsewhere: only for measuring one tile."""

    scene: Scene
    row: int
    col: int
    grid: Grid
    sensors: tuple[Sensor, ...]

    @property
    def fingerprint(self) -> str:
        return self.scene.fingerprint

    def read(self, window: Window, bands: Mapping[str, Sequence[str]] | None = None) -> Batch:
        return self.scene.read(window.shift(self.row, self.col), bands)


def map_scene(
    open_scene: OpenScene,
    open_predictor: OpenPredictor,
    out: Path,
    *,
    settings: MapSettings | None = None,
    run: MapRun | None = None,
    sources: Sequence[str] = (),
    tell: Tell | None = None,
) -> Mapped:
    """Map a scene into `out` (a COG) with its siblings: layers asked for, quick-look, attribute table, STAC item."""
    begin = time.monotonic()
    run = run or MapRun()
    settings = settings or MapSettings()
    scene, predictor = open_scene(), open_predictor()
    if run.vectors is not None:
        if predictor.spec.label.kind != "mask":
            raise UserError(
                "--vectors are made of classes, and this model gives none",
                where=predictor.spec.name,
                remedy="objects are written to --out, a .parquet, .gpkg or .fgb",
            )
        settings = replace(settings, confidence=True)
    plan = Plan.of(scene, predictor.spec, settings)
    _check_target(out, run, predictor.spec.label.kind == "boxes")
    for target in (out, run.vectors):
        refuse_sources(target, sources)
    origin = derived_from(scene, sources)
    store = CellStore(out.with_name(f"{out.name}.cells"), plan)
    if (done := finished(out, plan, run)) is not None:
        if not run.keep_cells:
            store.remove()  # a run that was killed after the last file was written had no time for it
        return done
    store.open()
    mine = plan.shard(run.shard) if run.shard else plan.cells
    todo = store.missing(mine)
    meter = _Meter(plan, len(mine), len(mine) - len(todo), tell)
    work = Work(plan, store.root, open_scene, open_predictor, run.allow_holes)
    if todo:
        meter.start()
    if run.engine == "ray":
        from swath.deploy.ray_engine import run_ray

        run_ray(work, todo, meter.report, run.address)
    elif run.workers <= 1:
        for cell, record in worker(work, scene, predictor).through(todo):
            meter.report(cell, record)
    else:
        del scene, predictor
        run_local(work, todo, run.workers, meter.report, run.stall_s)
    waiting = [c for c in plan.cells if store.record(c) is None]
    if waiting:
        return Mapped({}, len(mine), len(todo), time.monotonic() - begin, waiting=len(waiting))
    holes = tuple(h for _, record in store.records() for h in record.holes)
    publish_all = publish_objects if plan.spec.label.kind == "boxes" else publish_map
    files = publish_all(plan, store, out, run, sources=origin, holes=holes)
    if not run.keep_cells:
        store.remove()
    return Mapped(files, len(mine), len(todo), time.monotonic() - begin, holes)


def refuse_sources(out: Path | None, sources: Sequence[str]) -> None:
    """A result never takes the place of what it is made from."""
    if out is not None and out.exists() and any(Path(s).exists() and out.samefile(s) for s in sources):
        raise UserError("this is the scene itself", where=str(out), remedy="write the result under another name")


def _check_target(out: Path, run: MapRun, objects: bool = False) -> None:
    if run.shard:
        parse_shard(run.shard)
    if objects and out.suffix not in VECTORS:
        raise UserError(
            f"objects are no raster, and '{out.name}' is no vector format of ours",
            where="--out",
            remedy=f"a name that ends in {', '.join(VECTORS)}",
        )
    if not objects and out.suffix.lower() not in (".tif", ".tiff"):
        raise UserError(f"'{out.name}' is no GeoTIFF name", where="--out", remedy="write a name that ends in .tif")
    if run.vectors is not None and run.vectors.suffix not in VECTORS:
        raise UserError(
            f"'{run.vectors.name}' is no vector format of ours",
            where="--vectors",
            remedy=f"one of {', '.join(VECTORS)}",
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as why:
        raise disk_error(why, out.parent) from why
    if not os.access(out.parent, os.W_OK):
        raise UserError("the folder cannot be written", where=str(out.parent))


def finished(out: Path, plan: Plan, run: MapRun) -> Mapped | None:
    """The finished map of this very plan, when it is there, without holes and with the vectors asked for."""
    item = out.with_suffix(".json")
    try:
        facts = json.loads(item.read_bytes())
        files = {k: (item.parent / v["href"]).resolve() for k, v in facts["assets"].items()}
        whole = facts["properties"]["swath:plan"] == plan.digest
        whole = whole and not (facts["properties"]["swath:holes"] or facts["properties"]["swath:gaps"])
        whole = whole and all(files[k].stat().st_size == v["file:size"] for k, v in facts["assets"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    main = "objects" if plan.spec.label.kind == "boxes" else next(iter(plan.layers))
    wanted = {main: out} if run.vectors is None else {main: out, "vectors": run.vectors}
    if any(files.get(k) != v.resolve() for k, v in wanted.items()):
        return None
    return Mapped({**files, "item": item}, len(plan.cells), 0, 0.0, already=True) if whole else None


@dataclass(eq=False)
class _Meter:
    plan: Plan
    total: int
    done: int
    tell: Tell | None
    begin: float = field(default_factory=time.monotonic)
    km2: float = 0.0
    fresh: int = 0

    def start(self) -> None:
        """Say what is dear before it is paid for."""
        if self.tell is not None and self.plan.repeats > OFTEN:
            self.tell(Progress(self.done, self.total, 0.0, 0.0, math.inf, self.plan.repeats))

    def report(self, cell: Cell, record: Commit) -> None:
        self.done += 1
        self.fresh += 1
        (r0, r1), (c0, c1) = self.plan.rows.own(cell.row), self.plan.cols.own(cell.col)
        self.km2 += (r1 - r0) * (c1 - c0) * self._pixel()
        spent = time.monotonic() - self.begin
        if self.tell is not None:
            left = spent / self.fresh * (self.total - self.done)
            self.tell(Progress(self.done, self.total, self.km2, max(spent, 1e-9), left, self.plan.repeats))

    def _pixel(self) -> float:
        if not hasattr(self, "_km2"):
            self._km2 = pixel_km2(self.plan)
        return self._km2


def publish_map(
    plan: Plan, store: CellStore, out: Path, run: MapRun, *, sources: Sequence[str], holes: Sequence[Sequence[int]]
) -> dict[str, Path]:
    """Assemble and publish; the STAC item comes last and is the mark that all is there."""
    item = out.with_suffix(".json")
    temps = assemble(plan, store, out)
    files: dict[str, Path] = {}
    try:
        item.unlink(missing_ok=True)
        for name, temp in temps.items():
            files[name] = output_path(out, name)
            os.replace(temp, files[name])
    finally:
        for temp in temps.values():
            with suppress(OSError):
                temp.unlink(missing_ok=True)
    first = next(iter(plan.layers))
    if first == "class":
        publish(out.with_name(f"{out.name}.aux.xml"), attribute_table(plan).encode())
    files["quicklook"] = out.with_suffix(".png")
    publish(files["quicklook"], quicklook(files[first], first, plan))
    # VEC
    if run.vectors is not None:
        from swath.deploy.vectors import vectorise

        vectorise(files["class"], run.vectors, files.get("confidence"), run.shaping)
        files["vectors"] = run.vectors
    publish(item, encode(map_item(plan, files, out.parent, sources, holes)))
    return {**files, "item": item}


def publish_objects(
    plan: Plan, store: CellStore, out: Path, run: MapRun, *, sources: Sequence[str], holes: Sequence[Sequence[int]]
) -> dict[str, Path]:
    """Suppress across tiles, write, and publish; the STAC item comes last here too."""
    from swath.deploy.map_objects import gather, sketch, write_objects

    item = out.with_suffix(".json")
    item.unlink(missing_ok=True)
    written = write_objects(plan, gather(plan, store, run.iou), out, run.shaping)
    files = {"objects": out, "quicklook": out.with_suffix(".png")}
    publish(files["quicklook"], sketch(plan, written))
    publish(item, encode(map_item(plan, files, out.parent, sources, holes)))
    return {**files, "item": item}


def free_bytes(folder: Path) -> int:
    """What the disk has left."""
    try:
        return shutil.disk_usage(folder).free
    except OSError as why:
        raise SwathError("the folder cannot be read", where=str(folder)) from why
