"""What bf16 changes in a map: share of equal classes with fp32, and the scores of both, on trained weights.

    python benchmarks/map_bf16.py OUT [--size base] [--epochs 14] [--side 1024] [--places 3]

tunes a swath-vit on the simulated Earth's land cover (160 chips of Europe in June, from random weights, what `swath
init` writes; kept in OUT and used again), then maps scenes of places that it has not seen, both ways. A class whose
probabilities are told apart by less than what rounding moves flips: `close` is the share of pixels whose two best
classes lie within 0.02. Random weights (`map_speed.py`) have no margins and tell little.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import rasterio
import torch

sys.path.insert(0, str(Path(__file__).parent))
from map_net import SENSOR, bundle_of, world_scenes


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", default="base")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--places", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    bundle = bundle_of(given.out, given.size, given.epochs)
    if not given.places:
        return

    from swath.data.scene import SceneHints
    from swath.deploy.bundles import OpenBundle, OpenRasters
    from swath.deploy.map import map_scene
    from swath.deploy.plan import MapSettings

    rows = []
    for n, (scene, truth) in enumerate(world_scenes(given.out, given.places, given.side)):
        maps, seconds = {}, {}
        for precision in ("fp32", "bf16"):
            begin = time.process_time()
            out = given.out / f"map-{given.size}-{n}-{precision}.tif"
            map_scene(OpenRasters((str(scene),), SceneHints(SENSOR)), OpenBundle(str(bundle)), out,
                      settings=MapSettings(precision=precision, proba=True))  # fmt: skip
            seconds[precision] = time.process_time() - begin
            with rasterio.open(out) as a, rasterio.open(out.with_name(f"{out.stem}_proba.tif")) as b:
                maps[precision] = a.read(1), b.read() / 10000
        with rasterio.open(truth) as file:
            known = file.read(1)
        (a, pa), (b, pb) = maps["fp32"], maps["bf16"]
        best = np.sort(pa, 0)
        ok = known != 255
        rows.append([
            float((a == b).mean()), float(np.abs(pa - pb).mean()), float((best[-1] - best[-2] < 0.02).mean()),
            float((a == known)[ok].mean()), float((b == known)[ok].mean()), seconds["fp32"] / seconds["bf16"],
        ])  # fmt: skip
        print("place {}: equal classes {:.4f}, mean |dp| {:.5f}, close {:.4f}, accuracy fp32 {:.4f} bf16 {:.4f}, "
              "CPU fp32 / bf16 {:.2f}".format(n, *rows[-1]), flush=True)  # fmt: skip
    low = min(r[0] for r in rows)
    print(f"equal classes, worst place {low:.4f}, mean {np.mean([r[0] for r in rows]):.4f} (goal >= 0.99)")


if __name__ == "__main__":
    main()
