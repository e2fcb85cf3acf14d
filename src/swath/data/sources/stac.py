"""STAC as a source: windows over the items of a query, read straight from the COGs by range requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from swath.core.batch import Batch
from swath.core.contracts import LabelSpec
from swath.core.errors import UserError
from swath.core.grid import Window
from swath.data.sources.rasters import starts
from swath.data.stac import Query, Sign, StacScene, Token, open_stac

BBox = tuple[float, float, float, float]


@dataclass(frozen=True)
class StacConfig:
    """A query (see `data.stac.Query`) and the windows to cut. `token` is an address that gives `{"token": ...}`:
    its answer is appended to each asset's address; only on `token_hosts` where these are named."""

    kind: ClassVar[str] = "stac"
    url: str
    bbox: BBox
    collection: str = ""
    dates: str = ""
    cloud: float | None = None
    sensor: str = ""
    bands: tuple[str, ...] = ()
    crs: str = ""
    gsd: float | None = None
    mask: Literal["", "scl", "fmask"] = ""
    resample: Literal["", "nearest", "bilinear"] = ""
    limit: int = 200
    size: int = 256
    stride: int = 0
    token: str = ""
    token_hosts: tuple[str, ...] = ()
    licence: str = ""

    def query(self) -> Query:
        return Query(
            self.url, self.bbox, self.collection, self.dates, self.cloud, self.sensor, self.bands, self.crs, self.gsd,
            self.mask, self.resample, self.limit,
        )  # fmt: skip

    def build(self, sign: Sign | None = None) -> StacSource:
        if self.size < 1 or self.stride < 0:
            raise UserError(f"a window of {self.size} pixels every {self.stride} cannot be cut", where="stac")
        if sign is None and self.token:
            sign = Token(self.token, self.token_hosts)
        return StacSource(self, open_stac(self.query(), sign))


class StacSource:
    """Windows of a STAC scene as samples."""

    def __init__(self, config: StacConfig, scene: StacScene) -> None:
        self.scene, self.sensors = scene, scene.sensors
        self.name = f"stac:{urlsplit(config.url).netloc or 'local'}/{scene.name}"
        self.licence = config.licence or _licence(scene.items)
        self.labels: Mapping[str, LabelSpec] = {}
        size, stride = config.size, config.stride or config.size
        rows, cols = (starts(n, size, stride) for n in scene.grid.shape)
        self.windows = [Window(r, c, size, size) for r in rows for c in cols]

    @property
    def names(self) -> list[str]:
        return [f"{self.scene.name}/{w.row}/{w.col}" for w in self.windows]

    @property
    def fingerprint(self) -> str:
        return self.scene.fingerprint

    def __len__(self) -> int:
        return len(self.windows)

    def splits(self) -> Mapping[str, Sequence[int]]:
        """Everything is in `all`."""
        return {"all": list(range(len(self)))}

    def sample(self, index: int, bands: Mapping[str, Sequence[str]] | None = None) -> Batch:
        """One window."""
        return self.scene.read(self.windows[index], bands)


def _licence(items: Sequence[Any]) -> str:
    said = {str(i.properties.get("license", "")) for i in items}
    return said.pop() if len(said) == 1 else ""


MEMBER = StacConfig
