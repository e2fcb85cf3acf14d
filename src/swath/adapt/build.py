"""Recipe: everything that rebuilds a tuned module, as plain data; `assemble` does it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from torch import nn

from swath.adapt.fusion import Fused, How, fused
from swath.adapt.neighbours import install
from swath.adapt.task import Context, TaskModule
from swath.adapt.tasks import TASKS, TaskConfig
from swath.adapt.tuning import TUNINGS, TuningConfig
from swath.adapt.tuning.knn import KNN
from swath.core.contracts import LabelSpec
from swath.core.errors import UserError
from swath.models import ENCODERS, EncoderConfig
from swath.models.decoders import DECODERS, Decoder
from swath.models.decoders.linear import Linear
from swath.models.decoders.unet import UNet
from swath.models.inputs import Adaptation


@dataclass(frozen=True)
class Recipe:
    """The choices of a run and the numbers derived from its data (see `task.Context` for their meaning).

    `guide` names the sensor and band positions that a super-resolution answer starts from; `wide` is what `Planes` read
    (bundles of before do not say it: bands alone).
    """

    encoder: Annotated[EncoderConfig, ENCODERS]
    task: Annotated[TaskConfig, TASKS]
    tuning: Annotated[TuningConfig, TUNINGS]
    label: LabelSpec
    decoder: Annotated[Decoder | None, DECODERS] = None
    adaptation: Adaptation = field(default_factory=Adaptation)
    fusion: How = "auto"
    dates: int = 1
    size: tuple[int, int] = (64, 64)
    ratio: float = 1.0
    weights: tuple[float, ...] = ()
    centre: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    statistics: dict[str, dict[str, tuple[float, float]]] = field(
        default_factory=dict[str, dict[str, tuple[float, float]]]
    )
    guide: tuple[str, tuple[int, ...]] | None = None
    small: float = 0.0
    wide: bool = False


SLIM = 32
"""Width of a U-Net whose edges come from the pixels beside it: a quarter of the work of the default."""


def decoder_of(task: TaskConfig, tuning: TuningConfig, chosen: Decoder | None) -> Decoder | None:
    """The decoder of a run: none for tasks on the pooled vector, the linear one for a linear probe."""
    if not task.decoder:
        if chosen is not None:
            raise UserError(f"the task '{task.kind}' uses no decoder", where="decoder", remedy="leave the key out")
        return None
    if tuning.kind == "linear":
        return chosen if chosen is not None and chosen.kind == "linear" else Linear()
    if chosen is None and task.decoder == "unet" and getattr(task, "detail", 0):
        return UNet(SLIM)
    return chosen if chosen is not None else DECODERS.get(task.decoder)()


def assemble(recipe: Recipe, base: nn.Module) -> TaskModule:
    """The task on a base encoder. What is new draws its start from torch's generator: seed it before."""
    how: How = recipe.task.fusion if recipe.fusion == "auto" else recipe.fusion  # type: ignore[assignment]
    encoder = recipe.tuning.apply(base)
    # the tuning speaks of the encoder's own weights; what fuses dates is new and always learns
    encoder = fused(encoder, how, recipe.dates)
    context = Context(
        recipe.label, encoder, recipe.decoder, recipe.weights, recipe.centre, recipe.scale,
        recipe.ratio, recipe.statistics, recipe.size, recipe.dates, recipe.guide, recipe.small,
        recipe.wide,
    )  # fmt: skip
    task = recipe.task.build(context)
    if isinstance(recipe.tuning, KNN):
        install(task, recipe.tuning)
    return task


def trunk_of(task: TaskModule) -> nn.Module:
    """The tuned encoder beneath a task, without what fuses its dates."""
    return task.encoder.encoder if isinstance(task.encoder, Fused) else task.encoder
