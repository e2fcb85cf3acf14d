"""TuneRun: what `run.yaml` says. Classes, bands, statistics and sizes are never here: they come from the data.

```yaml
name: scars
data: {kind: folder, path: scars/}
encoder: {kind: swath-vit, size: tiny}
task: segment
tuning: {kind: lora, rank: 8}
loop: {epochs: 20, batch_size: 16, lr: 0.001}
```
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from swath.adapt.augment import Augment
from swath.adapt.fusion import How
from swath.adapt.tasks import TASKS, TaskConfig
from swath.adapt.tuning import TUNINGS, TuningConfig
from swath.adapt.tuning.full import Full
from swath.core.config import bounded
from swath.data.sources import SOURCES, SourceConfig
from swath.models import ENCODERS, EncoderConfig
from swath.models.decoders import DECODERS, Decoder
from swath.models.inputs import Adaptation
from swath.train import LoopConfig


@dataclass(frozen=True)
class Trust:
    """What the run says about its own certainty.

    `alpha` is the miss rate of conformal sets and intervals, fitted on the validation split and checked on the test
    split. `ood` keeps a model of the features seen in training, for a score of strangeness.
    """

    calibrate: bool = True
    alpha: float = 0.1
    ood: bool = True
    laplace: bool = False
    bootstrap: int = 1000
    chips: int = 4

    def __post_init__(self) -> None:
        bounded(self, "trust", {"alpha": (0.0, 0.999), "bootstrap": (0, math.inf), "chips": (0, math.inf)})


@dataclass(frozen=True)
class TuneRun:
    """One fit. `decoder` and `fusion` default to what the task wants; `bands` to all that the encoder takes.

    `weights` is the name of a weights record or a file, `adaptation` the liberties taken with the encoder's inputs.
    Frozen encoders without augmentation cache their features (`cache`), under `out` or in the
    folder `features`, which many runs may share. `out` defaults to `runs/NAME`.
    """

    name: str
    data: Annotated[SourceConfig, SOURCES]
    encoder: Annotated[EncoderConfig, ENCODERS]
    task: Annotated[TaskConfig, TASKS]
    tuning: Annotated[TuningConfig, TUNINGS] = field(default_factory=Full)
    decoder: Annotated[Decoder | None, DECODERS] = None
    weights: str = ""
    exceptions: tuple[str, ...] = ()
    adaptation: Adaptation = field(default_factory=Adaptation)
    bands: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    fusion: How = "auto"
    augment: Augment = field(default_factory=Augment)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(epochs=20))
    trust: Trust = field(default_factory=Trust)
    splits: Literal["source", "random"] = "source"
    cache: bool = True
    features: str = ""
    out: str = ""
