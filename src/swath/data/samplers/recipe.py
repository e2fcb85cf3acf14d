"""What a recipe may say. Sections that a table of tiles cannot run (dates, pixels) are settings of the later stages."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from swath.core.config import parse
from swath.core.errors import UserError
from swath.data.filters import QualityFilter, SeriesRule


@dataclass(frozen=True)
class Override:
    """Other numbers for some classes of a stratum."""

    from_top: int = 0
    take: int = 0


@dataclass(frozen=True)
class Stratum:
    """One draw of cells. `by` names covariates: `lulc` stands for all columns `lulc:CLASS` (shares), or for one
    column of names.

    - `from_top` and `take`: per class, `take` at random of the `from_top` cells with the highest share.
    - `entropy`: as one class, ranked by the entropy (nats) of the shares.
    - `min_count` and `min_share`: per class at least so many cells with more than that share, random ones added.
    - `total` with `quota`: equal (per class) or area (by `area`), inside each class by `within` and its area.
    - `most`: per class at most so many. `any`: every cell where one of the columns is above 0.
    """

    by: str
    from_top: int = 0
    take: int = 0
    entropy: bool = False
    override: dict[str, Override] = field(default_factory=dict[str, Override])
    min_count: int = 0
    min_share: float = 0.0
    total: int = 0
    quota: Literal["equal", "area"] = "equal"
    within: str = ""
    area: str = ""
    most: int = 0
    any: bool = False


@dataclass(frozen=True)
class Around:
    """Points round places: a place uniform over the `top` rows by `rank`, an offset N(0, sigma_km) each way."""

    sigma_km: float
    total: int
    top: int = 0
    rank: str = "population"
    tries: int = 100


@dataclass(frozen=True)
class Part:
    """So many samples of a data set."""

    dataset: str
    n: int


@dataclass(frozen=True)
class Holdout:
    """A share of the cells for validation; training cells within `buffer_m` of it are dropped."""

    val: float = 0.0
    buffer_m: float = 0.0


@dataclass(frozen=True)
class Seasons:
    """Dates as `anchors` minus one shared random shift of up to `jitter_days`, within `window_days` each way."""

    anchors: tuple[str, ...]
    jitter_days: int = 364
    window_days: int = 15


@dataclass(frozen=True)
class Chips:
    """How pixels are cut: `size` at `gsd` metres, `per_region` and `per_cell` at most, good and missing shares."""

    size: int
    gsd: float
    per_region: int = 0
    per_cell: int = 0
    good: float = 0.0
    missing: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """A way to choose a data set's places (and, for later stages, its dates and chips)."""

    name: str
    title: str = ""
    source: str = ""
    differs: str = ""
    grid: str = ""
    strata: tuple[Stratum, ...] = ()
    around: Around | None = None
    parts: tuple[Part, ...] = ()
    min_distance_m: float = 0.0
    split: Holdout = field(default_factory=Holdout)
    quality: QualityFilter | None = None
    series: SeriesRule | None = None
    seasons: Seasons | None = None
    chips: Chips | None = None
    modalities: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if sum((bool(self.strata), self.around is not None, bool(self.parts))) != 1:
            raise ValueError("a recipe draws by strata, around places, or in parts of data sets: exactly one of them")


def read_recipe(text: str, where: str, name: str = "") -> Recipe:
    """A recipe from TOML."""
    try:
        data: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as why:
        raise UserError(f"the recipe is not TOML: {why}", where=where) from why
    return parse({**data, "name": name or data.get("name", Path(where).stem)}, Recipe, where=where)


def find_recipe(name: str) -> Recipe:
    """A shipped recipe by name, or one's own by file."""
    from swath.data.samplers import SAMPLERS

    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise UserError("there is no such recipe file", where=name)
        return read_recipe(Path(name).read_text(encoding="utf-8"), name)
    return SAMPLERS.get(name)
