"""Whole-process mapping, side by side with TerraTorch's tiled inference: wall, CPU, peak memory, pixels.

    python benchmarks/map_speed.py --terratorch /path/to/env/bin/python [--side 2048] [--rounds 5]
    python benchmarks/map_speed.py --trunk vit_base_patch16_224 --side 1024   # the share of a larger model

Both sides run the same weights (timm's ViT-S/16 with 6 bands, a UNet decoder of 256, 128, 64, 32; random, from one
seed, every convolution brought to unit variance on the scene) on the same deflate GeoTIFF with tiles of 224 pixels, one
thread, each run in a process of its own in the given environment; without --terratorch only Swath is measured. Each
side has its own defaults: TerraTorch 224/192 crops, 16 at a time (`--their-batch`), on timm's trunk; Swath its tiles, 4
at a time, on its own trunk, which reads timm's keys (the largest difference of the logits is printed) and saves the
import of timm. Each writes classes and probabilities. Seams are measured by `benchmarks/map_seams.py`, memory by
`benchmarks/map_memory.py`, the forward against the matmul peak by `benchmarks/map_peak.py`, bf16 on trained weights by
`benchmarks/map_bf16.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from map_net import CLASSES, MEAN, STD, TRUNK, Net, Open, check, network, save_state, write_scene


def ours(path: str, out: str, precision: str, state: str) -> dict[str, float]:
    from swath.core.heap import importing

    with importing():  # as the command does
        from swath.data.scene import SceneHints
        from swath.deploy.bundles import OpenRasters
        from swath.deploy.map import map_scene
        from swath.deploy.plan import MapSettings, Plan

    net = Net(state)
    opener = OpenRasters((path,), SceneHints("sentinel2-l2a"))
    settings = MapSettings(precision=precision, proba=True)
    begin = time.process_time()
    map_scene(opener, Open(net), Path(out), settings=settings)
    mapping = time.process_time() - begin
    return {"model": net.spent, "mapping": mapping, "pixels": Plan.of(opener(), net.spec, settings).computed}


def theirs(path: str, out: str, precision: str, state: str) -> dict[str, float]:
    import numpy as np
    import rasterio
    import torch
    from terratorch.tasks.tiled_inference import TiledInferenceParameters, tiled_inference

    torch.set_num_threads(1)
    net, spent, pixels = network(state), [0.0], [0]

    def forward(x):
        begin = time.thread_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            y = net(x).float().softmax(1)
        spent[0] += time.thread_time() - begin
        pixels[0] += x.shape[0] * x.shape[2] * x.shape[3]
        return y

    with rasterio.open(path) as file:
        profile, data = file.profile, file.read()
    x = torch.from_numpy((data.astype(np.float32) * 1e-4 - 0.1 - MEAN) / STD)[None]
    with torch.inference_mode():
        p = tiled_inference(
            forward, x, CLASSES,
            TiledInferenceParameters(
                h_crop=224, h_stride=192, w_crop=224, w_stride=192, delta=8, average_patches=True, blend_overlaps=True,
                batch_size=int(os.environ["THEIR_BATCH"]), verbose=False,
            ),
        )[0]  # fmt: skip
    profile.update(count=1, dtype="uint8", nodata=255)
    with rasterio.open(out, "w", **profile) as file:
        file.write(p.argmax(0).to(torch.uint8).numpy(), 1)
    profile.update(count=CLASSES, dtype="uint16", nodata=65535)
    with rasterio.open(Path(out).with_name(f"{Path(out).stem}_proba.tif"), "w", **profile) as file:
        file.write((p.clamp(0, 1) * 10000).round().numpy().astype(np.uint16))
    return {"model": spent[0], "pixels": pixels[0] / (x.shape[2] * x.shape[3])}


def child(who: str, path: str, out: str, precision: str, state: str) -> None:
    import resource

    facts = (ours if who == "ours" else theirs)(path, out, precision, state)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({**facts, "cpu": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024}))


def launch(python: str, who: str, path: Path, out: Path, precision: str, state: Path, given) -> dict[str, float]:
    src = str(Path(__file__).parents[1] / "src")
    env = {
        **os.environ,
        "THEIR_BATCH": str(given.their_batch),
        "PYTHONPATH": src,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    begin = time.perf_counter()
    done = subprocess.run(
        [python, __file__, "--child", who, str(path), str(out), precision, str(state)],
        capture_output=True, text=True, env=env,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return {**json.loads(done.stdout.splitlines()[-1]), "wall": time.perf_counter() - begin}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--terratorch", default="")
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trunk", default=TRUNK)
    parser.add_argument("--their-batch", type=int, default=16)
    parser.add_argument("--child", nargs=5)
    given = parser.parse_args()
    if given.child:
        child(*given.child)
        return
    python = given.terratorch or sys.executable
    jobs = [("ours", "fp32"), ("ours", "bf16"), *([("theirs", "fp32")] if given.terratorch else [])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene = folder / "scene.tif"
        write_scene(scene, given.side)
        state = folder / "net.pt"
        save_state(state, scene, trunk=given.trunk)
        print(f"the two trunks differ by {check(str(state)):.1e} at most", flush=True)
        runs: dict[tuple[str, str], list[dict[str, float]]] = {j: [] for j in jobs}
        for n in range(given.rounds):
            for who, precision in jobs:
                out = folder / f"{who}-{precision}-{n}.tif"
                runs[who, precision].append(launch(python, who, scene, out, precision, state, given))
        report(runs, folder, given)


def report(runs, folder: Path, given) -> None:
    middle = {j: {k: statistics.median(r[k] for r in rs) for k in rs[0]} for j, rs in runs.items()}
    for (who, precision), m in middle.items():
        print(
            f"{who:6} {precision}: wall {m['wall']:.1f} s, CPU {m['cpu']:.1f} s, model {m['model']:.1f} s, "
            f"rest {m['cpu'] - m['model']:.1f} s, peak {m['peak_mb']:.0f} MB, "
            f"{m['pixels']:.3f} computed per output pixel"
        )
    us = middle["ours", "fp32"]
    print(
        f"share of our CPU time inside the forward: {us['model'] / us['mapping']:.3f} of mapping (goal >= 0.96), "
        f"{us['model'] / us['cpu']:.3f} of the whole process, imports and all"
    )
    classes = {w: _read(folder / f"ours-{w}-0.tif") for w in ("fp32", "bf16")}
    print(f"class agreement of bf16 with fp32: {(classes['fp32'] == classes['bf16']).mean():.4f} (goal >= 0.99), "
          f"share of class 0: {(classes['fp32'] == 0).mean():.2f}")  # fmt: skip
    if ("theirs", "fp32") in middle:
        them, half = middle["theirs", "fp32"], middle["ours", "bf16"]
        same = _read(folder / "theirs-fp32-0.tif") == classes["fp32"]
        print(f"class agreement of ours with theirs (other tiles; on which rough weights depend): {same.mean():.4f}")
        print(f"wall ours / theirs: fp32 {us['wall'] / them['wall']:.2f} (goal <= 0.6), "
              f"bf16 {half['wall'] / them['wall']:.2f} (goal <= 0.35)")  # fmt: skip
        rest = (us["cpu"] - us["model"]) / (them["cpu"] - them["model"])
        print(f"CPU ours / theirs: {us['cpu'] / them['cpu']:.2f}; beside the model {rest:.2f} (goal <= 0.5)")


def _read(path: Path):
    import rasterio

    with rasterio.open(path) as file:
        return file.read(1)


if __name__ == "__main__":
    main()
