"""Embeddings of a scene: one vector a chip, a patch or a polygon, by cells that are computed once.

Chips partition the scene from its first pixel; `halo` pixels of context around a chip are read, encoded and thrown
away. A polygon's vector is the mean over patches, weighted by the part of each that the polygon covers and that was
seen.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from swath.core import Batch, Encoder, EncoderSpec, Grid, Scene, SwathError, UserError, Window
from swath.core.config import digest, plain
from swath.core.heap import keep_freed
from swath.deploy.commit import CellStore
from swath.deploy.compute import cut, place_of, seen_of, together, unreadable
from swath.deploy.packed import packed
from swath.deploy.plan import FORMAT, Cell, Precision, probe
from swath.models import ENCODERS, EncoderConfig
from swath.models.inputs import Adaptation

Array = NDArray[Any]


@dataclass(frozen=True)
class Encoding:
    """What makes vectors of pixels: an encoder, and the liberties that it takes."""

    encoder: Annotated[EncoderConfig, ENCODERS]
    adaptation: Adaptation = field(default_factory=Adaptation)


@dataclass(frozen=True)
class EmbedSettings:
    """What decides the vectors. `chip` 0: 224 pixels, or what the patch allows; `level` picks the map of features."""

    per: Literal["chip", "patch", "polygon"] = "chip"
    chip: int = 0
    halo: int = 0
    level: int = -1
    batch: int = 8
    precision: Precision = "fp32"
    device: str = "cpu"
    threads: int = 1
    cell: int = 1024
    min_valid: float = 0.5
    int8: bool = False

    def resolved(self, spec: EncoderSpec) -> EmbedSettings:
        patch = max(1, spec.patch)
        chip = self.chip or (224 if 224 % patch == 0 else 16 * patch)
        if chip % patch or self.halo % patch or min(chip, self.batch, self.threads, self.cell) < 1 or self.halo < 0:
            raise UserError(
                f"chips of {chip} with a halo of {self.halo} pixels do not suit {spec.name}",
                where="--chip",
                remedy=f"choose multiples of {patch}",
            )
        return replace(self, chip=chip)


@dataclass(frozen=True, eq=False)
class EmbedPlan:
    """Scene, encoder and settings as cells with keys; `polygons` are in pixel coordinates of the grid."""

    grid: Grid
    spec: EncoderSpec
    weights: str
    settings: EmbedSettings
    fingerprint: str
    dates: tuple[int, int] | None = None
    polygons: tuple[Any, ...] = ()
    liberties: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(
        cls, scene: Scene, encoder: Encoder, weights: str, settings: EmbedSettings, polygons: Sequence[Any] = ()
    ) -> EmbedPlan:
        settings = settings.resolved(encoder.spec)
        if (settings.per == "polygon") != bool(len(polygons)):
            raise UserError("vectors per polygon need polygons, and only they do", where="--per")
        have, liberties = {s.id for s in scene.sensors}, plain(getattr(encoder, "adaptation", None)) or {}
        instead = liberties.get("substitute", {})
        if not encoder.spec.any_bands and not have & {instead.get(i.sensor, i.sensor) for i in encoder.spec.inputs}:
            first = encoder.spec.inputs[0].sensor
            raise UserError(
                f"{encoder.spec.name} takes {', '.join(i.sensor for i in encoder.spec.inputs)}; "
                f"the scene has {', '.join(sorted(have))}",
                where="scene",
                remedy=f"--set encoder.sensor={sorted(have)[0]} where the encoder has a sensor of its own, or let one "
                f"stand for another: --set adaptation.substitute.{first}={sorted(have)[0]}",
            )
        size = settings.chip + 2 * settings.halo
        _, _, dates = probe(scene, None, size)
        return cls(scene.grid, encoder.spec, weights, settings, scene.fingerprint, dates, tuple(polygons), liberties)

    @cached_property
    def digest(self) -> str:
        import shapely

        from swath import __version__

        shapes = hashlib.sha256(b"".join(shapely.to_wkb(p) for p in self.polygons)).hexdigest()
        return digest(
            {
                "format": FORMAT,
                "version": __version__,
                "kind": "embed",
                "encoder": self.spec.name,
                "weights": self.weights,
                "inputs": plain(self.spec.inputs),
                "adaptation": self.liberties,
                "settings": asdict(self.settings),
                "scene": self.fingerprint,
                "grid": asdict(self.grid),
                "polygons": shapes,
            }
        )

    def manifest(self) -> dict[str, Any]:
        return {"grid": asdict(self.grid), "settings": asdict(self.settings), "weights": self.weights}

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        chip, halo = self.settings.chip, self.settings.halo
        side = max(1, round(self.settings.cell / chip)) * chip
        rows, cols = (math.ceil(n / chip) * chip for n in self.grid.shape)
        out: list[Cell] = []
        for core in Window(0, 0, rows, cols).split(side, side):
            read = core.halo(halo)
            key = digest({"embed": self.digest, "read": [read.row, read.col, *read.shape]})
            out.append(Cell(len(out), core.row // side, core.col // side, read, key))
        return tuple(out)

    def chips(self, cell: Cell) -> list[Window]:
        chip = self.settings.chip
        return list(cell.read.halo(-self.settings.halo).split(chip, chip))


@dataclass(frozen=True, eq=False)
class _Chip:
    place: Window
    batch: Batch | None
    seen: NDArray[np.bool_]


def read_chips(plan: EmbedPlan, cell: Cell, scene: Scene) -> list[_Chip]:
    """The chips of a cell with their context; None where nothing was seen."""
    try:
        whole = scene.read(cell.read)
    except (SwathError, OSError, ValueError) as why:
        raise unreadable(cell.read, why) from why
    seen = seen_of(whole, cell.read.shape)
    out: list[_Chip] = []
    for place in plan.chips(cell):
        wide = place.halo(plan.settings.halo)
        batch = cut(whole, cell.read, wide, place_of(plan.grid, wide))
        out.append(_Chip(place, batch, seen[place.within(cell.read).slices]))
    return out


def run_chips(plan: EmbedPlan, chips: Sequence[_Chip], encoder: Encoder) -> dict[str, Array]:
    """Vectors of a cell: `vector` (N, D), `row`, `col` of the first pixel, `size`, `valid` share, days."""
    parts: list[dict[str, Array]] = []
    todo = [c for c in chips if c.batch is not None]
    settings = plan.settings
    for at in range(0, len(todo), settings.batch):
        group = todo[at : at + settings.batch]
        samples = [c.batch for c in group if c.batch is not None]
        with together(samples, settings.device, settings.precision) as batch:
            features = encoder(batch, [settings.level])
        if settings.per == "chip":
            vectors = features.pooled.float().cpu()[:, :, None, None]
        else:
            vectors = _core(features.maps[0].float().cpu(), plan)
        for chip, vector in zip(group, vectors, strict=True):
            parts.append(_rows(plan, chip, vector.numpy()))
    if not parts:
        return {}
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def _core(maps: torch.Tensor, plan: EmbedPlan) -> torch.Tensor:
    chip, halo = plan.settings.chip, plan.settings.halo
    cells = maps.shape[-1]
    stride, rest = divmod(chip + 2 * halo, cells)
    if rest or halo % stride or chip % stride:
        raise UserError(
            f"{cells} features over {chip + 2 * halo} pixels leave no whole patches", where="--chip or --halo"
        )
    edge = halo // stride
    return maps[:, :, edge : cells - edge, edge : cells - edge]


def _rows(plan: EmbedPlan, chip: _Chip, vector: NDArray[np.float32]) -> dict[str, Array]:
    d, h, w = vector.shape
    size = plan.settings.chip // h
    rows, cols = np.divmod(np.arange(h * w), w)
    share = chip.seen.reshape(h, size, w, size).mean((1, 3)).reshape(-1)
    days = _days(chip.batch)
    n = h * w
    return {
        "vector": np.ascontiguousarray(vector.reshape(d, n).T, dtype=np.float32),
        "row": chip.place.row + rows * size,
        "col": chip.place.col + cols * size,
        "size": np.full(n, size),
        "valid": share.astype(np.float32),
        "first": np.full(n, days[0]),
        "last": np.full(n, days[1]),
    }


NO_DAY = -(2**31)


def _days(batch: Batch | None) -> tuple[int, int]:
    """First and last day on which the chip was seen."""
    found: list[int] = []
    for layer in batch.layers.values() if batch is not None else ():
        if layer.times is not None:
            found += layer.times[0][layer.valid[0].flatten(1).any(1)].tolist()
    return (min(found), max(found)) if found else (NO_DAY, NO_DAY)


def over_polygons(plan: EmbedPlan, rows: Mapping[str, Array]) -> dict[str, Array]:
    """Weighted sums over the polygons that a cell's patches meet: `id`, `weight`, `sum`."""
    import shapely

    if not rows:
        return {}
    size = rows["size"]
    boxes = shapely.box(rows["col"], rows["row"], rows["col"] + size, rows["row"] + size)
    shapes = np.array(plan.polygons, dtype=object)
    polygon, patch = shapely.STRtree(boxes).query(shapes, predicate="intersects")
    part = shapely.area(shapely.intersection(shapes[polygon], boxes[patch])) * rows["valid"][patch]
    ids, at = np.unique(polygon, return_inverse=True)
    total = np.zeros((len(ids), rows["vector"].shape[1]))
    weight = np.zeros(len(ids))
    np.add.at(total, at, part[:, None] * rows["vector"][patch].astype(np.float64))
    np.add.at(weight, at, part)
    days = np.stack([rows["first"], rows["last"]])[:, patch]
    first, last = np.full(len(ids), 2**31), np.full(len(ids), NO_DAY)
    np.minimum.at(first, at, np.where(days[0] == NO_DAY, 2**31, days[0]))
    np.maximum.at(last, at, days[1])
    return {"id": ids.astype(np.int64), "weight": weight, "sum": total, "first": first, "last": last}


def run_embed(plan: EmbedPlan, scene: Scene, encoder: Encoder, store: CellStore) -> Iterator[Cell]:
    """Compute and commit what is missing, reading one cell ahead; yields each cell when it is safe."""
    todo = store.missing(plan.cells)
    if not todo:
        return
    keep_freed()
    torch.set_num_threads(plan.settings.threads)
    if plan.settings.device == "cpu" and isinstance(encoder, torch.nn.Module):
        encoder = cast("Encoder", packed(encoder, plan.settings.precision))
    ahead: dict[int, Future[list[_Chip]]] = {}
    with ThreadPoolExecutor(1) as reader:
        for now, after in zip_longest(todo, todo[1:]):
            for cell in (now, after):
                if cell is not None and cell.index not in ahead:
                    ahead[cell.index] = reader.submit(read_chips, plan, cell, scene)
            begin = time.monotonic()
            chips = ahead.pop(now.index).result()
            rows = run_chips(plan, chips, encoder)
            if plan.settings.per == "polygon":
                rows = over_polygons(plan, rows)
            store.commit(now, rows, {"tiles": len(chips), "seconds": time.monotonic() - begin})
            yield now


def finished_rows(plan: EmbedPlan, store: CellStore) -> Iterator[dict[str, Array]]:
    """Vectors cell by cell, those seen too little left out; per polygon all at once, in the order of the file."""
    if plan.settings.per == "polygon":
        yield _polygon_rows(plan, store)
        return
    h, w = plan.grid.shape
    for cell, _ in store.records():
        rows = store.read(cell)
        if not rows:
            continue
        inside = (rows["row"] + rows["size"] / 2 < h) & (rows["col"] + rows["size"] / 2 < w)
        keep = inside & (rows["valid"] >= max(plan.settings.min_valid, 1e-6))
        if keep.any():
            yield {k: v[keep] for k, v in rows.items()}


def _polygon_rows(plan: EmbedPlan, store: CellStore) -> dict[str, Array]:
    n = len(plan.polygons)
    total: Array | None = None
    weight = np.zeros(n)
    first, last = np.full(n, 2**31), np.full(n, NO_DAY)
    for cell, _ in store.records():
        rows = store.read(cell)
        if not rows:
            continue
        total = np.zeros((n, rows["sum"].shape[1])) if total is None else total
        total[rows["id"]] += rows["sum"]
        weight[rows["id"]] += rows["weight"]
        first[rows["id"]] = np.minimum(first[rows["id"]], rows["first"])
        last[rows["id"]] = np.maximum(last[rows["id"]], rows["last"])
    import shapely

    keep = weight > 0
    if total is None or not keep.any():
        raise UserError("no polygon meets pixels that were seen", where="--per")
    area = shapely.area(np.array(plan.polygons, dtype=object))
    return {
        "vector": (total[keep] / weight[keep, None]).astype(np.float32),
        "id": np.flatnonzero(keep),
        "valid": (weight[keep] / area[keep]).astype(np.float32),
        "first": np.where(first == 2**31, NO_DAY, first)[keep],
        "last": last[keep],
    }


def weights_digest(encoder: torch.nn.Module) -> str:
    """sha256 over the names and bytes of every tensor of an encoder."""
    whole = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def pixels_of(grid: Grid, file: Path, layer: str = "") -> list[Any]:
    """Polygons of a vector file in the pixel coordinates of a grid."""
    import geopandas
    import shapely

    try:
        frame = geopandas.read_parquet(file) if file.suffix == ".parquet" else geopandas.read_file(file)
    except Exception as why:
        raise UserError(f"the polygons cannot be read: {why}", where=str(file)) from why
    if frame.crs is None or not grid.crs:
        raise UserError("polygons and scene must both have a crs", where=str(file))
    if not len(frame):
        raise UserError("the file holds no polygon", where=str(file))
    frame = frame.to_crs(grid.crs)
    kinds = sorted({str(k) for k in frame.geometry.geom_type if k not in ("Polygon", "MultiPolygon")})
    if kinds:
        raise UserError(f"it holds {', '.join(kinds)}: only polygons have pixels to average", where=str(file),
                        remedy="draw circles around points (buffer), or take the chips' vectors")  # fmt: skip
    shapes = frame.geometry.values

    def back(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        row, col = grid.rowcol(xy[:, 0], xy[:, 1])  # pyright: ignore[reportArgumentType]
        return np.stack([col, row], 1)

    return list(shapely.transform(np.asarray(shapes), back))
