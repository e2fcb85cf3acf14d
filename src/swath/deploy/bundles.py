"""A tuned bundle as a predictor, and rasters as a scene: openers that worker processes can carry."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from torch import Tensor

from swath.adapt.bundle import Bundle
from swath.adapt.task import TaskModule
from swath.core import Batch, Features, Scene, UserError
from swath.data.scene import SceneHints, open_scene
from swath.deploy.edges import going_on
from swath.deploy.int8 import open_graph
from swath.deploy.packed import pack
from swath.deploy.predictor import Predictor, PredictorSpec


@dataclass(eq=False)
class BundlePredictor:
    """Asks a bundle; `strangeness` adds its distance from what it was trained on; `int8` is a graph that answers."""

    bundle: Bundle
    strangeness: bool = False
    int8: str = ""

    def __post_init__(self) -> None:
        card, digest = self.bundle.card, self.bundle.digest
        self.graph = None
        if self.int8:
            if self.strangeness:
                raise UserError("an int8 graph gives no strangeness", where="--int8")
            self.graph, measured = open_graph(self.bundle, self.int8)
            digest = f"{digest} int8 {measured.sha256}"
        self.spec = PredictorSpec(
            self.bundle.name,
            self.bundle.inputs,
            self.bundle.label,
            digest,
            licence=card.licence,
            tile=card.tiling.tile,
            multiple=card.tiling.multiple,
            halo=card.tiling.halo,
            conformal=card.calibration.conformal,
            extras=("strangeness",) if self.strangeness else (),
            every_date=self.bundle.task.every_date,
            stride=0 if self.graph is not None else stride_of(self.bundle.task),
            width=sum(self.bundle.task.spec.widths[i] for i in self.bundle.task.levels),
        )

    def ready(self, precision: str, device: str) -> None:
        """Weights laid out for the processor, once; after it the bundle is good for answering only."""
        if self.graph is None and device == "cpu":
            pack(self.bundle.task, precision, getattr(self.bundle.task, "head", None))

    def going_on(self, sides: Tensor) -> AbstractContextManager[None]:
        """What stands on the encoder (where several dates are one already) continues its maps there; a graph cannot.
        What is drawn of single objects does not: its maps are theirs, and may be as many as tiles by chance."""
        if self.graph is not None:
            return nullcontext()
        task = self.bundle.task
        aside = (task.encoder, getattr(task, "roi", None))
        return going_on([m for m in task.children() if m not in aside], sides)

    def features(self, batch: Batch) -> Features:
        return self.bundle.task.features(self.bundle.prepare(batch))

    def answer(self, features: Features, batch: Batch) -> Mapping[str, Tensor]:
        """What the bundle makes of features that are given."""
        task = self.bundle.task
        before, task.store = task.store, lambda _: features
        try:
            return self.predict(batch)
        finally:
            task.store = before

    def predict(self, batch: Batch) -> Mapping[str, Tensor]:
        if self.graph is not None:
            return self.graph.predict(batch)
        given = self.bundle.predict(batch, uncertainty=self.strangeness)
        ratio = float(getattr(self.bundle.task, "ratio", 1.0))
        if "boxes" not in given or ratio == 1.0:
            return given
        if "masks" in given:
            raise UserError(
                f"its masks have {ratio:g} pixels per pixel of the scene",
                where=f"bundle {self.bundle.name}",
                remedy="map instances at the resolution of their labels",
            )
        return {**given, "boxes": given["boxes"] / ratio}


def stride_of(task: TaskModule) -> int:
    """Pixels per cell of a task's features if tiles' can be joined, else 0: they are of a plain transformer, which has
    no edges of its own and whose maps are all of one stride, and the decoder on them says that it looks near by."""
    spec, decoder = task.spec, getattr(getattr(task, "head", None), "decoder", None)
    strides = {spec.strides[i] for i in task.levels}
    if not getattr(decoder, "local", False) or len(strides) != 1 or spec.patch < 2 or task.ratio != 1.0:
        return 0
    stride = strides.pop()
    return int(stride) if stride == spec.patch else 0


@dataclass(frozen=True)
class OpenBundle:
    """Opens a bundle folder or `.swath` file on a device; `base` if a delta needs to be told; `int8` names a graph."""

    path: str
    device: str = "cpu"
    strangeness: bool = False
    base: str = ""
    int8: str = ""

    def __call__(self) -> Predictor:
        if self.int8 and self.device != "cpu":
            raise UserError("an int8 graph runs on the processor", where="--int8", remedy="leave --device out")
        bundle = Bundle.load(self.path, self.base or None).to(self.device)
        return BundlePredictor(bundle, self.strangeness, self.int8)


@dataclass(frozen=True)
class OpenRasters:
    """Opens rasters as one scene."""

    paths: tuple[str, ...]
    hints: SceneHints = field(default_factory=SceneHints)
    card: str = ""

    def __call__(self) -> Scene:
        ref = self.paths[0] if len(self.paths) == 1 else list(self.paths)
        return open_scene(ref, self.card or None, self.hints)
