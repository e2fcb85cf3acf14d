"""Does an objective learn? On the simulated Earth: probes of frozen features, against random weights and a broken link.

    python benchmarks/learning_gate.py draw                # chips, once
    python benchmarks/learning_gate.py random              # three random initialisations, once
    python benchmarks/learning_gate.py run mae 0 whole     # one seed; `broken` is the control
    python benchmarks/learning_gate.py queue mae moco      # whatever of these is not yet in the records, one by one
    python benchmarks/learning_gate.py table docs/pretrain.md

Chips of 12 x 12 pixels of which one crop covers half, seen at four dates of one season by Sentinel-2 and Sentinel-1.
What a sensor saw is not what was there: every date of a chip has its own gain and haze (a calibration offset for
radar), which a linear map of pixels cannot take out. Both probes are ridge regression: the crop that fills a token's
square (patch), and the commonest crop of a chip (chip). The gain is against the best of three random initialisations of
the same encoder on the same sensors. The control breaks the one link that the objective can learn from and must lose
the gain.
One run is about a CPU minute; records go to `benchmarks/learning_gate.jsonl`, one line a run, and those of runs with
other settings (`--set`) to `benchmarks/learning_trials.jsonl`.
"""

import argparse
import importlib
import json
import multiprocessing
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from swath.core import SENSORS, Batch, Label, Layer, Where, collate, generator
from swath.core.config import parse_member
from swath.models.encoders.swath_vit import SIZES, SwathViT
from swath.objectives import OBJECTIVES, Kit
from swath.objectives.pretraining.probe import dense, linear, pooled
from swath.objectives.views.views import only
from swath.train import Feed, LoopConfig, fit

HERE = Path(__file__).parent
RECORDS, TRIALS = HERE / "learning_gate.jsonl", HERE / "learning_trials.jsonl"
CACHE = HERE.parent / "out" / "learning_gate"
S2, S1 = "sentinel2-l2a", "sentinel1-rtc"
BANDS = {S2: ["blue", "green", "red", "nir", "swir16", "swir22"], S1: ["vv", "vh"]}
DAYS = [19450, 19510, 19570, 19630]
DRAWS, CHIPS, LEARNT = {1: 1400, 2: 1800, 3: 900}, 2500, 1700
SIZE, PATCH = 12, 6
GAIN, HAZE = 0.2, 0.2
SIZES["gate"] = (96, 4, 3)

DECODER = {"width": 64, "depth": 1, "heads": 4}
VIEWS = {"season": False, "crop": [0.6, 1.0], "gain": 0.2, "haze": 0.2, "each_date": True}
HALF = {"kind": "random", "ratio": 0.6}


@dataclass
class Plan:
    """How one objective is gated: its config, its sensors and its loop."""

    config: dict
    sensors: tuple = (S2,)
    steps: int = 500
    batch: int = 32
    lr: float = 1.5e-3
    labels: bool = False
    probed: tuple = ()


PLANS = {
    "mae": Plan({**DECODER, "norm_pix": False}, steps=1000),
    "simmim": Plan({"mask": {"kind": "random", "ratio": 0.6}}, steps=700),
    "fgmae": Plan({**DECODER, "norm": False}, steps=700),
    "multimae": Plan({**DECODER, "mask": {"kind": "dirichlet"}}, sensors=(S2, S1), steps=350),
    "inpaint": Plan({"side": PATCH, "ratio": 0.5}, steps=600),
    "latent-mim": Plan({**DECODER, "dim": 96, "masks": [{"kind": "random", "ratio": 0.75}] * 2}, steps=800),
    "data2vec": Plan({"mask": HALF, "top": 3, "ema": [0.999, 0.9999]}, steps=800),
    "moco": Plan({"hidden": 256, "dim": 64, "views": VIEWS}, steps=500, batch=48),
    "dino": Plan(
        {
            "prototypes": 512,
            "hidden": 256,
            "bottleneck": 64,
            "local": 2,
            "ema": [0.98, 1.0],
            "views": VIEWS,
            "small": {**VIEWS, "crop": [0.3, 0.6]},
        },
        steps=200,
        batch=48,
    ),
    "seco": Plan({"dim": 64, "queue": 1024, "momentum": 0.98, "views": VIEWS}, steps=300, batch=64),
    "triplet": Plan(
        {"tile": 0.67, "radius": 0.3, "margin": 2.0, "sky": {"gain": 0.2, "haze": 0.2}}, steps=400, batch=48
    ),
    "decur": Plan({"dim": 256, "common": 192, "views": VIEWS}, sensors=(S2, S1), steps=200, batch=64),
    "mpmae": Plan(
        {**DECODER, "sees": S2, "norm_pix": False, "weighting": "uncertainty"},
        sensors=(S2, S1),
        probed=(S2,),
        steps=1100,
    ),
    "supervised": Plan(
        {
            "width": 48,
            "heads": {
                "crop_type": {"type": "segmentation", "classes": 13},
                "land_cover": {"type": "segmentation", "classes": 11},
            },
        },
        steps=250,
        labels=True,
    ),
    "distill": Plan({"mask": HALF}, steps=400),
    "sum": Plan({"parts": [{"kind": "simmim", "mask": HALF}, {"kind": "distill", "mask": HALF}]}, steps=250),
    "croma": Plan({**DECODER, "dim": 64, "mask": {"kind": "random", "ratio": 0.5}}, sensors=(S2, S1), steps=350),
}


@dataclass
class Memory:
    """Chips in memory as a Source."""

    chips: Batch
    name = "gate"
    licence = "none"
    fingerprint = "gate"

    def __post_init__(self):
        self.labels = {}
        self.sensors = tuple(v.sensor for v in self.chips.layers.values())

    def __len__(self):
        return len(self.chips)

    def splits(self):
        return {"train": range(len(self))}

    def sample(self, index, bands=None):
        return self.chips[index]


def disturbed(batch):
    """Every date of a chip with a gain and a haze of its own, drawn at the chip's key."""
    layers = {}
    for name, layer in batch.layers.items():
        b, t = layer.shape[:2]
        u = torch.stack([torch.rand(2, t, generator=generator("gate", int(k), name)) for k in batch.where.key])
        u = (2 * u - 1).view(b, 2, t, 1, 1, 1)
        stds = torch.tensor([1.0 if v.std is None else v.std for v in layer.sensor.bands]).view(1, 1, -1, 1, 1)
        if layer.sensor.kind == "sar":
            x = layer.x + 10 * (1 + GAIN * u[:, 0]).log10()
        else:
            x = layer.x * (1 + GAIN * u[:, 0]) + HAZE * u[:, 1] * stds
        layers[name] = replace(layer, x=torch.where(layer.valid, x, x.new_zeros(())))
    return replace(batch, layers=layers)


def draw():
    """The chips, on disk."""
    from swath.world import World

    CACHE.mkdir(parents=True, exist_ok=True)
    first = 0
    for seed, n in DRAWS.items():
        path, part = CACHE / f"chips-{seed}.pt", CACHE / f".chips-{seed}.part"
        if not path.exists():
            world = World(7, clouds=0.0)
            sites = world.sites(n, seed=seed, near="cropland")
            groups = [(i, sites[i : i + 50]) for i in range(0, n, 50)]
            keys = [range(first + i, first + i + len(s)) for i, s in groups]
            names = ["crop_type", "land_cover"]
            found = collate(
                [world.batch(s, SIZE, BANDS, DAYS, names, key=k) for (_, s), k in zip(groups, keys, strict=True)]
            )
            state = {k: (v.x, v.valid, v.times) for k, v in found.layers.items()}
            labels = {k: (v.value, v.valid) for k, v in found.labels.items()}
            torch.save({"layers": state, "labels": labels, "key": found.where.key, "lonlat": found.where.lonlat}, part)
            part.replace(path)
        first += n


def earth(sensors):
    """The disturbed chips of these sensors: the first `CHIPS` of which one crop covers half."""
    draw()
    found = []
    for seed in DRAWS:
        state = torch.load(CACHE / f"chips-{seed}.pt")
        layers = {k: Layer(SENSORS.get(k).select(BANDS[k]), *state["layers"][k]) for k in BANDS}
        labels = {k: Label("mask", *v) for k, v in state["labels"].items()}
        found.append(Batch(layers, Where(state["key"], state["lonlat"]), labels))
    whole = collate(found)
    share = torch.stack([torch.bincount(c.flatten(), minlength=13)[1:].max() for c in whole.labels["crop_type"].value])
    clear = (share >= SIZE * SIZE // 2).nonzero()[:CHIPS, 0]
    if len(clear) < CHIPS:
        raise SystemExit(f"only {len(clear)} chips with a crop over half")
    return only(disturbed(whole[clear]), sensors)


def build(seed):
    torch.manual_seed(seed)
    return SwathViT(size="gate", patch=PATCH, drop_time=0.0, drop_place=0.0).build()  # pyright: ignore


def probes(encoder, batch):
    """Accuracies of both probes on the chips that were not learnt from."""
    crop = batch.labels["crop_type"].value
    cut = crop.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).flatten(3).flatten(1, 2).mode(-1).values
    kinds = torch.stack([torch.bincount(c.flatten(), minlength=20)[1:].argmax() for c in crop])
    x, d = pooled(encoder, batch), dense(encoder, batch).flatten(2).transpose(1, 2)
    a, b = slice(0, LEARNT), slice(LEARNT, None)
    chip = linear((x[a], kinds[a]), (x[b], kinds[b]))
    patch = linear((d[a].flatten(0, 1), cut[a].flatten()), (d[b].flatten(0, 1), cut[b].flatten()))
    return {"patch": round(patch, 4), "chip": round(chip, 4)}


def rolled(call, by=1):
    """The same call with its result's rows turned: what was one sample's is another's."""
    return lambda *a, **k: _turn(call(*a, **k), by)


def _turn(found, by):
    if isinstance(found, torch.Tensor):
        return found.roll(by, 0)
    if isinstance(found, dict):
        return {k: _turn(v, by) for k, v in found.items()}
    if isinstance(found, tuple):
        turned = [_turn(v, by) for v in found]
        return type(found)(*turned) if hasattr(found, "_fields") else tuple(turned)
    if found is None or isinstance(found, int | float | str):
        return found
    if hasattr(found, "value"):
        return replace(found, value=found.value.roll(by, 0), valid=found.valid.roll(by, 0))
    return replace(found, pooled=found.pooled.roll(by, 0))


def broken(name, objective):
    """Cut the link: what is to be predicted, or the second view, is another sample's."""
    module = importlib.import_module(f"swath.objectives.{name.replace('-', '_')}")
    if name == "sum":
        for part, kind in zip(objective.parts, objective.kinds, strict=True):
            broken(kind, part)
    elif name in ("moco", "dino", "seco"):
        slow = objective.slow[0]
        slow.forward = rolled(slow.forward)
    elif name == "mpmae":
        objective.pixels, objective.images = rolled(objective.pixels), rolled(objective.images)
    elif name == "inpaint":
        module.standard = rolled(module.standard)
    elif name in ("data2vec", "fgmae"):
        objective.targets = rolled(objective.targets)
    elif name == "distill":
        objective.taught = rolled(objective.taught)
    elif name == "supervised":
        objective.wanted = rolled(objective.wanted)
    elif name == "triplet":
        tiles = objective.tiles

        def far(batch, draws):
            anchor, near = tiles(batch, draws)
            return anchor, near[torch.arange(len(batch)).roll(2)]

        objective.tiles = far
    elif name == "decur":
        embed, calls = objective.embed, [0]

        def stray(view, i):
            calls[0] += 1
            return embed(view, i).roll(calls[0] % 4, 0)

        objective.embed = stray
    else:
        module.patches = rolled(module.patches)
        if name == "croma":
            alone = objective.alone
            objective.alone = lambda tokens, plan, i: alone(tokens, plan, i).roll(i, 0)
        if name == "latent-mim":
            view = objective.view

            def unpaired(batch, tokens, plan, i):
                each, z = view(batch, tokens, plan, i)
                return each, z.roll(i, 0)

            objective.view = unpaired


def teacher():
    """For distillation: what `mae` with seed 0 has learnt."""
    path = CACHE / "mae-0-whole.pt"
    if not path.exists():
        raise SystemExit("distill needs the teacher that `run mae 0 whole` leaves behind")
    encoder = build(0)
    encoder.load_state_dict(torch.load(path))
    return encoder


def learn(name, seed, link, **change):
    """One run: pretrain, probe, one record."""
    torch.set_num_threads(1)
    plan = replace(PLANS[name], **change)
    batch = earth(plan.sensors)
    encoder = build(seed)
    train = batch[torch.arange(LEARNT)]
    train = train if plan.labels else replace(train, labels={})
    kit = Kit(encoder, train[0], teacher() if name in ("distill", "sum") else None)
    objective = parse_member({"kind": name, **plan.config}, OBJECTIVES).build(kit)
    if link == "broken":
        broken(name, objective)
    config = LoopConfig(steps=plan.steps, batch_size=plan.batch, lr=plan.lr, warmup=0.1, betas=(0.9, 0.95), clip=1.0,
                        seed=seed, progress=False, energy="off", log_every=50)  # fmt: skip
    began = time.process_time()
    with tempfile.TemporaryDirectory() as out:
        report = fit(objective, Feed(Memory(train)), config, out=Path(out))
    seconds = time.process_time() - began
    if link == "whole" and name == "mae":
        torch.save(encoder.state_dict(), CACHE / f"{name}-{seed}-{link}.pt")
    seen = plan.probed or plan.sensors
    return {"objective": name, "seed": seed, "link": link, "sensors": list(seen), "steps": plan.steps,
            "batch": plan.batch, "loss": round(float(report.loss), 4), **probes(encoder, only(batch, seen)),
            "cpu_s": round(seconds)}  # fmt: skip


def records():
    return [json.loads(t) for t in RECORDS.read_text().splitlines()] if RECORDS.exists() else []


def note(row, path=RECORDS):
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def baselines():
    """Three random initialisations on either set of sensors."""
    done = {(r["seed"], tuple(r["sensors"])) for r in records() if r["objective"] == "random"}
    for sensors in ((S2,), (S2, S1)):
        batch = earth(sensors)
        for seed in range(900, 903):
            if (seed, sensors) not in done:
                note({"objective": "random", "seed": seed, "sensors": list(sensors), **probes(build(seed), batch)})


def best(rows):
    """(sensors, probe) -> the best of the random initialisations."""
    random = [r for r in rows if r["objective"] == "random"]
    return {(tuple(r["sensors"]), k): max(q[k] for q in random if q["sensors"] == r["sensors"])
            for r in random for k in ("patch", "chip")}  # fmt: skip


def gains(rows):
    """objective -> link -> the runs in the order of their seeds, with gains in points."""
    floor, out = best(rows), {}
    for r in sorted((r for r in rows if r["objective"] != "random"), key=lambda r: r["seed"]):
        gain = {k: round(100 * (r[k] - floor[tuple(r["sensors"]), k]), 1) for k in ("patch", "chip")}
        out.setdefault(r["objective"], {}).setdefault(r["link"], []).append({**r, **gain})
    return out


def verdict(links):
    """Passes where a probe gains more than five points with two seeds and the control gains no such thing."""
    whole, cut = links.get("whole", []), links.get("broken", [])
    if len(whole) < 2 or not cut:
        return "not complete"
    for probe in ("chip", "patch"):
        if min(r[probe] for r in whole) > 5 and max(r[probe] for r in cut) < 0.5 * min(r[probe] for r in whole):
            return f"passes ({'both' if min(r['patch'] for r in whole) > 5 and probe == 'chip' else probe})"
    if min(max(r["chip"], r["patch"]) for r in whole) > 5:
        return "gains, and so does its control"
    return "fails"


def table(path):
    """Write the table between the marks of a page."""
    rows = records()
    floor = best(rows)
    head = [
        "| objective | sensors | steps x batch | chip, two seeds | patch | broken: chip | patch | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, links in sorted(gains(rows).items()):
        first = next(iter(links.values()))[0]
        show = {
            (link, k): ", ".join(f"{r[k]:+.1f}" for r in links.get(link, [])) or "–"
            for link in ("whole", "broken")
            for k in ("chip", "patch")
        }
        head.append(
            f"| `{name}` | {len(first['sensors'])} | {first['steps']} x {first['batch']} | {show['whole', 'chip']} | "
            f"{show['whole', 'patch']} | {show['broken', 'chip']} | {show['broken', 'patch']} | {verdict(links)} |"
        )
    one, two = (tuple([S2]), tuple([S2, S1]))
    said = (
        f"Best of three random encoders: chip {100 * floor[one, 'chip']:.1f} %, patch {100 * floor[one, 'patch']:.1f} %"
        f" on Sentinel-2; chip {100 * floor[two, 'chip']:.1f} %, patch {100 * floor[two, 'patch']:.1f} % with "
        "Sentinel-1."
    )
    text, begin, end = path.read_text(), "<!-- gates: begin -->", "<!-- gates: end -->"
    a, b = text.index(begin) + len(begin), text.index(end)
    path.write_text(text[:a] + "\n\n" + "\n".join([*head, "", said]) + "\n\n" + text[b:])


def missing(names, controls):
    """Runs that are not in the records: all seeds of all objectives first, then their controls."""
    wanted = [(n, s, "whole") for n in names for s in range(2)]
    wanted += [(n, s, "broken") for s in range(controls) for n in names]
    have = {(r["objective"], r["seed"], r.get("link")) for r in records()}
    return [w for w in wanted if w not in have]


def queue(names, controls, budget):
    """Runs until `budget` seconds have passed, each in a process of its own; says how many are left."""
    began = time.monotonic()
    for name, seed, link in missing(names, controls):
        if time.monotonic() - began > budget:
            break
        child = multiprocessing.get_context("fork").Process(target=lambda n, s, k: note(learn(n, s, k)),
                                                            args=(name, seed, link))  # fmt: skip
        child.start()
        child.join()
        if child.exitcode:
            print(f"{name} {seed} {link} failed", flush=True)
    print(f"{len(missing(names, controls))} left", flush=True)


def main():
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("draw")
    verbs.add_parser("random")
    one = verbs.add_parser("run")
    one.add_argument("objective", choices=sorted(PLANS))
    one.add_argument("seed", type=int)
    one.add_argument("link", choices=("whole", "broken"))
    one.add_argument(
        "--set", action="append", default=[], help="steps=300, lr=1e-3, config.tau=.1: a trial, noted apart"
    )
    many = verbs.add_parser("queue")
    many.add_argument("objectives", nargs="+", choices=sorted(PLANS))
    many.add_argument("--controls", type=int, default=2, help="seeds of the control")
    many.add_argument("--budget", type=float, default=1e9, help="seconds after which no new run begins")
    page = verbs.add_parser("table")
    page.add_argument("page", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    match args.verb:
        case "draw":
            draw()
        case "random":
            baselines()
        case "run":
            change = {k: json.loads(v) for k, v in (t.split("=", 1) for t in args.set)}
            inner = {k.split(".", 1)[1]: change.pop(k) for k in list(change) if k.startswith("config.")}
            if inner:
                change["config"] = {**PLANS[args.objective].config, **inner}
            row = learn(args.objective, args.seed, args.link, **change)
            if args.set:
                note({**row, "set": args.set}, TRIALS)
            else:
                note(row)
        case "queue":
            queue(args.objectives, args.controls, args.budget)
        case "table":
            table(args.page)


if __name__ == "__main__":
    main()
