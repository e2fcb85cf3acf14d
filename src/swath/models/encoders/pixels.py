"""Raw pixels as an encoder: no weights, nothing learned. The floor that every other encoder must clear.

The map is the normalised values themselves at stride 1, timestep after timestep; the pooled vector their means and
deviations over valid pixels. A date that is missing stays at the mean (0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from swath.core import EncoderSpec, Features, UserError, Where
from swath.models.encoder import EncoderModule, per_timestep
from swath.models.inputs import View, single, standard_input
from swath.models.loading import Layout


@dataclass(frozen=True)
class Pixels:
    """`steps` is the number of timesteps the vector holds: a series of another length is refused, but one step holds
    the mean over the valid timesteps of any series."""

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

    like: Tensor

    def __init__(self, config: Pixels) -> None:
        super().__init__()
        want = standard_input(config.sensor, config.bands)
        channels = len(want.bands) * config.steps
        self.steps = config.steps
        # there is no parameter to tell the type in which to compute
        self.register_buffer("like", torch.zeros(()), persistent=False)
        self.spec = EncoderSpec(
            name=f"pixels/{config.size}",
            inputs=(want,),
            widths=(channels,),
            strides=(1.0,),
            pooled=2 * channels,
            native_time=True,
            licence="Apache-2.0",
            notes="no training: no weights",
        )

    @property
    def dtype(self) -> torch.dtype:
        return self.like.dtype

    def features(self, views: Mapping[str, View], where: Where) -> Features:
        del where
        view = single(views, self.spec.name)
        t = view.x.shape[1]
        if self.steps == 1 and t > 1:
            valid = view.valid.flatten(0, 1)[:, None]
            return per_timestep(view, lambda x, rows: self._stacked(x[:, None], valid))
        if t != self.steps:
            raise UserError(f"{t} timesteps for {self.steps}", where=self.spec.name, remedy="set `steps`")
        return self._stacked(view.x, view.valid)

    def _stacked(self, x: Tensor, valid: Tensor) -> Features:
        """Values and moments of (B, T, C, H, W), timestep after timestep."""
        count = valid.sum((-1, -2)).clamp_min(1).to(x.dtype)
        x = x * valid
        mean = x.sum((-1, -2)) / count
        centred = (x - mean[..., None, None]) * valid
        spread = (centred.square().sum((-1, -2)) / count).sqrt()
        pooled = torch.cat([mean.flatten(1), spread.flatten(1)], 1)
        return Features((x.flatten(1, 2),), pooled, (1.0,))


MEMBER = Pixels
