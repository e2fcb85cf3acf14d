"""The network that both sides of the map benchmarks run, a timm ViT and a UNet decoder with random weights; scenes.

TerraTorch's side builds the trunk with timm, ours with `swath.models.vit`, which reads the same keys and needs no timm;
`check` compares the two. What needs trained weights tunes a bundle: `map_bf16.py`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

BANDS = ("blue", "green", "red", "nir", "swir16", "swir22")
SENSOR = "sentinel2-l2a"
LABEL = "land_cover"
CLASSES = 2
TRUNK = "vit_small_patch16_224"
MEAN, STD = 0.2, 0.08
DIMS = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}


def network(state: str = "", classes: int = CLASSES, trunk: str = TRUNK, plain: bool = False):
    """Normalised reflectance in, logits out. `plain`: the trunk is Swath's, else timm's."""
    import torch
    from torch import nn

    held = torch.load(state, weights_only=True) if state else {}
    trunk, classes = held.get("trunk", trunk), held.get("classes", classes)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.trunk = _plain(trunk) if plain else _timm(trunk)
            self.width = DIMS[trunk.split("_")[1]][0]
            widths = (DIMS[trunk.split("_")[1]][0], 256, 128, 64, 32)
            self.stages = nn.ModuleList(
                nn.Sequential(
                    nn.ConvTranspose2d(a, b, 2, 2), nn.Conv2d(b, b, 3, padding=1), nn.ReLU(),
                    nn.Conv2d(b, b, 3, padding=1), nn.ReLU(),
                )
                for a, b in zip(widths, widths[1:])  # noqa: B905, RUF007
            )  # fmt: skip
            self.head = nn.Conv2d(32, classes, 1)

        def forward(self, x):
            return self.finish(self.cells(x))

        def cells(self, x):
            if plain:
                x = self.trunk.norm(self.trunk.tokens(x, (len(self.trunk.blocks) - 1,))[0])[:, 1:]
            else:
                x = self.trunk.forward_features(x)[:, 1:]
            side = int(x.shape[1] ** 0.5)
            return x.transpose(1, 2).unflatten(2, (side, side))

        def finish(self, x):
            for stage in self.stages:
                x = stage(x)
            return self.head(x)

    net = Net().eval()
    if state:
        net.load_state_dict(held["net"])
    return net


def _timm(trunk: str):
    import timm

    return timm.create_model(trunk, in_chans=6, num_classes=0, dynamic_img_size=True)


def _plain(trunk: str):
    from swath.models.vit import PlainViT, ViTCard, ViTShape

    dim, heads = DIMS[trunk.split("_")[1]]
    return PlainViT(ViTShape(bands=6, dim=dim, heads=heads), ViTCard(trunk, (), "apache-2.0"))


def tile_of(state: str) -> int:
    import torch

    return int(torch.load(state, weights_only=True).get("tile", 224)) if state else 224


def check(state: str) -> float:
    """The largest difference between the two trunks' logits."""
    import torch

    side = tile_of(state)
    x = torch.randn(2, 6, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return float((network(state)(x) - network(state, plain=True)(x)).abs().max())


def save_state(path: Path, scene: Path, classes: int = CLASSES, trunk: str = TRUNK, every: bool = True) -> None:
    """Random weights, each convolution brought to zero mean and unit variance on this scene (Kraehenbuehl et al. 2016,
    arXiv:1511.06856), or the head alone: as they are drawn, features hardly vary, and the map is one class."""
    import rasterio
    import torch

    net = network(classes=classes, trunk=trunk)
    with rasterio.open(scene) as file:
        data = torch.from_numpy(file.read(window=((0, 448), (0, 448))).astype("float32") * 1e-4 - 0.1)
    x = torch.stack([data[:, a : a + 224, b : b + 224] for a in (0, 200) for b in (16, 224)])
    convolutions = [m for m in (*net.stages.modules(), net.head) if hasattr(m, "kernel_size")][0 if every else -1 :]
    with torch.inference_mode():
        for layer in convolutions:
            seen = []
            hook = layer.register_forward_hook(lambda m, i, z: seen.append(z))  # noqa: B023
            net((x - MEAN) / STD)
            hook.remove()
            gain = (2 if layer is net.head else 1) / seen[0].std((0, 2, 3))
            layer.bias.sub_(seen[0].mean((0, 2, 3))).mul_(gain)
            shape = (1, -1, 1, 1) if isinstance(layer, torch.nn.ConvTranspose2d) else (-1, 1, 1, 1)
            layer.weight.mul_(gain.view(shape))
    torch.save({"trunk": trunk, "classes": classes, "tile": 224, "net": net.state_dict()}, path)


@dataclass(eq=False)
class Net:
    """The network as a predictor."""

    state: str = ""
    tile: int = 0
    classes: int = CLASSES
    spec: object = field(init=False)
    spent: float = 0.0

    def __post_init__(self):
        from swath.core import Input, LabelSpec
        from swath.deploy.predictor import PredictorSpec

        self.net = network(self.state, self.classes, plain=True)
        self.classes = self.net.head.out_channels
        label = LabelSpec("cover", "mask", tuple(f"c{i}" for i in range(self.classes)))
        tile = self.tile or tile_of(self.state)
        inputs = (Input(SENSOR, BANDS, "reflectance"),)
        self.spec = PredictorSpec(
            "net",
            inputs,
            label,
            self.state or "net",
            tile=tile,
            multiple=16,
            stride=16,
            width=self.net.width,
            reach=30,  # two convolutions at 8, 4, 2 and 1 pixels a cell
        )

    def ready(self, precision, device):
        from swath.deploy.packed import pack

        pack(self.net, precision, self.net.head)

    def going_on(self, sides):
        from swath.deploy.edges import going_on

        return going_on([self.net.stages, self.net.head], sides)

    def predict(self, batch):
        return self.answer(self.features(batch), batch)

    def features(self, batch):
        from swath.core import Features

        begin = time.thread_time()
        x = self.net.cells((batch.layers[SENSOR].x[:, 0] - MEAN) / STD)
        self.spent += time.thread_time() - begin
        return Features((x,), x.mean((2, 3)), (16.0,))

    def answer(self, features, batch):
        begin = time.thread_time()
        out = self.net.finish(features.maps[0]).float().softmax(1)
        self.spent += time.thread_time() - begin
        return {"probabilities": out}


@dataclass(frozen=True)
class Open:
    net: Net

    def __call__(self):
        return self.net


def write_scene(path: Path, side: int) -> None:
    """Smooth noise and grain, as deflate GeoTIFF."""
    import numpy as np
    import rasterio
    from rasterio.transform import Affine
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    base = gaussian_filter(rng.standard_normal((6, side, side)).astype(np.float32), (0, 9, 9))
    data = 0.2 + 0.06 * base / base.std() + 0.01 * rng.standard_normal(base.shape).astype(np.float32)
    stored = np.round((data.clip(0.001) + 0.1) * 10000).astype(np.uint16)
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 300000, 0, -10, 5300000)}
    with rasterio.open(
        path, "w", "GTiff", side, side, 6, dtype="uint16", nodata=0, tiled=True, compress="deflate", **place
    ) as file:
        file.write(stored)
        file.descriptions = ("B02", "B03", "B04", "B08", "B11", "B12")


def world_scenes(
    folder: Path, count: int, side: int, seed: int = 99, bands: tuple[str, ...] = BANDS
) -> list[tuple[Path, Path]]:
    """Scenes of the simulated Earth and their land cover, at places of which no chip was drawn for training."""
    from swath.world import World, day_of
    from swath.world.files import write_scene as write_world

    world = World(7, clouds=0.0)
    out: list[tuple[Path, Path]] = []
    for i, site in enumerate(world.sites(count, seed=seed, near="land", region="europe")):
        scene = world.scene(site, side, {SENSOR: list(bands)}, [day_of(2021, 6, 20)])
        files = list(write_world(scene, folder / f"scene{i}", "s", [LABEL]))
        out.append((files[0], files[-1]))
    return out


def bundle_of(out: Path, size: str, epochs: int) -> Path:
    """A swath-vit tuned on the simulated Earth's land cover, 160 chips of Europe in June, from random weights, as
    `swath init` writes it; kept in the folder and used again. A folder that is a bundle stands for itself."""
    from swath.adapt.run import TuneRun
    from swath.adapt.tune import tune
    from swath.core.config import parse
    from swath.data.start import loop_of

    if (out / "bundle.json").exists():
        return out
    place = out / f"tune-{size}" / "bundle"
    if place.exists():
        return place
    data = {
        "kind": "world", "seed": 7, "sensors": {SENSOR: list(BANDS)}, "labels": [LABEL], "size": 64, "clouds": 0.0,
        "chips": {"train": 160, "val": 16, "test": 32}, "region": "europe", "dates": ["06-20"],
    }  # fmt: skip
    raw = {
        "name": f"cover-{size}", "data": data,
        "encoder": {"kind": "swath-vit", "size": size, "patch": 16 if size == "base" else 8},
        "task": {"kind": "segment"}, "tuning": "full", "augment": {"flips": True, "turns": True},
        "loop": loop_of(160) | {"epochs": epochs, "layer_decay": 0.8, "progress": False},
        "out": str(out / f"tune-{size}"),
    }  # fmt: skip
    done = tune(parse(raw, TuneRun), command=["benchmarks/map_net.py"])
    print(f"tuned: {done.primary} {done.scores[done.primary]:.3f} on unseen chips", flush=True)
    return place
