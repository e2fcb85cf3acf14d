"""Predictor: what a model must say about itself before it may draw a map, and the one call that it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from swath.core import Batch, Input, LabelSpec, Scene, UserError

MAIN = {"mask": "probabilities", "map": "values"}
"""Kind of label -> the array that a predictor must give: (B, K, H, W) at the scene's grid."""


@dataclass(frozen=True)
class PredictorSpec:
    """What a predictor takes and gives, and how it likes its tiles.

    `digest` is the sha256 of everything that decides its output (weights and settings). A tile's sides are a
    multiple of `multiple`; `halo` pixels along a tile's inner edges are computed and thrown away. `conformal` is the
    threshold q of a calibrated prediction set {k : p_k >= 1 - q}.
    """

    name: str
    inputs: tuple[Input, ...]
    label: LabelSpec
    digest: str
    licence: str = "unknown"
    tile: int = 224
    multiple: int = 1
    halo: int = 0
    conformal: float | None = None

    def __post_init__(self) -> None:
        if self.label.kind not in MAIN:
            raise UserError(
                f"a label of kind '{self.label.kind}' cannot be drawn pixel by pixel",
                where=self.name,
                remedy=f"map takes models whose label is one of {', '.join(MAIN)}",
            )
        if self.label.kind == "mask" and not self.label.classes:
            raise UserError("the label has no classes", where=self.name)
        if self.tile < 1 or self.multiple < 1 or self.halo < 0 or self.tile % self.multiple:
            raise UserError(f"tile {self.tile}, multiple {self.multiple}, halo {self.halo} do not fit", where=self.name)

    @property
    def bands(self) -> dict[str, tuple[str, ...]]:
        """Sensor id -> bands to read."""
        return {i.sensor: i.bands for i in self.inputs}

    @property
    def channels(self) -> int:
        """Planes of the main array: classes, or one value."""
        return len(self.label.classes) if self.label.kind == "mask" else 1

    @property
    def main(self) -> str:
        return MAIN[self.label.kind]


class Predictor(Protocol):
    """A model that maps: `predict` gives `probabilities` or `values`, (B, K, H, W) over the batch's ground."""

    @property
    def spec(self) -> PredictorSpec: ...

    def predict(self, batch: Batch) -> Mapping[str, Tensor]: ...


class OpenPredictor(Protocol):
    """A picklable way to open a predictor in this or another process."""

    def __call__(self) -> Predictor: ...


class OpenScene(Protocol):
    """A picklable way to open a scene in this or another process."""

    def __call__(self) -> Scene: ...


def planes(predictor: Predictor, batch: Batch, size: int) -> Tensor:
    """The main array as float32 (B, K, size, size), checked."""
    spec = predictor.spec
    given = predictor.predict(batch)
    if spec.main not in given:
        raise UserError(f"predict gave {sorted(given)} and no '{spec.main}'", where=spec.name)
    out = given[spec.main].to(torch.float32)
    want = (len(batch), spec.channels, size, size)
    if tuple(out.shape) != want:
        raise UserError(f"'{spec.main}' has the shape {tuple(out.shape)}, not {want}", where=spec.name)
    return out
