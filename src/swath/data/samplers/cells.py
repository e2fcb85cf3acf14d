"""Cells: a table of tiles with their places and covariates, from Parquet or CSV, or from the simulated Earth."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.core.errors import UserError
from swath.core.rng import numpy_generator
from swath.data.continents import continent_of

Column = NDArray[Any]


@dataclass(frozen=True)
class Cells:
    """Columns of equal length; `id`, and `lon`, `lat` where places matter. Shares are columns `lulc:CLASS`."""

    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    @property
    def ids(self) -> list[str]:
        return [str(v) for v in self.columns["id"]] if "id" in self.columns else [str(i) for i in range(len(self))]

    @property
    def lonlat(self) -> NDArray[np.float64]:
        """Places (N, 2)."""
        missing = [c for c in ("lon", "lat") if c not in self.columns]
        if missing:
            raise UserError(f"the table has no column '{missing[0]}'", remedy=f"it has: {', '.join(self.columns)}")
        return np.stack([self.columns["lon"].astype(float), self.columns["lat"].astype(float)], 1)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column of numbers."""
        if name not in self.columns:
            raise UserError(f"the table has no column '{name}'", remedy=f"it has: {', '.join(self.columns)}")
        return self.columns[name].astype(float)

    def shares(self, by: str) -> tuple[list[str], NDArray[np.float64]]:
        """Class names and shares (N, K): from columns `by:CLASS`, or a column of names as shares of one or nothing."""
        found = [c for c in self.columns if c.startswith(by + ":")]
        if found:
            table = np.stack([np.nan_to_num(self.columns[c].astype(float)) for c in found], 1)
            return [c.removeprefix(by + ":") for c in found], table
        if by not in self.columns:
            known = sorted({re.sub(":.*", "", c) for c in self.columns})
            raise UserError(
                f"the table has neither a column '{by}' nor columns '{by}:CLASS'", remedy=f"it has: {known}"
            )
        kinds, which = np.unique(self.columns[by].astype(str), return_inverse=True)
        return [str(k) for k in kinds], np.eye(len(kinds))[which]


def read_cells(path: str | Path) -> Cells:
    """A table from Parquet or CSV; geometry columns are left aside."""
    file = Path(path)
    if not file.is_file():
        raise UserError("there is no such table", where=str(file))
    try:
        if file.suffix == ".csv":
            from pyarrow import csv

            table = csv.read_csv(file)
        else:
            import pyarrow.parquet as pq

            table = pq.read_table(file)
    except Exception as why:
        raise UserError(f"the table cannot be read: {why}", where=str(file), remedy="Parquet or CSV") from why
    return Cells({n: np.asarray(table[n].to_numpy()) for n in table.column_names if n != "geometry"})


LULC = {10: "trees", 20: "shrub", 30: "grass", 40: "crop", 50: "urban", 60: "bare", 70: "snow", 80: "water",
        90: "wetland", 95: "mangrove", 100: "moss"}  # fmt: skip
MAPPED = {"trees": "wood", "shrub": "scrub", "grass": "meadow", "crop": "farmland", "snow": "glacier", "water": "water",
          "wetland": "wetland", "bare": "bare_rock"}  # fmt: skip
"""What a map maker calls a cover; towns have categories of their own."""
TOWN, PEOPLE = 0.12, 12_000.0
"""The density from which the world's land is a town, and how many live on a square kilometre of the densest."""
INDUSTRY = 8
"""A local climate zone."""
COLLECTIONS = {"rsd46": 116893, "mlrsnet": 109161, "resisc45": 31500, "patternnet": 30400}


def world_cells(n: int, seed: int = 0, km: float = 10.0, near: str = "land") -> Cells:
    """`n` tiles of the simulated Earth, by area on land (or near cities): cover shares (`lulc:`), what a map of the
    tile would name (`osm:`, `labels:`), people, biome, ecoregion, continent, and the collection that pictures it.

    Biomes are Whittaker's by mean temperature and rain, coarsely; an ecoregion is a biome of a continent. The
    collections of GeoPile divide this Earth: NAIP has North America, the others the rest in their published numbers.
    """
    from swath.world import World
    from swath.world.globe import xy_of
    from swath.world.ground import survey
    from swath.world.noise import Frame

    size = 24
    gsd = km * 1000 / size
    rows: list[dict[str, float]] = []
    biomes: list[str] = []
    for site in World(seed).sites(n, seed, near):
        x, y = xy_of(site.lon, site.lat)
        ground = survey(Frame(gsd, round(-y / gsd) - size // 2, round(x / gsd) - size // 2, size, size), seed)
        rows.append({"lon": site.lon, "lat": site.lat, **_covariates(ground, km)})
        biomes.append(_biome(float(ground.heat.mean()), float(ground.wet.mean())))
    columns: dict[str, Column] = {k: np.array([r[k] for r in rows]) for k in rows[0]}
    columns["id"] = np.array([f"cell{i:05d}" for i in range(len(rows))])
    where = continent_of(np.stack([columns["lon"], columns["lat"]], 1))
    columns["continent"], columns["biome"] = np.array(where), np.array(biomes)
    columns["ecoregion"] = np.array([f"{b}, {c}" for b, c in zip(biomes, where, strict=True)])
    columns["area"] = np.full(len(rows), km * km)
    share = np.array(list(COLLECTIONS.values())) / sum(COLLECTIONS.values())
    others = numpy_generator(seed, "collections").choice(list(COLLECTIONS), len(rows), p=share)
    columns["dataset"] = np.where(np.array(where) == "north america", "naip", others)
    return Cells(columns)


def _covariates(ground: Any, km: float) -> dict[str, float]:
    """What covers a tile, who lives there and what a map of it names. Farm tracks are drawn a third of a pixel wide,
    so that at this pixel size they would pave the fields: they count as the fields' own."""
    from swath.world.catalog import COVERS, ID

    codes = np.array([c.worldcover for c in COVERS])
    track = (ground.cover == ID["road"]) & (ground.urban <= TOWN)
    cover = np.where(track, 40, codes[ground.cover])
    share = {name: float((cover == k).mean()) for k, name in LULC.items()}
    town = ground.urban > TOWN
    industry = float((town & (ground.lcz == INDUSTRY)).mean())
    named = {mapped: share[name] for name, mapped in MAPPED.items()}
    named |= {"residential": float(town.mean()) - industry, "industrial": industry}
    seen = {"building": share["urban"], "crop field": share["crop"], "water": share["water"], "tree": share["trees"]}
    return {
        **{f"lulc:{k}": v for k, v in share.items()},
        **{f"osm:{k}": v for k, v in named.items()},
        **{f"labels:{k}": v for k, v in seen.items()},
        "population": float(np.where(town, ground.urban.clip(0, 1), 0.0).mean()) * PEOPLE * km * km,
    }


def _biome(heat: float, wet: float) -> str:
    if heat < -5:
        return "tundra"
    if heat < 4:
        return "boreal"
    band = "temperate" if heat < 18 else "tropical"
    return f"{band} {'desert' if wet < 0.2 else 'grassland' if wet < 0.5 else 'forest'}"


def write_cells(cells: Cells, path: Path) -> None:
    """Write as Parquet, whole or not at all."""
    import os

    import pyarrow as pa
    import pyarrow.parquet as pq

    part = path.with_name(path.name + ".part")
    pq.write_table(pa.table({k: pa.array(v.tolist()) for k, v in cells.columns.items()}), part)
    os.replace(part, path)
