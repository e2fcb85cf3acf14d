"""A bundle that answers over the wire: GeoTIFF in, map or numbers out. No web in here: bytes to bytes.

What arrives is not trusted. Only files that begin as TIFF do are written to a private folder and opened (GDAL would
follow a VRT to any file of this machine); archives are flat and bounded, and so are the pixels they may unfold to.
"""

from __future__ import annotations

import io
import json
import tempfile
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from swath.adapt.bundle import Bundle, open_card
from swath.core import Scene, SwathError, UserError, Window
from swath.data.scene import SceneHints, open_scene
from swath.deploy.bundles import BundlePredictor
from swath.deploy.map import MapRun, map_scene
from swath.deploy.plan import MapSettings, Precision
from swath.deploy.predictor import MAIN

TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
LAYERS = ("proba", "entropy", "sets", "strangeness")


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how many may wait behind the one that is being answered."""

    max_mb: int = 256
    max_mpx: float = 64.0
    max_files: int = 64
    waiting: int = 8


@dataclass(frozen=True)
class Ask:
    """One question: rasters by name, what they are if they do not say, the layers wanted, the form of the answer."""

    files: Mapping[str, bytes]
    hints: SceneHints = field(default_factory=SceneHints)
    layers: tuple[str, ...] = ()
    form: str = "tif"


@dataclass(frozen=True)
class Reply:
    """Bytes and what they are."""

    body: bytes
    media: str
    name: str = ""


class Busy(Exception):
    """More are waiting than may wait."""


class Service:
    """One loaded bundle, one question at a time."""

    def __init__(self, path: str, *, device: str = "cpu", precision: Precision = "fp32", threads: int = 1,
                 limits: Limits = Limits(), base: str = "") -> None:  # fmt: skip
        self.path, self.limits = path, limits
        self.settings = MapSettings(device=device, precision=precision, threads=threads)
        self.bundle = Bundle.load(path, base or None).to(device)
        self._one, self._room = threading.Lock(), threading.BoundedSemaphore(limits.waiting + 1)

    @property
    def card(self) -> dict[str, Any]:
        """What `swath show bundle` says of it."""
        return open_card(self.path)

    @property
    def maps(self) -> bool:
        """Whether the answer is a raster."""
        return self.bundle.label.kind in MAIN

    def answer(self, ask: Ask) -> Reply:
        """The map of what was sent, or the answer for the whole of it. Leaves nothing behind."""
        unknown = sorted(set(ask.layers) - set(LAYERS))
        if unknown:
            raise UserError(f"there is no layer '{unknown[0]}'", where="layers", remedy=f"known: {', '.join(LAYERS)}")
        if not self._room.acquire(blocking=False):
            raise Busy
        try:
            with self._one, tempfile.TemporaryDirectory(prefix="swath-serve-") as folder:
                root = Path(folder)
                try:
                    return self._answer(ask, root)
                except UserError as why:
                    # the private folder is no news to the one who asked
                    raise UserError(_bare(why.what, root), where=_bare(why.where, root), remedy=why.remedy) from why
        finally:
            self._room.release()

    def _answer(self, ask: Ask, root: Path) -> Reply:
        here = root / "in"
        here.mkdir()
        paths = [_write(here, name, body, self.limits) for name, body in ask.files.items()]
        if not paths:
            raise UserError("no raster was sent", where="request", remedy="send a GeoTIFF, or a zip of GeoTIFFs")
        scene = open_scene(paths[0] if len(paths) == 1 else paths, None, ask.hints)
        height, width = scene.grid.shape
        if height * width > self.limits.max_mpx * 1e6:
            raise UserError(
                f"{height} x {width} pixels are more than the {self.limits.max_mpx:g} million of one request",
                where="request",
                remedy="send a smaller window, raise --max-mpx, or use swath map",
            )
        if self.bundle.label.kind == "boxes":
            return self._objects(ask, scene, root)
        return self._map(ask, scene, root) if self.maps else self._tell(scene)

    def _objects(self, ask: Ask, scene: Scene, root: Path) -> Reply:
        """Objects as GeoJSON: in longitude and latitude, or in pixels where the scene has no place on Earth."""
        import geopandas

        if ask.layers:
            raise UserError(f"objects have no layer '{ask.layers[0]}'", where="layers", remedy="leave it out")
        out, predictor = root / "objects.parquet", BundlePredictor(self.bundle)
        map_scene(lambda: scene, lambda: predictor, out, settings=self.settings, run=MapRun())
        frame = geopandas.read_parquet(out)
        placed = frame.to_crs("OGC:CRS84") if frame.crs is not None else frame
        return Reply(placed.to_json(drop_id=True).encode(), "application/geo+json")

    def _map(self, ask: Ask, scene: Scene, root: Path) -> Reply:
        want = set(ask.layers)
        settings = replace(self.settings, proba="proba" in want, entropy="entropy" in want, sets="sets" in want)
        predictor = BundlePredictor(self.bundle, "strangeness" in ask.layers)
        out = root / "map.tif"
        files = map_scene(lambda: scene, lambda: predictor, out, settings=settings, run=MapRun()).files
        if ask.form == "png":
            return Reply(files["quicklook"].read_bytes(), "image/png", "map.png")
        if ask.form == "tif" and not ask.layers:
            return Reply(out.read_bytes(), "image/tiff", "map.tif")
        pack = io.BytesIO()
        with zipfile.ZipFile(pack, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(set(files.values())):
                archive.write(path, path.name)
        return Reply(pack.getvalue(), "application/zip", "map.zip")

    def _tell(self, scene: Scene) -> Reply:
        height, width = scene.grid.shape
        bands = {i.sensor: i.bands for i in self.bundle.inputs if i.sensor in {s.id for s in scene.sensors}}
        batch = scene.read(Window(0, 0, height, width), bands or None).to(self.settings.device)
        found: dict[str, Any] = {}
        for key, value in self.bundle.predict(batch, uncertainty=True).items():
            array = value[0].float() if value.dtype.is_floating_point else value[0]
            if not bool(array.isfinite().all()):
                raise SwathError(f"the model gave '{key}' with values that are not finite", where=self.bundle.name)
            found[key] = np.asarray(array.cpu()).tolist()
        if isinstance(found.get("classes"), int):
            found["class"] = self.bundle.label.classes[found["classes"]]
        return Reply(json.dumps(found, allow_nan=False).encode(), "application/json")


def _bare(text: str, root: Path) -> str:
    return text.replace(f"{root}/in/", "").replace(f"{root}/", "").replace(str(root), "request")


def _write(folder: Path, name: str, body: bytes, limits: Limits) -> Path:
    """The file under its own plain name, when it begins as a TIFF does and is not larger than it may unfold to."""
    plain = PurePosixPath(name.replace("\\", "/")).name
    if not plain or plain.startswith("."):
        raise UserError(f"'{name}' is no file name", where="request")
    if body[:4] not in TIFF:
        raise UserError(
            f"'{plain}' does not begin as a TIFF does", where="request", remedy="send GeoTIFF, or a zip of GeoTIFFs"
        )
    path = folder / (plain if plain.lower().endswith((".tif", ".tiff")) else f"{plain}.tif")
    if path.exists():
        raise UserError(f"'{plain}' was sent twice", where="request")
    path.write_bytes(body)
    return path


def unpack(body: bytes, name: str, limits: Limits) -> dict[str, bytes]:
    """The rasters of a body: itself, or the members of a flat zip whose whole size is bounded before it is read."""
    if body[:4] != b"PK\x03\x04":
        return {name or "scene.tif": body}
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            if len(members) > limits.max_files:
                raise UserError(
                    f"the archive holds {len(members)} files, {limits.max_files} may be sent", where="request"
                )
            if sum(m.file_size for m in members) > limits.max_mb << 20:
                raise UserError(
                    f"the archive unfolds to more than {limits.max_mb} MB", where="request", remedy="raise --max-mb"
                )
            found: dict[str, bytes] = {}
            for m in members:
                with archive.open(m) as file:
                    found[m.filename] = file.read(m.file_size)
            return found
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as why:
        raise UserError(f"the archive cannot be read: {why}", where="request") from why
