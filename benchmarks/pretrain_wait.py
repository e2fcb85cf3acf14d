"""How long a real pretraining waits for its data: `swath pretrain` on a packed stream of the simulated Earth.

    python benchmarks/pretrain_wait.py --steps 10

MAE with ViT-S, 224 px, 6 bands of Sentinel-2, mask 0.75, bf16, batch 16. The world is packed in a temporary folder;
then the command runs in a process of its own with two reading workers, and for comparison with none, where the step
itself reads. Numbers are the run's own (`card.json`): waiting as a share of the steps' time, the start of the workers
included; `steady` leaves out the first two steps (lines of `metrics.jsonl`).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from swath.core.config import parse_member
from swath.data.sources import SOURCES
from swath.data.streams import pack

BANDS = ["blue", "green", "red", "nir08", "swir16", "swir22"]


def earth(chips):
    sensors = {"sentinel2-l2a": BANDS}
    how = {"sensors": sensors, "chips": {"train": chips}, "size": 224, "dates": ["06-20"], "clouds": 0.0}
    return parse_member({"kind": "world", **how}, SOURCES).build()


def learn(folder, args, workers):
    run = {
        "name": f"w{workers}",
        "data": {"kind": "packed", "path": str(folder / "earth.pack")},
        "encoder": {"kind": "swath-vit", "size": args.size, "patch": 16},
        "objective": {"kind": "mae", "mask": {"kind": "random", "ratio": 0.75}},
        "loop": {"steps": args.steps, "batch_size": args.batch, "lr": 1e-4, "precision": "bf16", "workers": workers,
                 "log_every": 1, "progress": False},
        "pictures": 0,
        "out": str(folder / f"w{workers}"),
    }  # fmt: skip
    path = folder / f"w{workers}.yaml"
    path.write_text(json.dumps(run))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "swath.cli", "pretrain", str(path), "--json"]
    subprocess.run(command, check=True, env=env, capture_output=True)
    out = folder / f"w{workers}"
    compute = json.loads((out / "card.json").read_text())["compute"]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()][2:]
    steady = sum(r["data_wait"] for r in rows) / len(rows)
    return {
        "workers": workers,
        "data_wait": round(compute["data_wait"], 4),
        "steady": round(steady, 4),
        "step_seconds": round(compute["step_seconds"] / args.steps, 2),
        "mfu": compute["mfu"] and round(compute["mfu"], 3),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--chips", type=int, default=48)
    parser.add_argument("--size", default="small")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pack(earth(args.chips), folder / "earth.pack")
        for workers in (2, 0):
            print(json.dumps(learn(folder, args, workers)), flush=True)


if __name__ == "__main__":
    main()
