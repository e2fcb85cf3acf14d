"""Chapter three: from labels to a map. Tune, map a scene of another continent and season, vectorise, embed, search."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from PIL import Image

from demo import learn
from demo import pictures as pic
from swath.adapt.metrics import class_scores
from swath.adapt.run import TuneRun
from swath.adapt.tune import tune
from swath.core import Window, collate, numpy_generator
from swath.core.config import parse
from swath.data.start import loop_of
from swath.deploy.bundles import OpenBundle, OpenRasters
from swath.deploy.embed import EmbedPlan, EmbedSettings, weights_digest
from swath.deploy.embed_files import embed_scene
from swath.deploy.map import MapRun, map_scene
from swath.deploy.plan import MapSettings, Shaping
from swath.deploy.search import similar
from swath.models import build_encoder
from swath.report import page as p
from swath.report import tune as tune_report
from swath.world import LABELS, Site, World, day_of
from swath.world.files import write_scene

SENSOR = "sentinel2-l2a"
LABEL = "land_cover"
SIZE = 2048
TRAIN = {"train": 160, "val": 32, "test": 48}
PLACE = Site(-93.6, 42.1)
DAY = day_of(2023, 8, 25)
SQUARE = 128
EPOCHS = 14


def run_of(out: Path, weights: Path) -> TuneRun:
    """Labels of Europe in June; the map will be of North America in August."""
    data = {
        "kind": "world",
        "seed": 7,
        "sensors": {SENSOR: list(learn.BANDS)},
        "labels": [LABEL],
        "chips": TRAIN,
        "size": 64,
        "region": "europe",
        "dates": ["06-20"],
        "clouds": 0.0,
    }
    raw = {
        "name": "land-cover",
        "data": data,
        "encoder": learn.ENCODER,
        "weights": str(weights),
        "task": {"kind": "segment"},
        "tuning": "full",
        "loop": loop_of(TRAIN["train"])
        | {"epochs": EPOCHS, "layer_decay": 0.8, "precision": "bf16", "progress": False},
        "augment": {"flips": True, "turns": True},
        "out": str(out / "tune"),
    }
    return parse(raw, TuneRun)


def forest(run: TuneRun):
    """A random forest on the pixels of the same training chips."""
    from sklearn.ensemble import RandomForestClassifier

    source = run.data.build()
    batch = collate([source.sample(i) for i in source.splits()["train"]])
    x = batch.layers[SENSOR].x[:, 0].permute(0, 2, 3, 1).reshape(-1, len(learn.BANDS)).numpy()
    y = batch.labels[LABEL].value.reshape(-1).numpy()
    keep = numpy_generator(0, "forest").permutation(len(x))[:60_000]
    return RandomForestClassifier(60, min_samples_leaf=5, n_jobs=2, random_state=0).fit(x[keep], y[keep])


def squares(truth, predicted, classes):
    """One confusion matrix per square of the scene: the squares are the units of the interval."""
    rows = []
    for w in Window(0, 0, *truth.shape).split(SQUARE, SQUARE):
        t, q = truth[w.slices].ravel(), predicted[w.slices].ravel()
        ok = (t < classes) & (q < classes)
        rows.append(
            np.bincount(t[ok].astype(np.int64) * classes + q[ok], minlength=classes * classes).reshape(classes, classes)
        )
    return np.stack(rows)


def with_interval(rows, name):
    """A score over the whole scene and its 95 % interval over squares."""
    rng = numpy_generator(0, "squares")
    point = float(class_scores(rows.sum(0))[name])
    draws = [float(class_scores(rows[rng.integers(0, len(rows), len(rows))].sum(0))[name]) for _ in range(400)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{100 * point:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def chapter(page: p.Page, out: Path, weights: Path) -> None:
    """Add the chapter to the page."""
    began = time.monotonic()
    run = run_of(out, weights)
    done = tune(run, command=["make", "demo"])
    report = tune_report.write(done.out)
    tuned = time.monotonic()
    scene = World(7, clouds=0.0).scene(PLACE, SIZE, {SENSOR: list(learn.BANDS)}, [DAY])
    files = list(write_scene(scene, out / "scene", "demo", [LABEL]))
    image, truth_file = files[0], files[-1]
    rendered = time.monotonic()
    threads = torch.get_num_threads()
    mapped = map_scene(
        OpenRasters((str(image),)),
        OpenBundle(str(done.packed)),
        out / "map" / "cover.tif",
        settings=MapSettings(tile=256, entropy=True, batch=4, threads=threads, precision="bf16"),
        run=MapRun(vectors=out / "map" / "cover.parquet", shaping=Shaping(2000.0, 0.0)),
        sources=(str(image),),
    )
    seconds = time.monotonic() - rendered
    with rasterio.open(image) as src, rasterio.open(truth_file) as lab, rasterio.open(mapped.files["class"]) as res:
        stored, truth, predicted = src.read(), lab.read(1), res.read(1)
        scales, offsets = np.array(src.scales), np.array(src.offsets)
    with rasterio.open(mapped.files["entropy"]) as src:
        entropy = src.read(1).astype(float) * src.scales[0] + src.offsets[0]
    x = stored * scales[:, None, None] + offsets[:, None, None]
    _scores(page, run, done, (truth, predicted, x, seconds))
    _pictures(page, x, truth, predicted, entropy)
    _polygons(page, Path(mapped.files["vectors"]), x)
    _search(page, out, image, weights, x)
    page.add(
        p.text(
            f"Tuning {tuned - began:.0f} s, rendering the scene {rendered - tuned:.0f} s, mapping {seconds:.0f} s, all "
            f"{time.monotonic() - began:.0f} s. The run's own report: {report.relative_to(out.parent)}.",
            "note",
        )
    )


def _scores(page, run, done, found) -> None:
    truth, predicted, x, seconds = found
    spec = LABELS[LABEL]
    n = len(spec.classes)
    rf = forest(run)
    thin = (slice(None, None, 4), slice(None, None, 4))
    pixels = x[:, ::4, ::4].reshape(len(x), -1).T.astype(np.float32)
    told = np.full((SIZE, SIZE), 255, np.uint8)
    told[thin] = rf.predict(pixels).reshape(SIZE // 4, SIZE // 4)
    ours, theirs = squares(truth, predicted, n), squares(truth, told, n)
    commonest = np.full_like(truth, np.bincount(truth.ravel(), minlength=256)[:n].argmax())
    energy = done.record["fit"]["energy"]
    km2 = (SIZE * 10 / 1000) ** 2
    page.section("From labels to a map")
    page.add(
        p.text(
            f"{TRAIN['train']} labelled chips of Europe in June, the encoder of the last chapter, one command; then a scene of "
            f"{SIZE} x {SIZE} pixels ({km2:.0f} km²) in North America in late August, written as a GeoTIFF and read like any other."
        )
    )
    rows = []
    for name, counts in (
        ("swath, tuned", ours),
        ("random forest on pixels", theirs),
        ("the scene's commonest class", squares(truth, commonest, n)),
    ):
        rows.append(
            {
                "map": name,
                "accuracy (95 % interval)": with_interval(counts, "accuracy_micro"),
                "mean IoU of classes (95 % interval)": with_interval(counts, "iou_macro"),
            }
        )
    page.add(p.table(rows))
    mine, other = (float(class_scores(c.sum(0))["accuracy_micro"]) for c in (ours, theirs))
    if other > mine:
        page.add(
            p.text(
                "The forest wins here: land cover on the simulated Earth is mostly told by a pixel's own spectrum, and a small "
                "encoder that learnt for two minutes and was tuned for two does not see single pixels as sharply."
            )
        )
    primary = done.primary
    page.add(
        p.facts(
            {
                f"{primary} on European test chips": f"{done.scores[primary]:.3f}",
                "mapping speed": f"{km2 / seconds:.1f} km²/s",
                "tuning energy (estimate)": f"{1000 * float(energy.get('kwh') or 0):.2f} Wh",
                "trainable parameters": f"{done.record['card']['cost'].get('trainable', 0) / 1e6:.1f} M",
            }
        )
    )
    page.add(
        p.text(
            "Intervals redraw squares of 1.28 km; the forest is judged on every sixteenth pixel. Europe to North America and June "
            "to August is a real shift: expect less than on the European test chips.",
            "note",
        )
    )


def _shrink(rgb, side=640):
    a = Image.fromarray((np.clip(rgb, 0, 1) * 255).astype(np.uint8))
    return np.asarray(a.resize((side, side), Image.Resampling.BOX)) / 255


def _rgb(x):
    order = [learn.BANDS.index(b) for b in ("red", "green", "blue")]
    return np.clip(x[order].transpose(1, 2, 0) * 3.4, 0, 1) ** 0.8


def _pictures(page, x, truth, predicted, entropy) -> None:
    spec = LABELS[LABEL]
    cover = [
        pic.classes(torch.from_numpy(m.astype(np.int64)), spec, torch.from_numpy(m < len(spec.classes)))
        for m in (truth, predicted)
    ]
    shown = (
        ("the scene", _rgb(x)),
        ("truth", cover[0]),
        ("map", cover[1]),
        ("entropy of the map", pic.grey(entropy, 0.0, 0.7)),
    )
    page.add(p.gallery([p.figure(p.image(pic.picture_of(_shrink(v)), n), n) for n, v in shown], 400), pic.legend(spec))


def _polygons(page, file: Path, x) -> None:
    import geopandas as gpd
    from rasterio.features import rasterize

    frame = gpd.read_parquet(file)
    with rasterio.open(file.with_suffix(".tif")) as src:
        lines = frame.to_crs(src.crs).boundary if frame.crs != src.crs else frame.boundary
        edge = rasterize(((g, 1) for g in lines if not g.is_empty), (SIZE, SIZE), transform=src.transform)
    part = (slice(SIZE // 3, SIZE // 3 + SIZE // 5), slice(SIZE // 3, SIZE // 3 + SIZE // 5))
    rgb = np.where(edge[part][..., None] == 1, np.array([1.0, 0.9, 0.2]), _rgb(x)[part])
    words = f"{len(frame):,} polygons as GeoParquet, joined across tiles; outlines on four kilometres of the scene"
    page.add("<h3>As polygons</h3>", p.figure(p.image(pic.picture_of(rgb, 1.6), "polygons"), words))
    named = frame.groupby("class")
    area = "area_m2"
    rows = [{"class": str(k), "polygons": len(v), "km²": float(v[area].sum() / 1e6)} for k, v in named]
    page.add(p.table(sorted(rows, key=lambda r: -r["km²"])))


def _search(page, out: Path, image: Path, weights: Path, x) -> None:
    from pyproj import Transformer

    encoder = build_encoder(learn.ENCODER, weights=weights).eval()
    ground = OpenRasters((str(image),))()
    plan = EmbedPlan.of(
        ground, encoder, weights_digest(encoder), EmbedSettings(chip=64, batch=32, threads=torch.get_num_threads())
    )
    embed_scene(plan, ground, encoder, out / "embeddings")
    grid = ground.grid
    there = Transformer.from_crs("EPSG:4326", grid.crs, always_xy=True)
    back = Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    cells = []
    for row, col in ((SIZE // 5, SIZE // 3), (2 * SIZE // 3, 3 * SIZE // 4)):
        found = similar(out / "embeddings" / "embeddings.parquet", back.transform(*grid.xy(row, col)), 6)
        for f in found:
            r, c = (int(v) for v in grid.rowcol(*there.transform(f["lon"], f["lat"])))
            r, c = min(max(r - 32, 0), SIZE - 64), min(max(c - 32, 0), SIZE - 64)
            words = "asked for" if f["rank"] == 1 else f"similarity {f['similarity']:.3f}"
            cells.append(p.figure(p.image(pic.picture_of(_rgb(x[:, r : r + 64, c : c + 64]), 2), words), words))
    page.add(
        "<h3>Similar places</h3>",
        p.text(
            "Every chip of 640 m has a vector from the frozen, pretrained encoder; two places and what the scene holds that is most "
            "like them.",
            "note",
        ),
        p.gallery(cells, 150),
    )
