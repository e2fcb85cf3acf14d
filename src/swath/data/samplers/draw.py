"""Run a recipe on a table of cells: strata, points around places, or parts of data sets; then distance and split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from swath.core.errors import UserError
from swath.core.rng import numpy_generator
from swath.data.diversity import entropy
from swath.data.footprints import RADIUS_M, unit_vectors
from swath.data.samplers.cells import Cells
from swath.data.samplers.recipe import Around, Recipe, Stratum
from swath.data.splits import Samples, buffered

Ints = NDArray[np.int64]
EARTH_KM_PER_DEGREE = np.pi * RADIUS_M / 180 / 1000


@dataclass(frozen=True)
class Drawn:
    """The chosen rows of the table (or new points), their split, and how many each stage gave."""

    cells: Cells
    split: tuple[str, ...]
    stages: Mapping[str, int] = field(default_factory=dict[str, int])
    missed: Mapping[str, str] = field(default_factory=dict[str, str])

    def table(self) -> Cells:
        """The chosen cells with their split as a column."""
        return Cells({**self.cells.columns, "split": np.array(self.split)})


def draw(recipe: Recipe, cells: Cells, seed: int | None = None) -> Drawn:
    """The recipe's sample of the table. What a stage could not give is said in `missed`, never made up."""
    if not len(cells):
        raise UserError("the table is empty", where=recipe.name)
    seed = recipe.seed if seed is None else seed
    stages: dict[str, int] = {}
    missed: dict[str, str] = {}
    if recipe.around is not None:
        chosen = _points(recipe.around, cells, recipe.min_distance_m, seed, missed)
        stages["points"] = len(chosen)
    elif recipe.parts:
        rows = _parts(recipe, cells, seed, stages, missed)
        chosen = _take(cells, rows)
    else:
        picked: set[int] = set()
        for k, stratum in enumerate(recipe.strata):
            found = _stratum(stratum, cells, (seed, k), picked, missed)
            stages[f"{k}: {stratum.by}"] = len(found)
            picked |= set(found)
        rows = np.array(sorted(picked), np.int64)
        if recipe.min_distance_m:
            rows = rows[_spaced(cells.lonlat[rows], recipe.min_distance_m, seed)]
            stages["after distance"] = len(rows)
        chosen = _take(cells, rows)
    return _hold_out(recipe, chosen, seed, stages, missed)


def _take(cells: Cells, rows: Ints) -> Cells:
    return Cells({k: v[rows] for k, v in cells.columns.items()})


def _stratum(one: Stratum, cells: Cells, seed: tuple[int, int], picked: set[int], missed: dict[str, str]) -> list[int]:
    names, shares = cells.shares(one.by)
    if one.any:
        return np.flatnonzero((shares > 0).any(1)).tolist()
    if one.entropy:
        names, shares = ["entropy"], np.array([[entropy(row) if row.sum() > 0 else 0.0] for row in shares])
    if one.total:
        return _quota(one, cells, (names, shares), seed, missed)
    out: set[int] = set()
    for k, name in enumerate(names):
        rng = numpy_generator(*seed, name, "stratum")
        if one.min_count:
            out |= _at_least(one, shares[:, k], rng, picked | out)
            continue
        if one.most:
            rows = np.flatnonzero(shares[:, k] > 0)
            out |= set(rng.permutation(rows)[: one.most].tolist())
            continue
        numbers = one.override.get(name)
        top, take = (numbers.from_top, numbers.take) if numbers else (one.from_top, one.take)
        ranked = np.argsort(-shares[:, k], kind="stable")
        ranked = ranked[shares[ranked, k] > 0][:top]
        if len(ranked) < take:
            missed[f"{one.by}:{name}"] = f"{len(ranked)} cells where {take} are wanted"
        out |= set(rng.permutation(ranked)[:take].tolist())
    return sorted(out)


def _at_least(one: Stratum, share: NDArray[np.float64], rng: np.random.Generator, have: set[int]) -> set[int]:
    fits = np.flatnonzero(share > one.min_share)
    lack = min(one.min_count, len(fits)) - sum(int(i) in have for i in fits)
    fresh = np.array([i for i in fits if int(i) not in have], np.int64)
    return set(rng.permutation(fresh)[: max(0, lack)].tolist())


def _quota(
    one: Stratum, cells: Cells, by: tuple[list[str], NDArray[np.float64]], seed: tuple[int, int], missed: dict[str, str]
) -> list[int]:
    """`total` over the classes equally or by area; inside a class over `within` by area."""
    names, shares = by
    main = shares.argmax(1)
    area = cells.numbers(one.area) if one.area else np.ones(len(cells))
    present = [k for k in range(len(names)) if (main == k).any()]
    weight = np.array([1.0 if one.quota == "equal" else float(area[main == k].sum()) for k in present])
    out: list[int] = []
    for k, quota in zip(present, _portions(one.total, weight), strict=True):
        rows = np.flatnonzero(main == k)
        inner = cells.columns[one.within][rows].astype(str) if one.within else np.full(len(rows), "")
        kinds = np.unique(inner)
        wanted = _portions(quota, np.array([float(area[rows][inner == v].sum()) for v in kinds]))
        for kind, n in zip(kinds, wanted, strict=True):
            mine = numpy_generator(*seed, names[k], str(kind)).permutation(rows[inner == kind])
            if len(mine) < n:
                missed[f"{one.by}:{names[k]} {kind}".strip()] = f"{len(mine)} cells where {n} are wanted"
            out += mine[:n].tolist()
    return sorted(out)


def _portions(total: int, weight: NDArray[np.float64]) -> list[int]:
    """Whole numbers in proportion, by largest remainder."""
    exact = total * weight / weight.sum()
    base = np.floor(exact).astype(int)
    for k in np.argsort(base - exact, kind="stable")[: total - int(base.sum())]:
        base[k] += 1
    return base.tolist()


def _spaced(lonlat: NDArray[np.float64], distance_m: float, seed: int) -> Ints:
    """Greedy in seeded order: keep what is no nearer than `distance_m` to what is kept."""
    from scipy.spatial import KDTree

    points = unit_vectors(lonlat)
    near = KDTree(points).query_ball_point(points, 2 * np.sin(distance_m / RADIUS_M / 2) * (1 - 1e-12))
    alive = np.ones(len(points), bool)
    kept: list[int] = []
    for i in numpy_generator(seed, "distance").permutation(len(points)):
        if alive[i]:
            kept.append(int(i))
            alive[near[i]] = False
    return np.array(sorted(kept), np.int64)


def _points(around: Around, cells: Cells, distance_m: float, seed: int, missed: dict[str, str]) -> Cells:
    """Points around places, each refused when one is nearer than the distance; a 3-D grid of cells of that side."""
    places = cells.lonlat
    if around.top:
        places = places[np.argsort(-cells.numbers(around.rank), kind="stable")[: around.top]]
    side = max(distance_m, 1.0) / RADIUS_M
    grid: dict[tuple[int, int, int], list[NDArray[np.float64]]] = {}
    reach = 2 * np.sin(side / 2)
    out: list[tuple[float, float]] = []
    rng = numpy_generator(seed, "around")
    for _ in range(around.total * around.tries):
        if len(out) == around.total:
            break
        lon, lat = places[int(rng.integers(len(places)))]
        east, north = rng.normal(0, around.sigma_km, 2) / EARTH_KM_PER_DEGREE
        lat = float(np.clip(lat + north, -90, 90))
        lon = float((lon + east / max(np.cos(np.radians(lat)), 1e-3) + 180) % 360 - 180)
        point = unit_vectors(np.array([[lon, lat]]))[0]
        cell = tuple(int(v) for v in np.floor(point / side))
        around_it = [
            (cell[0] + i, cell[1] + j, cell[2] + k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)
        ]
        if distance_m and any(float(np.linalg.norm(p - point)) < reach for c in around_it for p in grid.get(c, ())):
            continue
        grid.setdefault((cell[0], cell[1], cell[2]), []).append(point)
        out.append((lon, lat))
    if len(out) < around.total:
        missed["points"] = f"{len(out)} points where {around.total} are wanted: the places are full"
    if not out:
        raise UserError("no point fits", remedy="a smaller distance, or more places")
    lon, lat = np.array(out).T
    return Cells({"id": np.array([f"point{i:06d}" for i in range(len(out))]), "lon": lon, "lat": lat})


def _parts(recipe: Recipe, cells: Cells, seed: int, stages: dict[str, int], missed: dict[str, str]) -> Ints:
    _, shares = cells.shares("dataset")
    names = cells.shares("dataset")[0]
    rows: list[Ints] = []
    for part in recipe.parts:
        mine = (
            np.flatnonzero(shares[:, names.index(part.dataset)] > 0) if part.dataset in names else np.empty(0, np.int64)
        )
        if len(mine) < part.n:
            missed[part.dataset] = f"{len(mine)} samples where {part.n} are wanted"
        taken = numpy_generator(seed, "parts", part.dataset).permutation(mine)[: part.n]
        stages[part.dataset] = len(taken)
        rows.append(np.asarray(taken, np.int64))
    return np.sort(np.concatenate(rows))


def _hold_out(recipe: Recipe, chosen: Cells, seed: int, stages: dict[str, int], missed: dict[str, str]) -> Drawn:
    n = len(chosen)
    val = round(recipe.split.val * n)
    if not val or val >= n:
        return Drawn(chosen, ("train",) * n, stages, missed)
    order = numpy_generator(seed, "val").permutation(n)
    parts = {"train": np.sort(order[val:]).astype(np.int64), "val": np.sort(order[:val]).astype(np.int64)}
    if recipe.split.buffer_m:
        parts = dict(
            buffered(parts, Samples(tuple(chosen.ids), chosen.lonlat), recipe.split.buffer_m, recipe.name).parts
        )
    stages |= {k: len(v) for k, v in parts.items()}
    names = np.full(n, "", dtype=object)
    for name, rows in parts.items():
        names[rows] = name
    kept = np.flatnonzero(names != "")
    return Drawn(_take(chosen, kept), tuple(str(v) for v in names[kept]), stages, missed)
