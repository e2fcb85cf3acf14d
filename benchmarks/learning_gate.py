"""Does an objective learn? On the simulated Earth: probes of frozen features, against random weights and a broken link.

    python benchmarks/learning_gate.py mae moco --steps 1500 --seeds 2

Crop fields seen at three dates of one season by Sentinel-2. Both probes are ridge regression: the crop that fills a
token's square (patch), and the commonest crop of a chip (chip).
The gain is against the best of three random initialisations.
The control breaks the one link that the objective can learn from and must lose the gain:
mae and latent-mim predict the pixels of another place, moco's second view shows another place.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from swath.core import Batch, collate
from swath.core.config import parse_member
from swath.models import build_encoder
from swath.objectives import OBJECTIVES, Kit
from swath.objectives.pretraining.probe import dense, linear, pooled
from swath.train import Feed, LoopConfig, fit
from swath.world import World

ENCODER = {"kind": "swath-vit", "size": "nano", "patch": 4, "drop_time": 0.0, "drop_place": 0.0}
DECODER = {"width": 96, "depth": 1, "heads": 4}
BANDS = {"sentinel2-l2a": ["blue", "green", "red", "nir", "swir16", "swir22"]}
DAYS = [19470, 19530, 19590]
LEARNT, SIZE, PATCH = 1000, 16, 4
OBJECTIVE = {
    "mae": {**DECODER, "norm_pix": False},
    "moco": {"hidden": 256, "dim": 64, "views": {"crop": [0.5, 1.0]}},
    "latent-mim": {**DECODER, "dim": 96, "masks": [{"kind": "random", "ratio": 0.75}] * 2, "contrast": 0.1},
}


@dataclass
class Memory:
    batch: Batch
    name = "gate"
    licence = "none"
    fingerprint = "gate"

    def __post_init__(self):
        self.labels = {}
        self.sensors = tuple(v.sensor for v in self.batch.layers.values())

    def __len__(self):
        return len(self.batch)

    def splits(self):
        return {"train": range(len(self))}

    def sample(self, index, bands=None):
        return self.batch[index]


def earth(n):
    world = World(7, clouds=0.0)
    sites = world.sites(n, seed=1, near="cropland")
    parts = [
        world.batch(sites[i : i + 50], SIZE, BANDS, DAYS, ["crop_type"], key=range(i, min(i + 50, n)))
        for i in range(0, n, 50)
    ]
    return collate(parts)


class Truth:
    """The labels of both probes."""

    def __init__(self, batch):
        crop = batch.labels["crop_type"].value
        cut = crop.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).flatten(3).flatten(1, 2)
        self.patch = cut.mode(-1).values
        self.chip = torch.stack([torch.bincount(c.flatten(), minlength=20)[1:].argmax() for c in crop])

    def probe(self, encoder, batch):
        x, d = pooled(encoder, batch), dense(encoder, batch).flatten(2).transpose(1, 2)
        train, test = slice(0, LEARNT), slice(LEARNT, None)
        chip = linear((x[train], self.chip[train]), (x[test], self.chip[test]))
        patch = linear(
            (d[train].flatten(0, 1)[::3], self.patch[train].flatten()[::3]),
            (d[test].flatten(0, 1), self.patch[test].flatten()),
        )
        return {"patch": patch, "chip": chip}


def broken(name, objective):
    """Cut the link: what is to be predicted, or the second view, is another sample's."""
    if name == "moco":
        make = objective.config.views.make

        class Unpaired:
            def make(self, batch, draws, n=2):
                views = make(batch, draws, n)
                turn = torch.arange(len(batch)).roll(1)
                return [views[0], *(v[turn] for v in views[1:])]

        objective.config = replace(objective.config, views=Unpaired())
        return
    import importlib

    module = importlib.import_module(f"swath.objectives.{name.replace('-', '_')}")
    real = module.patches
    module.patches = lambda batch, tokens: {
        k: replace(p, value=p.value.roll(1, 0), valid=p.valid.roll(1, 0)) for k, p in real(batch, tokens).items()
    }


def learn(name, batch, seed, steps, cut):
    import importlib

    module = importlib.import_module(f"swath.objectives.{name.replace('-', '_')}")
    torch.manual_seed(seed)
    encoder = build_encoder(ENCODER)
    train = batch[torch.arange(LEARNT)]
    objective = parse_member({"kind": name, **OBJECTIVE[name]}, OBJECTIVES).build(Kit(encoder, train[0]))
    real = getattr(module, "patches", None)
    if cut:
        broken(name, objective)
    config = LoopConfig(steps=steps, batch_size=32, lr=1.5e-3, warmup=0.1, betas=(0.9, 0.95), clip=1.0, seed=seed,
                        progress=False, energy="off")  # fmt: skip
    began = time.process_time()
    with tempfile.TemporaryDirectory() as out:
        report = fit(objective, Feed(Memory(train)), config, out=Path(out))
    if real is not None:
        module.patches = real
    return encoder, report.loss, time.process_time() - began


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("objectives", nargs="+", choices=sorted(OBJECTIVE))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", default="")
    args = parser.parse_args()
    torch.set_num_threads(1)
    batch = earth(1400)
    truth = Truth(batch)
    chance = float(torch.bincount(truth.chip[LEARNT:]).max() / len(truth.chip[LEARNT:]))
    rows, random = [], []
    for seed in range(3):
        torch.manual_seed(900 + seed)
        random.append(truth.probe(build_encoder(ENCODER), batch))
    best = {k: max(r[k] for r in random) for k in random[0]}
    print(f"majority (chip) {chance:.3f}; best of three random: patch {best['patch']:.3f}, chip {best['chip']:.3f}")
    for name in args.objectives:
        for cut in (False, True):
            for seed in range(args.seeds if not cut else 1):
                encoder, loss, seconds = learn(name, batch, seed, args.steps, cut)
                found = truth.probe(encoder, batch)
                row = {"objective": name, "link": "broken" if cut else "whole", "seed": seed, "loss": round(loss, 4),
                       **{f"{k} gain": round(100 * (v - best[k]), 1) for k, v in found.items()},
                       "cpu_s": round(seconds)}  # fmt: skip
                rows.append(row)
                print("  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
