"""A conditional diffusion decoder: a U-Net on patches of the noised image, and deterministic DDIM sampling.

x0 = net(x_t, t | latent); x_s = sqrt(a_s) x0 + sqrt(1 - a_s) (x_t - sqrt(a_t) x0) / sqrt(1 - a_t)
DDIM: https://arxiv.org/abs/2010.02502; zero terminal noise: https://arxiv.org/abs/2305.08891.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class UNetPlan:
    """Sizes: `widths` per level, finest first; `attend` says which levels have attention."""

    channels: int
    latent: int
    widths: tuple[int, ...] = (256, 512, 512, 512)
    attend: tuple[bool, ...] = (False, False, True, True)
    blocks: int = 3
    heads: int = 1
    patch: int = 4


def timestep_code(t: Tensor, dim: int) -> Tensor:
    """(B, dim): cosines, then sines."""
    half = dim // 2
    rate = torch.exp(-math.log(10_000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angle = t[:, None].float() * rate
    return torch.cat([angle.cos(), angle.sin()], -1)


class Residual(nn.Module):
    """Two convolutions with the time code added between."""

    def __init__(self, width: int, out: int, code: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(code, out))
        tail = nn.Conv2d(out, out, 3, padding=1)
        nn.init.zeros_(tail.weight)
        self.out_layers = nn.Sequential(nn.GroupNorm(32, out), nn.SiLU(), nn.Identity(), tail)
        self.skip_connection = nn.Conv2d(width, out, 1) if width != out else nn.Identity()

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(code)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class SpatialAttention(nn.Module):
    """Self-attention over all cells; each head holds its own query, key and value together."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv = nn.GroupNorm(32, width), nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)
        nn.init.zeros_(self.proj_out.weight)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        b, c, h, w = x.shape
        flat = x.flatten(2)
        q, k, v = self.qkv(self.norm(flat)).view(b, self.heads, -1, h * w).transpose(2, 3).chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(b, c, h * w)
        return (flat + self.proj_out(y)).view(b, c, h, w)


class Half(nn.Module):
    """Half the resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, 2, 1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        return self.op(x)


class Double(nn.Module):
    """Twice the resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Entry(nn.Conv2d):
    """The first convolution: it takes no time code, and stands in a list with parts that do."""

    def forward(self, input: Tensor, code: Tensor | None = None) -> Tensor:
        return super().forward(input)


def _run(parts: nn.Module, x: Tensor, code: Tensor) -> Tensor:
    for part in parts.children():
        x = part(x, code)
    return x


class UNet(nn.Module):
    """Predicts the image (or noise) from the noised image, the time and the latent grid beside it."""

    def __init__(self, plan: UNetPlan) -> None:
        super().__init__()
        self.plan = plan
        base, code = plan.widths[0], 4 * plan.widths[0]
        cells = plan.channels * plan.patch**2
        self.time_embed = nn.Sequential(nn.Linear(base, code), nn.SiLU(), nn.Linear(code, code))
        down: list[list[nn.Module]] = [[Entry(cells + plan.latent, base, 3, padding=1)]]
        skips, width = [base], base
        for level, out in enumerate(plan.widths):
            for _ in range(plan.blocks):
                down.append(self._stage(width, out, code, plan.attend[level]))
                width = out
                skips.append(width)
            if level < len(plan.widths) - 1:
                down.append([Half(width)])
                skips.append(width)
        middle: list[nn.Module] = [Residual(width, width, code), SpatialAttention(width, plan.heads),
                                   Residual(width, width, code)]  # fmt: skip
        up: list[list[nn.Module]] = []
        for level, out in reversed(list(enumerate(plan.widths))):
            for i in range(plan.blocks + 1):
                stage = self._stage(width + skips.pop(), out, code, plan.attend[level])
                width = out
                up.append([*stage, Double(width)] if level and i == plan.blocks else stage)
        self.input_blocks = nn.ModuleList(nn.ModuleList(s) for s in down)
        self.middle_block = nn.ModuleList(middle)
        self.output_blocks = nn.ModuleList(nn.ModuleList(s) for s in up)
        tail = nn.Conv2d(base, cells, 3, padding=1)
        nn.init.zeros_(tail.weight)
        self.out = nn.Sequential(nn.GroupNorm(32, base), nn.SiLU(), tail)

    def _stage(self, width: int, out: int, code: int, attend: bool) -> list[nn.Module]:
        block = Residual(width, out, code)
        return [block, SpatialAttention(out, self.plan.heads)] if attend else [block]

    def forward(self, x: Tensor, t: Tensor, latent: Tensor) -> Tensor:
        code = self.time_embed(timestep_code(t, self.plan.widths[0]).to(x.dtype))
        h = F.pixel_unshuffle(x, self.plan.patch)
        h = torch.cat([h, F.interpolate(latent, h.shape[2:], mode="nearest")], 1)
        skips: list[Tensor] = []
        for stage in self.input_blocks:
            h = _run(stage, h, code)
            skips.append(h)
        h = _run(self.middle_block, h, code)
        for stage in self.output_blocks:
            h = _run(stage, torch.cat([h, skips.pop()], 1), code)
        return F.pixel_shuffle(self.out(h), self.plan.patch)


@dataclass(frozen=True)
class Noise:
    """A noise schedule of `steps`, linear in beta, rescaled so that the last step is pure noise."""

    steps: int = 1000
    first: float = 1e-4
    last: float = 0.02
    zero_terminal: bool = True
    quantile: float = 0.995
    ceiling: float = 1.0

    def kept(self) -> Tensor:
        """The share of signal variance after each step (the cumulated alphas)."""
        kept = (1.0 - torch.linspace(self.first, self.last, self.steps, dtype=torch.float32)).cumprod(0)
        if not self.zero_terminal:
            return kept
        root = kept.sqrt()
        root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        return root.square()

    def timesteps(self, n: int) -> list[int]:
        """The n steps visited, from the noisiest (`trailing` spacing)."""
        stride = self.steps / n
        return [round(self.steps - i * stride) - 1 for i in range(n)]

    def add(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The image after t steps of noise."""
        kept = self.kept().to(x)[t].view(-1, 1, 1, 1)
        return kept.sqrt() * x + (1.0 - kept).sqrt() * noise

    def limit(self, x0: Tensor) -> Tensor:
        """Dynamic thresholding: clip to a quantile of each image's own magnitude and rescale."""
        top = torch.quantile(x0.float().abs().flatten(1), self.quantile, dim=1).clamp(1.0, self.ceiling)
        top = top.view(-1, 1, 1, 1).to(x0.dtype)
        return x0.clamp(-top, top) / top

    def back(self, x0: Tensor, x: Tensor, t: int, to: int) -> Tensor:
        """One DDIM step from t to `to` (-1: the clean image), given the predicted image."""
        kept = self.kept().to(x)
        here, there = kept[t], kept[to] if to >= 0 else torch.ones_like(kept[0])
        noise = (x - here.sqrt() * x0) / (1.0 - here).sqrt()
        return there.sqrt() * self.limit(x0) + (1.0 - there).sqrt() * noise


def sample(net: UNet, latent: Tensor, start: Tensor, schedule: Noise, steps: int) -> Tensor:
    """From noise to an image in `steps` DDIM steps."""
    times: Sequence[int] = [*schedule.timesteps(steps), -1]
    x = start
    for t, to in itertools.pairwise(times):
        x0 = net(x, torch.full((len(x),), t, device=x.device), latent)
        x = schedule.back(x0, x, t, to)
    return x
