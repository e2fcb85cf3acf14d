"""Peak resident memory of `map_scene` on 4,000 x 4,000 x 6 and on 20,000 x 20,000 x 6, each in a process of its own.

    python benchmarks/map_memory.py [--sides 4000 20000]

Scenes are VRTs that repeat one 2,000 x 2,000 raster, so that only reading, blending and writing are at work; the
model is a 1 x 1 convolution to four classes. Prints the peak of each and their ratio.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

BANDS = ("blue", "green", "red", "nir", "swir16", "swir22")
SIDE = 2000


@dataclass(eq=False)
class OneByOne:
    tile: int = 224
    classes: int = 4
    spec: object = field(init=False)

    def __post_init__(self):
        import torch

        from swath.core import Input, LabelSpec
        from swath.deploy.predictor import PredictorSpec

        label = LabelSpec("cover", "mask", tuple(f"c{i}" for i in range(self.classes)))
        self.spec = PredictorSpec("one", (Input("sentinel2-l2a", BANDS, "reflectance"),), label, "one", tile=self.tile)
        self.w = torch.randn(self.classes, 6, 1, 1, generator=torch.Generator().manual_seed(0))

    def predict(self, batch):
        import torch

        x = batch.layers["sentinel2-l2a"].x[:, 0]
        return {"probabilities": torch.nn.functional.conv2d(x * 10, self.w).softmax(1)}


def same(value):
    return value


def tile(folder: Path) -> Path:
    import numpy as np
    import rasterio
    from rasterio.transform import Affine

    path = folder / "tile.tif"
    rng = np.random.default_rng(0)
    coarse = rng.integers(1200, 4000, (6, SIDE // 20, SIDE // 20), dtype=np.uint16)
    data = np.kron(coarse, np.ones((1, 20, 20), np.uint16)) + rng.integers(0, 60, (6, SIDE, SIDE), dtype=np.uint16)
    with rasterio.open(
        path, "w", "GTiff", SIDE, SIDE, 6, "EPSG:32633", Affine(10, 0, 300000, 0, -10, 5300000), "uint16", nodata=0,
        tiled=True, blockxsize=512, blockysize=512, compress="deflate",
    ) as file:  # fmt: skip
        file.write(data)
        file.descriptions = ("B02", "B03", "B04", "B08", "B11", "B12")
    return path


def vrt(folder: Path, source: Path, side: int) -> Path:
    parts = []
    for band, name in enumerate(("B02", "B03", "B04", "B08", "B11", "B12"), 1):
        pieces = "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="1">{source.name}</SourceFilename><SourceBand>{band}'
            f'</SourceBand><SrcRect xOff="0" yOff="0" xSize="{SIDE}" ySize="{SIDE}"/>'
            f'<DstRect xOff="{x}" yOff="{y}" xSize="{SIDE}" ySize="{SIDE}"/></SimpleSource>'
            for y in range(0, side, SIDE)
            for x in range(0, side, SIDE)
        )
        parts.append(
            f'<VRTRasterBand dataType="UInt16" band="{band}"><Description>{name}</Description>'
            f"<NoDataValue>0</NoDataValue>{pieces}</VRTRasterBand>"
        )
    path = folder / f"s{side}.vrt"
    path.write_text(
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>EPSG:32633</SRS>'
        f"<GeoTransform>300000,10,0,5300000,0,-10</GeoTransform>{''.join(parts)}</VRTDataset>"
    )
    return path


def child(path: str, out: str) -> None:
    from swath.data.scene import SceneHints
    from swath.deploy.bundles import OpenRasters
    from swath.deploy.map import map_scene

    begin, cpu = time.perf_counter(), time.process_time()
    opener = OpenRasters((path,), SceneHints("sentinel2-l2a"))
    done = map_scene(opener, partial(same, OneByOne()), Path(out))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    facts = {"peak_mb": peak, "seconds": time.perf_counter() - begin, "cpu": time.process_time() - cpu}
    print(json.dumps({**facts, "cells": done.cells}))


def measure(side: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = vrt(folder, tile(folder), side)
        done = subprocess.run(
            [sys.executable, __file__, "--child", str(path), str(folder / "out.tif")],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sides", type=int, nargs="+", default=[4000, 20000])
    parser.add_argument("--child", nargs=2)
    given = parser.parse_args()
    if given.child:
        child(*given.child)
        return
    found = {side: measure(side) for side in given.sides}
    for side, facts in found.items():
        print(
            f"{side} x {side} x 6: peak {facts['peak_mb']:.0f} MB, {facts['seconds']:.0f} s, "
            f"{facts['cpu'] / (side * side / 1e6):.3f} CPU-s a megapixel"
        )
    first, last = found[given.sides[0]], found[given.sides[-1]]
    print(f"peak {given.sides[-1]} / peak {given.sides[0]}: {last['peak_mb'] / first['peak_mb']:.3f} (goal <= 1.10)")


if __name__ == "__main__":
    main()
