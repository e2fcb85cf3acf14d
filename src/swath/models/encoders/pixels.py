"""Raw pixels as an encoder: no weights, nothing learned. The floor that every other encoder must clear.

The map is the normalised values themselves at stride 1, timestep after timestep; the pooled vector their means and
deviations over valid pixels. A date that is missing stays at the mean (0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from swath.core import EncoderSpec, Features, UserError, Where
from swath.models.encoder import EncoderModule
from swath.models.inputs import View, single, standard_input
from swath.models.loading import Layout


@dataclass(frozen=True)
class Pixels:
    """`steps` is the number of timesteps the vector holds: a series of another length is refused."""

    kind: ClassVar[str] = "pixels"
    sizes: ClassVar[Mapping[str, int]] = {"tiny": 1}
    size: str = "tiny"
    sensor: str = "sentinel2-l2a"
    bands: tuple[str, ...] = ("blue", "green", "red", "nir")
    steps: int = 1

    def build(self) -> PixelEncoder:
        return PixelEncoder(self)

    def layout(self) -> Layout:
        return Layout()


class PixelEncoder(EncoderModule):
    """Two numbers a band and timestep for a chip, one a pixel for a map."""

    def __init__(self, config: Pixels) -> None:
        super().__init__()
        want = standard_input(config.sensor, config.bands)
        channels = len(want.bands) * config.steps
        self.steps = config.steps
        self.spec = EncoderSpec(
            name=f"pixels/{config.sensor}",
            inputs=(want,),
            widths=(channels,),
            strides=(1.0,),
            pooled=2 * channels,
            native_time=True,
            licence="Apache-2.0",
            notes="no weights",
        )

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        del where
        view = single(views, self.spec.name)
        t = view.x.shape[1]
        if t != self.steps:
            raise UserError(f"{t} timesteps for {self.steps}", where=self.spec.name, remedy="set `steps`")
        count = view.valid.sum((-1, -2)).clamp_min(1).to(view.x.dtype)
        x = view.x * view.valid
        mean = x.sum((-1, -2)) / count
        centred = (x - mean[..., None, None]) * view.valid
        spread = (centred.square().sum((-1, -2)) / count).sqrt()
        pooled = torch.cat([mean.flatten(1), spread.flatten(1)], 1)
        return Features((x.flatten(1, 2),), pooled, (1.0,))


MEMBER = Pixels
