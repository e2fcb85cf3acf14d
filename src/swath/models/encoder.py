"""EncoderModule: what every encoder here is. Input adaptation and time are settled once, the family does the rest.

An encoder without native time sees each valid timestep alone; its features are their mean over valid timesteps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from swath.core import Batch, EncoderSpec, Features, UserError, Where
from swath.models.inputs import Adaptation, View, prepare
from swath.models.loading import Proof


class EncoderModule(nn.Module, ABC):
    """Meets `core.contracts.Encoder`. A family sets `spec`, keeps official parameter names and writes `features`."""

    spec: EncoderSpec

    def __init__(self) -> None:
        super().__init__()
        self.adaptation = Adaptation()
        self.proof: Proof | None = None

    def forward(self, batch: Batch, levels: Sequence[int] | None = None) -> Features:
        views = prepare(batch, self.wanted(batch), self.adaptation, self.dtype)
        return pick(self.features(views, batch.where), levels, self.spec)

    def wanted(self, batch: Batch) -> EncoderSpec:
        """The spec that `batch` is prepared for; another than `spec` where inputs follow the batch."""
        return self.spec

    @property
    def dtype(self) -> torch.dtype:
        """The type in which the weights compute (a forward under autocast keeps float32 inputs)."""
        return next((p.dtype for p in self.parameters()), torch.float32)

    @abstractmethod
    def features(self, views: Mapping[str, View], where: Where) -> Features:
        """All levels of the prepared inputs."""
        ...


def pick(features: Features, levels: Sequence[int] | None, spec: EncoderSpec) -> Features:
    """These levels; negative ones count from the coarse end."""
    if levels is None:
        return features
    n = len(features.maps)
    wrong = [i for i in levels if not -n <= i < n]
    if wrong:
        raise UserError(f"{spec.name} has the levels 0..{n - 1}, not {wrong}", where=f"encoder {spec.name}")
    maps, strides = tuple(features.maps[i] for i in levels), tuple(features.strides[i] for i in levels)
    return Features(maps, features.pooled, strides, features.tokens)


def taps(depth: int, n: int = 4) -> tuple[int, ...]:
    """The blocks of a plain transformer whose outputs are its levels: n of them, evenly spaced, the last included."""
    n = min(n, depth)
    return tuple(round(depth * (i + 1) / n) - 1 for i in range(n))


def check_size(h: int, w: int, patch: int, who: str) -> None:
    """Refuse an image that patches do not tile."""
    if h % patch or w % patch or not h or not w:
        raise UserError(
            f"{who} needs sides that are multiples of {patch} pixels; the layer is {h} x {w}",
            where=f"encoder {who}",
            remedy="crop or pad the chips",
        )


def to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, h*w, D) as (B, D, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def per_timestep(view: View, run: Callable[[Tensor, Tensor], Features]) -> Features:
    """Encode each timestep alone and average over the valid ones.

    `run(x (N, C, H, W), rows (N,))` gets the images and the sample each belongs to. A sample whose timesteps are all
    invalid gets the features of its (blank) images: there is nothing else to say of it.
    """
    b, t = view.x.shape[:2]
    rows = torch.arange(b, device=view.x.device).repeat_interleave(t)
    out = run(view.x.flatten(0, 1), rows)
    if t == 1:
        return out
    seen = view.seen
    weight = torch.where(seen.any(1, keepdim=True), seen, torch.ones_like(seen)).float()
    weight = (weight / weight.sum(1, keepdim=True)).to(out.pooled.dtype)

    def mean(v: Tensor) -> Tensor:
        return torch.einsum("bt,bt...->b...", weight, v.unflatten(0, (b, t)))

    tokens = None if out.tokens is None else mean(out.tokens)
    return Features(tuple(mean(m) for m in out.maps), mean(out.pooled), out.strides, tokens)


def plain_features(
    tokens: Sequence[Tensor], grid: tuple[int, int], stride: float, pooled: Tensor | None = None, prefix: int = 1
) -> Features:
    """Features of a plain transformer from the tokens of its levels; the first `prefix` tokens hold no place."""
    maps = tuple(to_map(x[:, prefix:], grid) for x in tokens)
    last = tokens[-1]
    vector = (last[:, 0] if prefix else last.mean(1)) if pooled is None else pooled
    return Features(maps, vector, (stride,) * len(maps), last[:, prefix:])
