"""A toy source, encoder and task for the tests of the loop."""

import os
import signal
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from swath.core import SENSORS, Batch, Label, Layer, Step, Where, generator

S2 = SENSORS.get("sentinel2-l2a").select(["red", "green", "nir"])


@dataclass
class ToySource:
    n: int = 24
    size: int = 8
    poison: int = -1
    name: str = "toy"
    licence: str = "none"
    labels: ClassVar = {}
    sensors: ClassVar = (S2,)

    @property
    def fingerprint(self):
        return f"toy-{self.n}-{self.size}"

    def __len__(self):
        return self.n

    def splits(self):
        return {"train": range(self.n)}

    def sample(self, index, bands=None):
        g = generator("toy", index)
        x = torch.rand(1, 1, 3, self.size, self.size, generator=g)
        valid = torch.rand(1, 1, 1, self.size, self.size, generator=g) > 0.3 * torch.rand(1, generator=g)
        target = x[:, 0, :1].mean((1, 2, 3)) * 3 - x[:, 0, 2].mean((1, 2))
        if index == self.poison:
            target = target * float("inf")
        where = Where(torch.tensor([index + 100]), torch.zeros(1, 2, dtype=torch.float64), (), (f"chip-{index}",))
        labels = {"y": Label("scalar", target, torch.ones(1, dtype=torch.bool))}
        return Batch({S2.id: Layer(S2, x, valid)}, where, labels)


class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.Linear(2 * d, d)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


class ToyEncoder(nn.Module):
    def __init__(self, d=16, depth=3):
        super().__init__()
        self.embed = nn.Linear(3 * 16, d)
        self.blocks = nn.ModuleList(Block(d) for _ in range(depth))
        self.norm = nn.LayerNorm(d)

    def forward(self, x):
        b, c, h, w = x.shape
        tokens = x.reshape(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class ToyTask(nn.Module):
    """Weighted regression: the weight of a batch is its count of valid pixels, so parts weigh differently."""

    def __init__(self, dropout=0.0, noise=False, sleep_kill=None):
        super().__init__()
        torch.manual_seed(7)
        self.encoder, self.head, self.drop = ToyEncoder(), nn.Linear(16, 1), nn.Dropout(dropout)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.noise, self.kill_at = noise, sleep_kill

    def forward(self, batch, g):
        layer = batch.layers[S2.id]
        if self.kill_at is not None and g.initial_seed() and int(self.seen) == self.kill_at and self.training:
            os.kill(os.getpid(), signal.SIGKILL)
        y = self.head(self.drop(self.encoder(layer.x[:, 0]).mean(1)))[:, 0]
        target = batch.labels["y"].value
        if self.noise:
            draws = [torch.rand((), generator=generator(g.initial_seed(), int(k), "noise")) for k in batch.where.key]
            target = target + torch.stack(draws) - 0.5
        w = layer.valid.float().mean((1, 2, 3, 4))
        loss = (w * (y - target) ** 2).sum() / w.sum()
        return Step(loss, {"abs": (w * (y - target).abs()).sum() / w.sum()}, float(w.sum()))

    def after_step(self, step, total):
        self.seen += 1


def flat(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)
