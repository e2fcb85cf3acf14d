"""Tune on the simulated Earth: every task against the majority or mean, and against a random forest on pixels.

    python benchmarks/tune_world.py [CASE ...] [--steps N] [--chips N] [--val N] [--seed N]  # a record a case and seed
    python benchmarks/tune_world.py --table                      # writes the table of docs/tune.md from the records

Every case runs with what `swath init` writes (the task's defaults, its loop, flips and turns), on a random start of the
smallest encoder. The forest sees the same chips: every band of every date of a pixel, 150 pixels of each chip. For
objects it says which pixels belong to one, and connected pixels are its objects; of a whole chip it sees mean and
deviation of every band on every date over the pixels seen, and their share. Both learn from, and are judged on, the
pixels that the input shows. `lead` is the 95 % interval of the tuned score's advantage over the forest's, test chips
redrawn for both at once. Records stand beside this file.
"""

import argparse
import json
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from swath.adapt.bundle import Bundle
from swath.adapt.evaluate import batches, evaluate
from swath.adapt.fields import FieldScores, as_mask, fields_of
from swath.adapt.heads import guided
from swath.adapt.metrics import ClassScores, TagScores, ValueScores, class_scores, resample
from swath.adapt.objects import ObjectScores
from swath.adapt.run import TuneRun
from swath.adapt.task import judged
from swath.adapt.tune import tune
from swath.core import config
from swath.core.batch import Batch, Label
from swath.core.contracts import LabelSpec
from swath.core.rng import generator
from swath.data.start import loop_of

RECORDS = Path(__file__).with_name("records") / "tune_world.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "tune.md"
MARKS = ("<!-- tune_world: begin -->\n", "<!-- tune_world: end -->\n")
S2 = ["blue", "green", "red", "nir08", "swir16", "swir22"]
BOTH = {"sentinel2-l2a": S2, "sentinel1-rtc": []}
SEASON = ["03-20", "05-20", "07-20", "09-20"]
PIXELS = 150
CASES = {
    "burn": ("segment", {"labels": ["burn_scar"], "near": "fire", "offsets": [20], "dates": []}),
    "crops": ("segment", {"labels": ["crop_type"], "near": "cropland", "dates": SEASON}),
    "canopy": ("regress", {"labels": ["canopy_height"], "near": "forest", "dates": ["07-20"]}),
    "fields": ("boundaries", {"labels": ["field_boundary"], "near": "cropland", "dates": ["05-20", "08-20"]}),
    "instances": ({"kind": "instances", "width": 64}, {"labels": ["fields"], "near": "cropland", "dates": ["06-20"]}),
    "buildings": ({"kind": "detect", "width": 64}, {"labels": ["buildings"], "near": "city", "dates": ["06-20"],
                                                         "gsd": 2.5, "size": 48, "sensors": {"naip": []}}),
    "buildings-fcos": ({"kind": "detect", "head": "fcos", "width": 64}, {"same": "buildings"}),
    "change": ("change", {"labels": ["change"], "near": "fire", "offsets": [-20, 20], "dates": []}),
    "scene": ("classify", {"labels": ["scene_class"], "near": "any", "dates": ["06-20"]}),
    "tags": ("multilabel", {"labels": ["tags"], "near": "any", "dates": ["06-20"]}),
    "yield": ("scalar", {"labels": ["yield"], "near": "cropland", "dates": SEASON}),
    "crop": ("series", {"labels": ["crop"], "near": "cropland", "dates": SEASON}),
    "gaps": ({"kind": "gapfill", "date": 2}, {"labels": ["clear"], "near": "cropland", "size": 48,
                         "dates": ["04-10", "05-15", "06-20", "07-25", "09-01"]}),
    "sensors": ("segment", {"labels": ["land_cover"], "near": "land", "dates": ["06-20"], "sensors": BOTH}),
}  # fmt: skip
DENSE = ("segment", "change", "regress", "boundaries", "detect", "instances")
CHIPS = ("classify", "multilabel", "scalar", "series")


class Gaps:
    """Clear chips in which smooth holes are cut, as clouds do: half of the middle date, a third of the others. The
    label is the middle date as it was, judged in its holes."""

    def __init__(self, data) -> None:
        self.clear = replace(data, labels=(), clouds=0.0).build()
        self.name, self.licence, self.sensors = "world", self.clear.licence, self.clear.sensors
        self.labels = {"clear": LabelSpec("clear", "image", tuple(S2), unit="reflectance", low=0, high=1)}
        self.fingerprint, self.splits = self.clear.fingerprint + "+gaps", self.clear.splits
        self.middle = len(data.dates) // 2

    def __len__(self) -> int:
        return len(self.clear)

    def sample(self, index: int, bands=None) -> Batch:
        whole = self.clear.sample(index, bands)
        layer = whole.layers[self.sensors[0].id]
        steps, size = layer.shape[1], tuple(layer.shape[3:])
        noise = torch.rand((steps, 1, 4, 4), generator=generator(0, int(whole.where.key[0]), "gaps"))
        noise = torch.nn.functional.interpolate(noise, size, mode="bicubic", align_corners=False)[None]
        level = [float(noise[0, t].quantile(0.5 if t == self.middle else 0.33)) for t in range(steps)]
        valid = layer.valid & (noise > torch.tensor(level).view(1, -1, 1, 1, 1))
        label = Label("image", layer.x[:, self.middle], ~valid[:, self.middle])
        seen = replace(layer, x=torch.where(valid, layer.x, 0.0), valid=valid)
        return Batch({layer.sensor.id: seen}, whole.where, {"clear": label})

    def guide(self) -> float:
        """Error of the interpolation in time that the task starts from."""
        scores = ValueScores("clear")
        for i in self.splits()["test"]:
            batch = self.sample(i)
            layer = batch.layers[self.sensors[0].id]
            empty = torch.where(layer.valid, layer.x, 0.0).sum((0, 1, 3, 4)) / layer.valid.sum().clamp_min(1)
            told, _ = guided(batch, (layer.sensor.id, tuple(range(6))), tuple(layer.shape[3:]), (empty, self.middle))
            scores.update({"values": told}, batch)
        return scores.compute()["rmse"]


def table(batch: Batch) -> np.ndarray:
    """A row a pixel: every band of every date, zero where nothing is seen."""
    return np.concatenate(
        [v.x.where(v.valid, 0.0)[0].flatten(0, 1).flatten(1).T.numpy() for v in batch.layers.values()], 1
    )


def drawn(batch: Batch, name: str) -> Label:
    """Objects as a mask on the image's pixels: 0 outside, 1 inside, 2 at their edge (1 where only boxes are known)."""
    label = batch.labels[name]
    if label.kind != "boxes":
        return label
    (found,), size = label.objects, next(iter(batch.layers.values())).shape[3:]
    if found.masks is not None and found.masks.shape[1:] == size:
        return as_mask(label, 1)
    value = torch.zeros(1, *size, dtype=torch.int64)
    scale = size[0] / int(label.value[0, 0])
    for x0, y0, x1, y1 in (found.xyxy * scale).round().long().tolist():
        value[0, y0 : max(y0 + 1, y1), x0 : max(x0 + 1, x1)] = 1
    return Label("mask", value, torch.ones_like(value, dtype=torch.bool))


def as_objects(inside: np.ndarray, sure: np.ndarray, label: Label, masks: bool) -> dict[str, torch.Tensor]:
    """Connected pixels, each a box (and a mask) with the mean certainty of its pixels, on the label's grid."""
    scale = int(label.value[0, 0]) / len(inside)
    parts, n = ndimage.label(inside)
    found = ndimage.find_objects(parts)
    boxes = [[s[1].start, s[0].start, s[1].stop, s[0].stop] for s in found]
    scores = ndimage.mean(sure, parts, range(1, n + 1)) if n else []
    out = {
        "boxes": torch.tensor(boxes).view(1, n, 4).float() * scale,
        "scores": torch.tensor(scores).view(1, n).float(),
        "classes": torch.zeros(1, n, dtype=torch.int64),
        "counts": torch.tensor([n]),
    }
    if masks:
        out["masks"] = torch.from_numpy(parts[None] == np.arange(1, n + 1)[:, None, None])[None]
    return out


def summary(batch: Batch) -> np.ndarray:
    """A chip as a row: mean and deviation of every band of every date over the pixels seen, and their share."""
    parts: list[torch.Tensor] = []
    for layer in batch.layers.values():
        x, seen = layer.x[0].double().flatten(2), layer.valid[0].double().flatten(2)
        count = seen.sum(2).clamp_min(1)
        mean = (x * seen).sum(2) / count
        parts += [mean, (((x - mean[..., None]) ** 2 * seen).sum(2) / count).sqrt(), seen.mean(2)]
    return torch.cat([p.flatten() for p in parts]).numpy()


def judge_of(task: str, label: str, classes: tuple[str, ...]):
    match task:
        case "classify" | "series":
            return ClassScores(label, classes, "accuracy_macro")
        case "multilabel":
            return TagScores(label, classes)
        case "regress" | "scalar":
            return ValueScores(label)
        case "boundaries":
            return FieldScores(label, 1, 9)
        case "detect" | "instances":
            return ObjectScores(label, classes, "bbox" if task == "detect" else "segm")
        case _:
            return ClassScores(label, classes, "iou_macro")


def told_by(model, batch: Batch, task: str, label: str) -> dict[str, torch.Tensor]:
    """The forest's answer in the task's own terms."""
    x, shape = table(batch), tuple(drawn(batch, label).value.shape[-2:])
    if task == "regress":
        return {"values": torch.from_numpy(model.predict(x)).view(1, 1, *shape)}
    p = model.predict_proba(x).reshape(*shape, -1)
    classes = model.classes_[p.argmax(-1)]
    if task in ("detect", "instances"):
        inside = classes == 1
        sure = p[..., list(model.classes_).index(1)]
        return as_objects(inside, sure, batch.labels[label], task == "instances")
    told = {"classes": torch.from_numpy(classes)[None].long()}
    if task == "boundaries":
        told["instances"] = torch.from_numpy(fields_of(classes, 9))[None]
    return told


class Judged:
    """A source whose labels count only where the task judges them."""

    def __init__(self, source, task: str, label: str) -> None:
        self.source, self.labels, self.splits = source, source.labels, source.splits
        self.label, self.every = label, task == "change"

    def sample(self, index: int) -> Batch:
        return judged(self.source.sample(index), self.label, self.every)


def forest(source, label, task, seed=0):
    """A random forest on the pixels of the training chips, judged on the same test chips by the task's own scores."""
    scores = judge_of(task, label, source.labels[label].classes)
    parts, rng = source.splits(), np.random.default_rng(seed)
    rows, truth = [], []
    for i in parts["train"]:
        batch = source.sample(i)
        y = drawn(batch, label)
        keep = rng.permutation(np.flatnonzero(y.valid.flatten().numpy()))[:PIXELS]
        rows.append(table(batch)[keep])
        truth.append(y.value.flatten().numpy()[keep])
    kind = RandomForestRegressor if task == "regress" else RandomForestClassifier
    model = kind(100, max_depth=16, n_jobs=1, random_state=seed).fit(np.concatenate(rows), np.concatenate(truth))
    for i in parts["test"]:
        batch = source.sample(i)
        scores.update(told_by(model, batch, task, label), batch)
    return scores


def chip_forest(source, label, task, seed=0):
    """A random forest on a chip's means and deviations, judged on the same test chips by the task's own scores."""
    spec, parts = source.labels[label], source.splits()
    scores = judge_of(task, label, spec.classes)
    train = [b for i in parts["train"] if bool((b := source.sample(i)).labels[label].valid.all())]
    y = np.stack([b.labels[label].value[0].numpy() for b in train])
    kind = RandomForestRegressor if task == "scalar" else RandomForestClassifier
    model = kind(300, n_jobs=1, random_state=seed).fit(np.stack([summary(b) for b in train]), y)
    for i in parts["test"]:
        batch = source.sample(i)
        told = torch.from_numpy(model.predict(summary(batch)[None]))
        scores.update({{"scalar": "values", "multilabel": "probabilities"}.get(task, "classes"): told}, batch)
    return scores


def blind(source, label, task):
    """One object that is the whole chip: what the majority comes to where objects are asked for."""
    scores = judge_of(task, label, source.labels[label].classes)
    for i in source.splits()["test"]:
        batch = source.sample(i)
        size = tuple(drawn(batch, label).value.shape[-2:])
        if task == "boundaries":
            one = torch.ones(1, *size, dtype=torch.int64)
            scores.update({"classes": one, "instances": one}, batch)
        else:
            scores.update(
                as_objects(np.ones(size, bool), np.ones(size), batch.labels[label], task == "instances"), batch
            )
    return scores.compute()


def chosen(name: str) -> tuple[str, dict, dict]:
    """Kind, task and data of a case."""
    task, data = CASES[name]
    whole = {"kind": task} if isinstance(task, str) else task
    return whole["kind"], whole, CASES[data["same"]][1] if "same" in data else data


def redrawn(scores, times: int = 1000) -> np.ndarray | None:
    """The primary score over redrawn test chips, the same draws for whoever is judged on these chips."""
    match scores:
        case ClassScores():
            table = scores.table
            k = table.shape[-1]
            drawn = resample(len(table), times, 0) @ table.reshape(len(table), k * k)
            return class_scores(drawn.reshape(times, k, k))[scores.primary]
        case TagScores():
            hit, told, truth = (resample(len(c), times, 0) @ c.sum(1) for c in scores.counts())
            return 2 * hit / (told + truth)
        case ValueScores():
            n, _, e2, *_ = (resample(len(scores.names), times, 0) @ torch.cat(scores.rows).numpy()).T
            return np.sqrt(e2 / n) if scores.primary == "rmse" else None
        case FieldScores():
            hit, told, true = (resample(len(scores.counts), times, 0) @ np.array(scores.counts, dtype=float)).T
            return 2 * hit / (told + true)
        case _:
            return None


def lead_of(bundle: Path, source, judge) -> list[float] | None:
    """95 % interval of how much better the bundle is than what `judge` holds, on the same redrawn chips."""
    theirs = redrawn(judge)
    if theirs is None:
        return None
    mine = evaluate(Bundle.load(bundle).task, batches(source, source.splits()["test"], None, 16)).scores
    gain = (redrawn(mine) - theirs) * (1 if mine.direction == "max" else -1)
    return [round(float(v), 4) for v in np.quantile(gain, [0.025, 0.975])]


def tested(task: str) -> int:
    """Test chips: a chip is thousands of pixels, but one label of a chip."""
    return 256 if task in CHIPS else 64


def plan_of(name: str, steps: int, chips: int, seed: int, out: Path, val: int = 32) -> TuneRun:
    """What `swath init` would write, on generated data."""
    task, whole, data = chosen(name)
    parts = {"train": chips, "val": val, "test": tested(task)}
    source = {"kind": "world", "sensors": {"sentinel2-l2a": S2}, "chips": parts, "size": 64, **data}
    loop = loop_of(chips) | {"steps": steps, "seed": seed, "validate_every": max(1, steps // 5), "progress": False}
    loop.pop("epochs")
    still = task in ("scalar", "series", "gapfill")
    plan = {
        "name": name, "data": source, "encoder": {"kind": "swath-vit", "size": "nano", "patch": 16},
        "task": whole,
        "loop": loop, "augment": {} if still else {"flips": True, "turns": True},
        "out": str(out / name), "trust": {"chips": 2, "bootstrap": 300},
    }  # fmt: skip
    if name == "sensors":
        plan["augment"] |= {"sensor_drop": 0.25}
    return config.parse(plan, TuneRun)


def without(run: TuneRun, bundle: Path, missing: str) -> float:
    """The bundle's score on the test split when a sensor is gone from every sample."""
    source = replace(run.data, missing={missing: 1.0}).build()
    scores = evaluate(Bundle.load(bundle).task, batches(source, source.splits()["test"], None, 16)).scores
    return scores.compute()[scores.primary]


def opened(name: str, run: TuneRun):
    """The case's samples, rendered."""
    built = Gaps(run.data) if name == "gaps" else run.data.build()
    for part in built.splits().values():
        for i in part:
            built.sample(i)
    return built


def case(name: str, steps: int, chips: int, seed: int, out: Path, val: int = 32) -> dict:
    """One record: scores side by side on the same test chips."""
    task, whole, data = chosen(name)
    run = plan_of(name, steps, chips, seed, out, val)
    built = opened(name, run)
    began = time.monotonic()
    found = tune(run, built)
    tuned = time.monotonic()
    label, primary = data["labels"][0], found.primary
    row = {
        "case": name, "seed": seed, "task": whole, "label": label, "metric": primary,
        "direction": found.record["direction"],
        "tuned": found.scores[primary], "interval": found.record["intervals"].get(primary),
        "baseline": found.baseline.get(primary), "steps": steps, "train": chips, "val": val, "test": tested(task),
        "seconds": {"tune": round(tuned - began, 1)}, "notes": found.record["notes"],
        "scores": {k: round(v, 4) for k, v in found.scores.items() if "/" not in k and v == v},
        "history": [round(v, 4) for v in found.record["fit"]["history"]],
    }  # fmt: skip
    if task in (*DENSE, *CHIPS):
        judge = (
            chip_forest(built, label, task, seed)
            if task in CHIPS
            else forest(Judged(built, task, label), label, task, seed)
        )
        told = judge.compute()
        row |= {"forest": told[primary], "forest_scores": {k: round(v, 4) for k, v in told.items() if "/" not in k}}
        row["lead"] = lead_of(found.bundle, built, judge)
        row["seconds"]["forest"] = round(time.monotonic() - tuned, 1)
    if task in ("boundaries", "detect", "instances"):
        row["baseline"] = blind(built, label, task)[primary]
    if name == "gaps":
        row["baseline"] = built.guide()
    if name == "sensors":
        row["without"] = {s: without(run, found.bundle, s) for s in BOTH}
    return row


def keep(row: dict) -> None:
    """One line a case and seed, the newest; with the code that made it."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    row |= {"code": head.stdout.strip()}
    rows = [r for r in read() if (r["case"], r["seed"]) != (row["case"], row["seed"])] + [row]
    rows.sort(key=lambda r: (list(CASES).index(r["case"]), r["seed"]))
    RECORDS.parent.mkdir(exist_ok=True)
    text = "".join(json.dumps(r) + "\n" for r in rows)
    RECORDS.write_text(text, encoding="utf-8")


def read() -> list[dict]:
    return [json.loads(x) for x in RECORDS.read_text(encoding="utf-8").splitlines()] if RECORDS.is_file() else []


def markdown() -> str:
    """The table of docs/tune.md: means over seeds, and the seeds' range where there are several."""
    head = ("case", "task", "score", "majority or mean", "forest on pixels", "tuned", "lead over the forest (95 %)",
            "steps, chips")  # fmt: skip
    rows = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    read_rows = read()
    for case in dict.fromkeys(r["case"] for r in read_rows):
        mine = [r for r in read_rows if r["case"] == case]
        r, tuned = mine[-1], [m["tuned"] for m in mine]
        low, high = (min(tuned), max(tuned)) if len(mine) > 1 else (r["interval"] or (None, None))
        told = f"; {len(mine)} seeds" if len(mine) > 1 else ""
        span = f" ({low:.3f} to {high:.3f}{told})" if low is not None else ""
        cells = [f"{np.mean([m[k] for m in mine]):.3f}" if isinstance(r.get(k), float) else ""
                 for k in ("baseline", "forest")]  # fmt: skip
        leads = [m["lead"] for m in mine if m.get("lead")]
        lead = f"{min(v[0] for v in leads):+.3f} to {max(v[1] for v in leads):+.3f}" if leads else ""
        arrow = "" if r["direction"] == "max" else " (lower is better)"
        name = f"{case} ({r['label']})"
        rows.append(f"| {name} | `{r['task']['kind']}` | {r['metric']}{arrow} | {cells[0]} | {cells[1]} | "
                    f"**{np.mean(tuned):.3f}**{span} | {lead} | {r['steps']}, {r['train']} |")  # fmt: skip
        for sensor in r.get("without", {}):
            value = np.mean([m["without"][sensor] for m in mine])
            rows.append(f"| … without {sensor} | | {r['metric']} | | | {value:.3f} | | |")
    return "\n".join(rows) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--chips", type=int, default=400)
    parser.add_argument("--val", type=int, default=32, help="validation chips; `init` gives 15 for 70 to train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table:
        text = PAGE.read_text(encoding="utf-8")
        before, rest = text.split(MARKS[0])
        PAGE.write_text(before + MARKS[0] + markdown() + MARKS[1] + rest.split(MARKS[1])[1], encoding="utf-8")
        return
    for name in given.cases or CASES:
        with tempfile.TemporaryDirectory() as out:
            row = case(name, given.steps, given.chips, given.seed, Path(out), given.val)
        keep(row)
        shown = ("metric", "tuned", "interval", "baseline", "forest", "lead", "without", "seconds")
        line = {k: row.get(k) for k in shown}
        print(f"{name:10s}", json.dumps(line), json.dumps(row["scores"]), row["history"], flush=True)


if __name__ == "__main__":
    main()
