"""Predictor: what a model must say about itself before it may draw a map, and the one call that it answers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from swath.core import Batch, Features, Input, LabelSpec, Scene, UserError

MAIN = {"mask": "probabilities", "map": "values", "boxes": "boxes"}
"""Kind of label -> the array that a predictor must give: (B, K, H, W) at the scene's grid, or boxes (B, N, 4) in
pixels with `scores`, `classes`, `counts` and, for instances, `masks` (B, N, H, W)."""


@dataclass(frozen=True)
class PredictorSpec:
    """What a predictor takes and gives, and how it likes its tiles.

    `digest` is the sha256 of everything that decides its output (weights and settings). A tile's sides are a
    multiple of `multiple`; `halo` pixels along a tile's inner edges are computed and thrown away. `conformal` is the
    threshold q of a calibrated prediction set {k : p_k >= 1 - q}. `extras` names further arrays (B, H, W) to map. With
    `every_date` (a change) nothing is said of a pixel that one of the dates hides.

    `stride` above zero declares two steps (`Stepwise`): features in cells of so many pixels, `width` numbers each, and
    an answer that looks at features and pixels near by alone, some `reach` pixels (four cells, if it is not told). Then
    a map may join the features of many tiles before the second step. A model whose second step sees a whole tile (pools
    it, norms it) leaves `stride` at zero.
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
    extras: tuple[str, ...] = ()
    every_date: bool = False
    stride: int = 0
    width: int = 0
    reach: int = 0

    def __post_init__(self) -> None:
        if self.label.kind not in MAIN:
            raise UserError(
                f"a label of kind '{self.label.kind}' cannot be mapped",
                where=self.name,
                remedy=f"map takes models whose label is one of {', '.join(MAIN)}",
            )
        if self.label.kind in ("mask", "boxes") and not self.label.classes:
            raise UserError("the label has no classes", where=self.name)
        if self.tile < 1 or self.multiple < 1 or self.halo < 0 or self.tile % self.multiple or self.stride < 0:
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
    def planes(self) -> int:
        """All planes that are blended: the main array and the extras."""
        return self.channels + len(self.extras)

    @property
    def main(self) -> str:
        return MAIN[self.label.kind]


class Predictor(Protocol):
    """A model that maps: `predict` gives `probabilities` or `values`, (B, K, H, W) over the batch's ground."""

    @property
    def spec(self) -> PredictorSpec: ...

    def predict(self, batch: Batch) -> Mapping[str, Tensor]: ...


@runtime_checkable
class Preparing(Protocol):
    """A predictor that makes itself ready for a precision and a device before the first tile."""

    def ready(self, precision: str, device: str) -> None: ...


@runtime_checkable
class Continuing(Protocol):
    """A predictor that can be told at which sides of its tiles (B, 4 bool: top, bottom, left, right) the scene goes
    on, for what it is asked while that lasts."""

    def going_on(self, sides: Tensor) -> AbstractContextManager[None]: ...


@runtime_checkable
class Stepwise(Protocol):
    """A predictor that can be asked in two steps: features of tiles, and what `predict` would say of features. Those of
    the second may be joined of many tiles', over the ground of the batch; nothing is pooled there (NaN)."""

    def features(self, batch: Batch) -> Features: ...

    def answer(self, features: Features, batch: Batch) -> Mapping[str, Tensor]: ...


def prepared(predictor: Predictor, precision: str, device: str) -> Predictor:
    """The predictor, ready if it can be made so."""
    if isinstance(predictor, Preparing):
        predictor.ready(precision, device)
    return predictor


class OpenPredictor(Protocol):
    """A picklable way to open a predictor in this or another process."""

    def __call__(self) -> Predictor: ...


class OpenScene(Protocol):
    """A picklable way to open a scene in this or another process."""

    def __call__(self) -> Scene: ...


def planes(spec: PredictorSpec, given: Mapping[str, Tensor], shape: tuple[int, int, int]) -> Tensor:
    """The main array and the extras of an answer of this shape (B, H, W) as float32 (B, planes, H, W), checked."""
    parts: list[Tensor] = []
    for name, count in ((spec.main, spec.channels), *((e, 1) for e in spec.extras)):
        if name not in given:
            raise UserError(f"predict gave {sorted(given)} and no '{name}'", where=spec.name)
        out = given[name].to(torch.float32)
        out = out[:, None] if out.ndim == 3 and count == 1 else out
        want = (shape[0], count, *shape[1:])
        if tuple(out.shape) != want:
            raise UserError(f"'{name}' has the shape {tuple(out.shape)}, not {want}", where=spec.name)
        parts.append(out)
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]
