"""Scenes and predictors that can be reasoned about; picklable, so that worker processes open them too."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from swath.core import SENSORS, Batch, Grid, Input, LabelSpec, Layer, SwathError, Where, Window
from swath.deploy.predictor import PredictorSpec

BANDS = ("blue", "green", "red", "nir")
S2 = SENSORS.get("sentinel2-l2a").select(BANDS)


@dataclass(frozen=True)
class NoiseScene:
    """Smooth noise, a function of the place alone, with a hole of nodata; nothing is held in memory."""

    height: int = 300
    width: int = 260
    steps: int = 1
    gaps: tuple[Window, ...] = ()
    broken: tuple[Window, ...] = ()
    crs: str = "EPSG:32633"
    origin: tuple[float, float] = (500000.0, 5300000.0)
    sensors: tuple = (S2,)

    @property
    def grid(self):
        return Grid(self.crs, (10.0, 0.0, self.origin[0], 0.0, -10.0, self.origin[1]), (self.height, self.width))

    @property
    def fingerprint(self):
        return f"noise-{self.height}-{self.width}-{self.steps}-{self.gaps}"

    def read(self, window, bands=None):
        for bad in self.broken:
            if window.clip(bad).area:
                raise SwathError("block 7 of band red does not decode", where="scene.tif")
        rows = np.arange(window.row, window.stop[0])[:, None]
        cols = np.arange(window.col, window.stop[1])[None, :]
        planes = []
        for t in range(self.steps):
            for b in range(4):
                wave = np.sin(rows * (0.05 + 0.013 * b) + t) * np.cos(cols * (0.043 + 0.011 * b)) * 0.1
                grain = np.sin(rows * 12.9898 + cols * 78.233 + b * 37.7 + t) * 43758.5453
                planes.append(0.3 + wave + 0.15 * (grain - np.floor(grain) - 0.5))
        x = np.stack(planes).reshape(1, self.steps, 4, *window.shape).astype(np.float32)
        inside = (rows >= 0) & (rows < self.height) & (cols >= 0) & (cols < self.width)
        for gap in self.gaps:
            r, c = gap.slices
            inside = inside & ~((rows >= r.start) & (rows < r.stop) & (cols >= c.start) & (cols < c.stop))
        valid = torch.from_numpy(np.broadcast_to(inside, (1, self.steps, 1, *window.shape)).copy())
        x = torch.where(valid, torch.from_numpy(x), torch.zeros(()))
        times = torch.arange(self.steps)[None] * 10 + 19000
        layer = Layer(S2, x, valid, times)
        return Batch({S2.id: layer}, Where.unknown(1))


def label(k=3):
    return LabelSpec("cover", "mask", tuple(f"class {i}" for i in range(k)))


@dataclass(eq=False)
class Conv:
    """Three 3x3 convolutions with fixed random weights: receptive radius 3."""

    k: int = 3
    tile: int = 64
    halo: int = 4
    conformal: float | None = None
    kind: str = "mask"
    spec: PredictorSpec = field(init=False)
    radius = 3

    def __post_init__(self):
        self.spec = PredictorSpec(
            "conv",
            (Input("sentinel2-l2a", BANDS, "reflectance", required=True),),
            label(self.k) if self.kind == "mask" else LabelSpec("height", "map", unit="m"),
            digest=f"conv-{self.k}",
            licence="MIT",
            tile=self.tile,
            halo=self.halo,
            conformal=self.conformal,
        )
        g = torch.Generator().manual_seed(1)
        k = self.k if self.kind == "mask" else 1
        self.w = [torch.randn(o, i, 3, 3, generator=g) / (3 * i**0.5) * 1.5 for i, o in ((4, 8), (8, 8), (8, k))]

    def predict(self, batch):
        x = (batch.layers["sentinel2-l2a"].x.mean(1) - 0.3) * 8
        for i, w in enumerate(self.w):
            x = torch.nn.functional.conv2d(torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect"), w)
            x = torch.relu(x) if i < 2 else x
        return {"probabilities": (3 * x).softmax(1)} if self.kind == "mask" else {"values": x}


@dataclass(eq=False)
class Placed(Conv):
    """Depends on the place in the tile as well, like a ViT: what blending must hide."""

    strength: float = 1.0

    def predict(self, batch):
        p = super().predict(batch)["probabilities"]
        h, w = p.shape[2:]
        bump = torch.linspace(-1, 1, h)[:, None] ** 2 + torch.linspace(-1, 1, w)[None, :] ** 2
        z = p.log() + self.strength * bump * torch.linspace(-1, 1, p.shape[1])[:, None, None]
        return {"probabilities": z.softmax(1)}


@dataclass(eq=False)
class Deadly(Conv):
    """Kills its own process the first time it meets the tile that starts at `at`; `always` makes it every time."""

    flag: Path = Path("never")
    after: int = 2
    always: bool = False
    seen: int = 0

    def predict(self, batch):
        self.seen += 1
        if self.seen > self.after and (self.always or not self.flag.exists()):
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict(batch)


@dataclass(eq=False)
class Slow(Conv):
    """Waits, so that a test can kill the run from outside."""

    wait_s: float = 0.03

    def predict(self, batch):
        time.sleep(self.wait_s)
        return super().predict(batch)
