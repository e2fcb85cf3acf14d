"""Seam error of a map: Swath's default tiles against TerraTorch's tiled inference, same weights, same scene.

    python benchmarks/map_seams.py [--terratorch /path/to/env/bin/python] [--side 832] [--rough]

The truth is a map without seams: each pixel is the mean over dense, shifted tiles, weighted towards their middles. A
line of the map lies in the seams when it is at most 16 pixels from the middle of an overlap. Along each line between
two rows (or columns) of pixels the step error is mean |dp - dp_ref|: what the map jumps more, or less, than the truth.
It is divided by the step error of the same line inside single tiles, far from their edges: what no blending can mend.

  worst line  the largest ratio over the lines across a seam, each the mean over all seams: how visible seams are
  seams       the mean ratio over these lines: 1 means that they err no more than the inside of a tile

  jump        mean |dp| over the lines where tiles begin or end, over that of the truth: what an eye could see

and the first two for lines as far from the tiles' middles, where there is no seam: what chance gives.
Also the mean |p_a - p_b| of neighbouring tiles where they overlap: how much a pixel depends on its tile. `--rough`:
random weights under which that is a third of all probability, as bad as it can be.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
from map_net import CLASSES, MEAN, STD, Net, Open, network, save_state, write_scene

TILE = 224
NEAR = 16
EDGE = 24


def ours(path: str, out: str, state: str) -> list[int]:
    from swath.data.scene import SceneHints
    from swath.deploy.bundles import OpenRasters
    from swath.deploy.map import map_scene
    from swath.deploy.plan import MapSettings, Plan

    net = Net(state)
    opener = OpenRasters((path,), SceneHints("sentinel2-l2a"))
    settings = MapSettings(batch=8, proba=True)
    map_scene(opener, Open(net), Path(out), settings=settings)
    return list(Plan.of(opener(), net.spec, settings).rows.places)


def theirs(path: str, out: str, state: str) -> None:
    import rasterio
    import torch
    from terratorch.tasks.tiled_inference import TiledInferenceParameters, tiled_inference

    torch.set_num_threads(1)
    net = network(state)
    with rasterio.open(path) as file:
        data = file.read()
    x = torch.from_numpy((data.astype(np.float32) * 1e-4 - 0.1 - MEAN) / STD)[None]
    with torch.inference_mode():
        p = tiled_inference(
            lambda x: net(x).softmax(1), x, CLASSES,
            TiledInferenceParameters(h_crop=TILE, h_stride=192, w_crop=TILE, w_stride=192, delta=8, batch_size=8,
                                     average_patches=True, blend_overlaps=True, verbose=False),
        )[0]  # fmt: skip
    np.save(out, p[0].numpy())


def reference(path: Path, state: Path) -> tuple[np.ndarray, dict[tuple[int, int], np.ndarray]]:
    """The map without seams, and the tiles it is the mean of."""
    import rasterio
    import torch

    torch.set_num_threads(1)
    net = network(str(state))
    with rasterio.open(path) as file:
        x = torch.from_numpy((file.read().astype(np.float32) * 1e-4 - 0.1 - MEAN) / STD)
    side, last = x.shape[1], x.shape[1] - TILE
    places = [*range(0, last, 52), last]
    total, weight = np.zeros((side, side)), np.zeros((side, side))
    hat = np.clip(1 - np.abs(np.arange(TILE) - (TILE - 1) / 2) / 80, 1e-6, None)
    half = TILE // 2

    def along(place: int) -> np.ndarray:
        w = hat.copy()
        if place == 0:
            w[:half] = 1
        if place == last:
            w[half:] = 1
        return w

    todo, tiles = [(r, c) for r in places for c in places], {}
    for at in range(0, len(todo), 8):
        part = todo[at : at + 8]
        with torch.inference_mode():
            p = net(torch.stack([x[:, r : r + TILE, c : c + TILE] for r, c in part])).softmax(1)[:, 0].numpy()
        for (r, c), one in zip(part, p, strict=True):
            w = along(r)[:, None] * along(c)[None]
            total[r : r + TILE, c : c + TILE] += w * one
            weight[r : r + TILE, c : c + TILE] += w
            tiles[r, c] = one
    return total / weight, tiles


def inside(tiles: dict[tuple[int, int], np.ndarray], truth: np.ndarray, axis: int) -> np.ndarray:
    """Step error of every line in single tiles, at least `EDGE` pixels from their edges."""
    total, count = np.zeros(len(truth)), np.zeros(len(truth))
    part = slice(EDGE, TILE - EDGE)
    for (r, c), p in tiles.items():
        d = np.diff(p, axis=axis) - np.diff(truth[r : r + TILE, c : c + TILE], axis=axis)
        line = np.abs(d).take(range(EDGE, TILE - EDGE), 1 - axis).mean(1 - axis)[part]
        first = (r, c)[axis] + EDGE
        total[first : first + len(line)] += line
        count[first : first + len(line)] += 1
    return total / np.maximum(count, 1)


def jump(p: np.ndarray, truth: np.ndarray, places: list[int]) -> float:
    """Jumps of the map over jumps of the truth where tiles begin or end."""
    lines = np.array(sorted({q for a in places for q in (a, a + TILE) if 0 < q < len(p)})) - 1
    means = [[np.abs(np.diff(q, axis=a)).mean(1 - a)[lines].mean() for a in (0, 1)] for q in (p, truth)]
    return float(np.mean(means[0]) / np.mean(means[1]))


def seams(p: np.ndarray, truth: np.ndarray, tiles: dict[tuple[int, int], np.ndarray], places: list[int]):
    """Worst and mean ratio across the seams, the same across the tiles' middles, and mean |p - truth|."""
    inner = np.arange(TILE // 2, len(p) - TILE // 2)
    ratios: list[np.ndarray] = []
    for axis in (0, 1):
        step = np.abs(np.diff(p, axis=axis) - np.diff(truth, axis=axis)).take(inner, 1 - axis)
        ratios.append(step.mean(1 - axis) / np.maximum(inside(tiles, truth, axis)[:-1], 1e-9))

    def across(middles: list[int]) -> tuple[float, float]:
        profile = np.mean([r[m - NEAR : m + NEAR] for r in ratios for m in middles], 0)
        return float(profile.max()), float(profile.mean())

    between = [(a + TILE + b) // 2 for a, b in pairwise(places)]
    error = float(np.abs(p - truth)[np.ix_(inner, inner)].mean())
    return *across(between), *across([a + TILE // 2 for a in places[1:-1]]), error


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--terratorch", default="")
    parser.add_argument("--side", type=int, default=832)
    parser.add_argument("--rough", action="store_true")
    parser.add_argument("--child", nargs=3)
    given = parser.parse_args()
    if given.child:
        theirs(*given.child)
        return
    import rasterio

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene, state = folder / "scene.tif", folder / "net.pt"
        write_scene(scene, given.side)
        save_state(state, scene, every=given.rough)
        truth, tiles = reference(scene, state)
        places = ours(str(scene), str(folder / "ours.tif"), str(state))
        with rasterio.open(folder / "ours_proba.tif") as file:
            maps = {"ours": (file.read(1) / 10000, places)}
        if given.terratorch:
            out = folder / "theirs.npy"
            env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src"), "HF_HUB_OFFLINE": "1"}
            arguments = [given.terratorch, __file__, "--child", str(scene), str(out), str(state)]
            done = subprocess.run(arguments, capture_output=True, text=True, env=env)
            if done.returncode:
                raise SystemExit(done.stderr[-3000:])
            maps["theirs"] = (np.load(out), [*range(0, given.side - TILE, 192), given.side - TILE])
        print(f"probabilities vary by {truth.std():.3f}; tiles differ where they overlap by {depends(tiles):.3f}")
        for who, (p, at) in maps.items():
            line, band, line0, band0, error = seams(p, truth, tiles, at)
            pixels = len(at) ** 2 * TILE**2 / given.side**2
            print(
                f"{who:6}: worst line {line:.3f}, seams {band:.3f} (where there is no seam {line0:.3f}, {band0:.3f}), "
                f"jump {jump(p, truth, at):.4f}; mean error {error:.4f}, {pixels:.2f} computed per output pixel"
            )
        print("goal: jump and seams of ours no larger than theirs, at most 1.2 computed (2,048 pixels: 1.196)")


def depends(tiles: dict[tuple[int, int], np.ndarray]) -> float:
    """Mean |p_a - p_b| over the common pixels of tiles 52 pixels apart, ten pixels of edge left out."""
    found: list[float] = []
    for (r, c), one in tiles.items():
        other = tiles.get((r, c + 52))
        if other is not None:
            found.append(float(np.abs(one[10:-10, 62:-10] - other[10:-10, 10:-62]).mean()))
    return float(np.mean(found))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
