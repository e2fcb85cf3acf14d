"""Contracts between rooms: what an encoder, an objective, a task and a tuning promise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from swath.core.batch import Batch, LabelKind
from swath.core.errors import UserError
from swath.core.grid import Grid, Window
from swath.core.sensor import Sensor

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Features:
    """What an encoder gives: pyramid `maps` (B, C, h, w) from fine to coarse with their `strides` (input pixels
    per cell, of the finest input layer), `tokens` (B, N, D) where it has them, and one `pooled` vector (B, D)."""

    maps: tuple[Tensor, ...]
    pooled: Tensor
    strides: tuple[float, ...]
    tokens: Tensor | None = None

    def __post_init__(self) -> None:
        if len(self.maps) != len(self.strides):
            raise UserError(f"{len(self.maps)} maps with {len(self.strides)} strides")
        if self.pooled.ndim != 2 or any(m.ndim != 4 for m in self.maps):
            raise UserError("pooled must be (B, D) and every map (B, C, h, w)")


@dataclass(frozen=True)
class Input:
    """One sensor an encoder takes: bands in order, the unit and statistics in which the weights saw them.

    The weights saw (convert(x, unit) * gain + bias - mean) / std, clipped to `clip` when given. `gain` covers
    e.g. reflectance x 10000. `required` inputs refuse a batch without them.
    """

    sensor: str
    bands: tuple[str, ...]
    unit: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    gain: float = 1.0
    bias: float = 0.0
    clip: tuple[float, float] | None = None
    required: bool = False


@dataclass(frozen=True)
class EncoderSpec:
    """What an encoder is: inputs (empty with `any_bands`: takes whatever declares wavelengths), sizes, licence."""

    name: str
    inputs: tuple[Input, ...]
    widths: tuple[int, ...]
    strides: tuple[float, ...]
    pooled: int
    patch: int = 1
    depth: int = 0
    native_time: bool = False
    any_bands: bool = False
    licence: str = "unknown"
    notes: str = ""


@dataclass(frozen=True)
class LabelSpec:
    """What a label means: its kind, its classes in order (mask, class, tags, boxes) or its unit and range."""

    name: str
    kind: LabelKind
    classes: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    unit: str = ""
    low: float | None = None
    high: float | None = None
    gsd: float | None = None


class Source(Protocol):
    """Samples by index, whatever the layout they come from. A sample is a Batch with B = 1 in physical units.

    `where.key` of a sample is its stable identity; `fingerprint` a hash of what the source would read.
    """

    name: str
    sensors: tuple[Sensor, ...]
    labels: Mapping[str, LabelSpec]
    licence: str

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def splits(self) -> Mapping[str, Sequence[int]]:
        """Indices per split name (`train`, `val`, `test`, ...); disjoint."""
        ...

    def sample(self, index: int, bands: Mapping[str, Sequence[str]] | None = None) -> Batch:
        """The sample at `index`; `bands` (sensor id -> band names) reads only these sensors and bands."""
        ...


class Scene(Protocol):
    """Something large, read by windows of its own grid: rasters, mosaics, STAC items, the world."""

    grid: Grid
    sensors: tuple[Sensor, ...]

    @property
    def fingerprint(self) -> str: ...

    def read(self, window: Window, bands: Mapping[str, Sequence[str]] | None = None) -> Batch:
        """Every layer over this window of `grid` (which may reach beyond it: invalid there), B = 1.

        Layers of a coarser gsd come at their own resolution, covering the same ground.
        """
        ...


class Encoder(Protocol):
    """An `nn.Module` that turns a batch into features. `levels` picks pyramid indices; None gives all."""

    spec: EncoderSpec

    def __call__(self, batch: Batch, levels: Sequence[int] | None = None) -> Features: ...


@dataclass(frozen=True)
class Tokens:
    """A token sequence: `x` (B, N, D), `valid` (B, N) bool, and per token its sensor index, timestep, row, column.

    `place` is int64 (N, 5): sensor, group, timestep, row, column; `grids` says (rows, columns) per sensor index.
    """

    x: Tensor
    valid: Tensor
    place: Tensor
    sensors: tuple[str, ...]
    grids: tuple[tuple[int, int], ...]


class TokenEncoder(Encoder, Protocol):
    """An encoder whose tokens can be dropped, masked or prompted."""

    def tokenize(self, batch: Batch) -> Tokens: ...

    def encode(self, tokens: Tokens, keep: Tensor | None = None) -> Tensor:
        """Encoded tokens (B, K, D) for `keep` (B, K) int64 indices; all tokens when None."""
        ...


@dataclass
class Step:
    """One forward's outcome: `loss` (a scalar to minimise), named `terms` for the log, and `weight`, the true
    count it averages over (masked tokens, valid pixels, samples), by which accumulation normalises."""

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    weight: float = 1.0


class Objective(Protocol):
    """A pretraining objective, an `nn.Module` around an encoder: `objective(batch, generator) -> Step`.

    `batch_coupled`: samples of a batch meet in the loss. `after_step` runs after the optimiser (EMA, queues).
    """

    encoder: nn.Module
    batch_coupled: bool

    def __call__(self, batch: Batch, generator: torch.Generator) -> Step: ...

    def after_step(self, step: int, total: int) -> None: ...


class Task(Protocol):
    """What a user wants: an `nn.Module` with encoder, decoder, head; the same call as an objective in training.

    `predict` gives named arrays in the user's terms; `scores` streams: update with a batch, compute at the end.
    """

    def __call__(self, batch: Batch, generator: torch.Generator) -> Step: ...

    def predict(self, batch: Batch) -> dict[str, Tensor]: ...

    def scores(self) -> Scores: ...


class Scores(Protocol):
    """Streaming scores of a task. The first name of `primary` is what early stopping watches."""

    primary: str
    direction: Literal["max", "min"]

    def update(self, prediction: Mapping[str, Tensor], batch: Batch) -> None: ...

    def compute(self) -> dict[str, float]: ...


class Tuning(Protocol):
    """How the weights may move: freezes, inserts or wraps; gives back the encoder to use."""

    def apply(self, encoder: nn.Module) -> nn.Module: ...


Transform = Callable[[Batch, int], Batch]
"""A deterministic change of a batch; the int is the epoch (draws come from `rng.generator(seed, epoch, key, ...)`)."""
