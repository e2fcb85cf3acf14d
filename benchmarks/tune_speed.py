"""Tuning beside TerraTorch: time to the first step, epoch time, frozen tuning, peak memory and score, in one run.

    python benchmarks/tune_speed.py --env /path/to/terratorch-env [--chips 256] [--epochs 2] [--threads 1]
                                    [--what first command full frozen] [--precision bf16]

Both sides read the same 224 x 224 x 6 uint16 GeoTIFF chips and the same splits, start timm's ViT-S/16 at random, put a
linear map from each token to its own pixels on its last level (a transposed convolution), and tune in fp32 (or
both in bf16, as each does it) on `--threads` with batches of 8, AdamW and a validation every epoch.

  first    from the start of the process (imports included) to the end of the first optimiser step, five times; each
           side called from Python with the least that it needs
  command  the same, as users start it: `swath tune run.json` beside `terratorch fit --config run.json`
  full     an epoch: from the end of one epoch's last step to the end of the next one's, its validation included;
           `step`: the median time from one step to the next
  frozen   all of `--frozen-epochs` epochs, start included

Both run from bytecode, as installed packages do. Sides take turns; ratios are ours / theirs of the medians. TerraTorch
is given the means and deviations; Swath finds them itself. The score is the mean IoU on the test split, over seeds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

BANDS = ["blue", "green", "red", "nir08", "swir16", "swir22"]
BATCH, LR, SIDE = 8, 5e-4, 224
STARTS = ("first", "command")
KINDS = (*STARTS, "full", "frozen")


def write_chips(root: Path, count: int) -> None:
    """Blobs of a second cover with its own spectrum, in noise."""
    import numpy as np
    import rasterio
    from rasterio.transform import from_origin

    rng = np.random.default_rng(0)
    base, other = rng.uniform(1000, 2500, 6), rng.uniform(1000, 2500, 6)
    for sub in ("images", "masks"):
        (root / sub).mkdir(parents=True)
    rows, cols = np.mgrid[:SIDE, :SIDE]
    for i in range(count):
        mask = np.zeros((SIDE, SIDE), bool)
        for _ in range(5):
            y, x, r = *rng.uniform(0, SIDE, 2), rng.uniform(10, 45)
            mask |= (rows - y) ** 2 + (cols - x) ** 2 < r * r
        image = np.where(mask, other[:, None, None], base[:, None, None]) + rng.normal(0, 400, (6, SIDE, SIDE))
        place = from_origin(500_000 + 50_000 * (i % 20), 5_000_000 - 50_000 * (i // 20), 10, 10)
        profile = {"driver": "GTiff", "height": SIDE, "width": SIDE, "crs": "EPSG:32631", "transform": place}
        with rasterio.open(root / "images" / f"chip{i:04d}.tif", "w", count=6, dtype="uint16", **profile) as file:
            file.write(np.clip(image, 1, 10_000).astype(np.uint16))
        with rasterio.open(root / "masks" / f"chip{i:04d}.tif", "w", count=1, dtype="uint8", **profile) as file:
            file.write(mask.astype(np.uint8), 1)


def prepare(root: Path, count: int) -> None:
    """Chips, splits (the same for both) and statistics, and the run file that `swath init` writes."""
    from swath.data.propose import Hints
    from swath.data.start import start

    write_chips(root, count)
    n = count // 4
    keys = [f"chip{i:04d}" for i in range(count)]
    start(root, "segment", Hints("sentinel2-l2a", tuple(BANDS), ""))
    splits = {"val": keys[: n // 2], "test": keys[n // 2 : n], "train": keys[n:]}
    (root / "splits.json").write_text(json.dumps(splits))
    for name, members in splits.items():
        (root / f"{name}.txt").write_text("\n".join(members))


def leave(stamps: list[float], job: dict) -> None:
    """The first step was all that was asked for."""
    if job["what"] in STARTS:
        Path(job["found"]).write_text(json.dumps({"stamps": stamps, "score": 0.0, "end": time.time(), "peak_mb": 0.0}))
        os._exit(0)


def timed_steps(job: dict) -> list[float]:
    """The times at which our optimiser has stepped."""
    from swath.train import optim

    stamps: list[float] = []
    step = optim.AdamW.step

    def timed(self) -> None:
        step(self)
        stamps.append(time.time())
        leave(stamps, job)

    optim.AdamW.step = timed
    return stamps


def our_run(root: Path, out: Path, job: dict) -> dict:
    return {
        "name": "speed", "data": {"kind": "folder", "path": str(root), "card": str(root / "card.toml")},
        "encoder": {"kind": "timm", "size": "vit-small", "sensor": "sentinel2-l2a", "bands": BANDS},
        "task": {"kind": "segment", "detail": 0}, "decoder": {"kind": "unpatch", "width": 2},
        "tuning": "frozen" if job["what"] == "frozen" else "full",
        "loop": {"epochs": job["epochs"], "batch_size": BATCH, "lr": LR, "seed": job["seed"], "progress": False,
                 "schedule": "constant", "precision": job["precision"]},
        "trust": {"calibrate": False, "ood": False, "chips": 0, "bootstrap": 0}, "out": str(out),
    }  # fmt: skip


def ours(root: Path, out: Path, job: dict) -> dict:
    raw = our_run(root, out, job)
    if job["what"] == "command":
        from swath.cli.main import main as swath
        from swath.core import config

        parse, here = config.parse, os.getpid()

        def parsed(*given, **named):
            """The command parses its run when torch is there; a clock that asks for torch before would change it."""
            if os.getpid() == here:
                config.parse = parse
                timed_steps(job)
            return parse(*given, **named)

        config.parse = parsed
        (out / "run.json").write_text(json.dumps(raw))
        swath(["tune", str(out / "run.json")])
    from swath.adapt.run import TuneRun
    from swath.adapt.tune import tune
    from swath.core import config

    stamps = timed_steps(job)
    found = tune(config.parse(raw, TuneRun))
    return {"stamps": stamps, "score": found.scores["iou_macro"]}


def theirs(root: Path, out: Path, job: dict) -> dict:
    import logging
    import types
    import warnings

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    where = {f"{s}_{k}": str(root / v) for s in ("train", "val", "test")
             for k, v in (("data_root", "images"), ("label_data_root", "masks"), ("split", f"{s}.txt"))}  # fmt: skip
    data = dict(
        batch_size=BATCH, num_workers=0, num_classes=2, means=job["means"], stds=job["stds"], constant_scale=1e-4,
        dataset_bands=BANDS, output_bands=BANDS, rgb_indices=[2, 1, 0], img_grep="*.tif", label_grep="*.tif",
        check_stackability=False, **where,
    )  # fmt: skip
    task = dict(
        model_factory="EncoderDecoderFactory",
        model_args={"backbone": "timm_vit_small_patch16_224", "backbone_in_chans": 6, "backbone_pretrained": False,
                    "necks": [{"name": "ReshapeTokensToImage"}], "decoder": "LinearDecoder",
                    "decoder_upsampling_size": 16, "decoder_num_classes": 2,
                    "num_classes": 2},
        loss="ce", ignore_index=255, optimizer="AdamW", lr=LR, optimizer_hparams={"weight_decay": 0.05},
        plot_on_val=False, freeze_backbone=job["what"] == "frozen",
    )  # fmt: skip
    loop = dict(
        max_epochs=job["epochs"], accelerator="cpu", logger=False, enable_progress_bar=False,
        default_root_dir=str(out), enable_model_summary=False, num_sanity_val_steps=0,
        precision="bf16-mixed" if job["precision"] == "bf16" else "32-true",
    )  # fmt: skip
    stamps: list[float] = []
    clock = types.ModuleType("swath_clock")

    def clock_of(parent: type) -> type:
        def ended(self, *_, **__) -> None:
            stamps.append(time.time())
            leave(stamps, job)

        return type("Clock", (parent,), {"on_train_batch_end": ended, "__module__": "swath_clock"})

    if job["what"] == "command":
        import lightning
        from terratorch.__main__ import main as terratorch

        clock.Clock = clock_of(lightning.Callback)
        sys.modules["swath_clock"] = clock
        raw = {
            "seed_everything": job["seed"],
            "trainer": loop | {"callbacks": [{"class_path": "swath_clock.Clock"}]},
            "data": {"class_path": "GenericNonGeoSegmentationDataModule", "init_args": data},
            "model": {"class_path": "terratorch.tasks.SemanticSegmentationTask", "init_args": task},
        }
        (out / "run.json").write_text(json.dumps(raw))
        sys.argv = ["terratorch", "fit", "--config", str(out / "run.json")]
        terratorch()
    import lightning
    import torch
    from terratorch.datamodules import GenericNonGeoSegmentationDataModule
    from terratorch.tasks import SemanticSegmentationTask

    torch.set_num_threads(job["threads"])
    lightning.seed_everything(job["seed"], verbose=False)
    module, learner = GenericNonGeoSegmentationDataModule(**data), SemanticSegmentationTask(**task)
    trainer = lightning.Trainer(**loop, callbacks=[clock_of(lightning.Callback)()])
    trainer.fit(learner, datamodule=module)
    (found,) = trainer.test(learner, datamodule=module, verbose=False)
    score = next(float(v) for k, v in found.items() if k.lower().endswith("/miou") or "Jaccard" in k)
    return {"stamps": stamps, "score": score, "all": {k: float(v) for k, v in found.items()}}


def child(side: str, root: str, out: str, job: str) -> None:
    import resource

    told = json.loads(job) | {"found": str(Path(out) / "found.json")}
    found = (ours if side == "ours" else theirs)(Path(root), Path(out), told)
    found["end"] = time.time()
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (Path(out) / "found.json").write_text(json.dumps(found))


def launch(side: str, python: str, root: Path, job: dict) -> dict:
    """One process: seconds to the first step, of epochs after the first, of everything; memory and score."""
    env = {**os.environ, "OMP_NUM_THREADS": str(job["threads"]), "PYTHONWARNINGS": "ignore"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # installed packages have their bytecode; a first round writes it
    with tempfile.TemporaryDirectory() as out:
        began = time.time()
        told = subprocess.run([python, __file__, "--child", side, str(root), out, json.dumps(job)], env=env,
                              capture_output=True, text=True, check=False)  # fmt: skip
        if told.returncode:
            raise SystemExit(f"{side} failed:\n{told.stderr[-3000:]}")
        found = json.loads((Path(out) / "found.json").read_text())
    stamps, epochs = found["stamps"], job["epochs"]
    if job["what"] in STARTS:
        return {"first": stamps[0] - began}
    steps = [b - a for a, b in pairwise(stamps)]
    per = len(stamps) // epochs
    ends = stamps[per - 1 :: per]
    epoch = [b - a for a, b in pairwise(ends)]
    return {"first": stamps[0] - began, "epoch": statistics.median(epoch) if epoch else ends[0] - stamps[0],
            "step": statistics.median(steps),
            "fit": ends[-1] - began, "whole": found["end"] - began, "peak_mb": found["peak_mb"],
            "score": found["score"], "steps": len(stamps)}  # fmt: skip


def compare(env: str, root: Path, given: argparse.Namespace, what: str) -> None:
    card = (root / "card.toml").read_text()
    import tomllib

    stats = tomllib.loads(card)["statistics"]["sentinel2-l2a"]
    epochs = given.epochs if what == "full" else given.frozen_epochs
    rows: dict[str, list[dict]] = {"ours": [], "theirs": []}
    python = {"ours": sys.executable, "theirs": str(Path(env) / "bin" / "python")}
    for seed in range(5 if what in STARTS else given.seeds):
        for side in ("ours", "theirs"):
            job = {
                "what": what,
                "epochs": epochs,
                "seed": seed,
                "means": stats["mean"],
                "stds": stats["std"],
                "threads": given.threads,
                "precision": given.precision,
            }
            rows[side].append(launch(side, python[side], root, job))
            row = rows[side][-1]
            print(f"  {what} {side} seed {seed}: " + ", ".join(f"{k} {v:.3f}" for k, v in row.items()), flush=True)
    names = {"first": "time to first step", "epoch": "epoch", "step": "step", "fit": f"all of {epochs} epochs",
             "peak_mb": "peak memory"}  # fmt: skip
    for key in (k for k in names if k in rows["ours"][0]):
        name = names[key]
        a, b = (statistics.median(r[key] for r in rows[s]) for s in ("ours", "theirs"))
        print(f"{what:7s} {name:22s} swath {a:9.2f}  terratorch {b:9.2f}  ratio {a / b:.2f}", flush=True)
    for side, found in rows.items() if what not in STARTS else ():
        scores = [r["score"] for r in found]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        print(f"{what:7s} mean IoU {side:7s} {statistics.mean(scores):.4f} +- {spread:.4f}", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:6])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", required=True, help="an environment with TerraTorch")
    parser.add_argument("--chips", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--frozen-epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--what", nargs="+", choices=KINDS, default=list(KINDS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "chips"
        prepare(root, given.chips)
        for what in given.what:
            compare(given.env, root, given, what)


if __name__ == "__main__":
    main()
