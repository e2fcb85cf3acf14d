"""Objects across tiles: the same objects whatever the tile, each once; instances of a tuned bundle; the files."""

import json
import sys
import tempfile
import zlib
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swath.core import SENSORS, Batch, Grid, Input, LabelSpec, Layer, SwathError, UserError, Where, Window
from swath.deploy.map import MapRun, map_scene
from swath.deploy.map_objects import outline, pack, unpack
from swath.deploy.objects import Objects, suppress
from swath.deploy.plan import MapSettings, Plan
from swath.deploy.predictor import PredictorSpec

S2 = SENSORS.get("sentinel2-l2a").select(("red",))


@dataclass(frozen=True)
class Field:
    """Bright rectangles on dark ground; held in memory."""

    image: np.ndarray
    gap: Window | None = None
    sensors: tuple = (S2,)
    name: str = "field"

    @property
    def grid(self):
        return Grid("EPSG:32633", (10.0, 0.0, 500000.0, 0.0, -10.0, 5300000.0), self.image.shape)

    @property
    def fingerprint(self):
        return f"{self.name}-{zlib.crc32(self.image.tobytes())}-{self.gap}"

    def read(self, window, bands=None):
        x, valid = np.zeros(window.shape, np.float32), np.zeros(window.shape, bool)
        part = window.clip(self.grid.window)
        there = part.within(window).slices
        x[there], valid[there] = self.image[part.slices], True
        if self.gap is not None and (bad := self.gap.clip(window)).area:
            valid[bad.within(window).slices] = False
        cube = torch.from_numpy(x)[None, None, None]
        return Batch({S2.id: Layer(S2, cube, torch.from_numpy(valid)[None, None, None], None)}, Where.unknown(1))


@dataclass(eq=False)
class Blobs:
    """Finds connected bright pieces: boxes, scores that are their brightness, two classes, masks."""

    tile: int = 64
    masks: bool = True
    spec: PredictorSpec = field(init=False)

    def __post_init__(self):
        self.spec = PredictorSpec(
            "blobs", (Input(S2.id, ("red",), "reflectance", required=True),),
            LabelSpec("what", "boxes", ("dim", "lit")), digest=f"blobs-{self.masks}", tile=self.tile,
        )  # fmt: skip

    def predict(self, batch):
        from scipy.ndimage import find_objects, label

        rows = []
        for x in batch.layers[S2.id].x[:, 0, 0].numpy():
            pieces, _ = label(x > 0.3)
            found = []
            for k, (r, c) in enumerate(find_objects(pieces), 1):
                mask = pieces == k
                score = float(np.float64(x[mask].astype(np.float64).sum()) / mask.sum())
                found.append(((c.start, r.start, c.stop, r.stop), score, int(score > 0.6), mask))
            rows.append(found)
        most = max(map(len, rows))
        h, w = batch.layers[S2.id].shape[3:]
        out = {
            "boxes": torch.zeros(len(rows), most, 4), "scores": torch.zeros(len(rows), most),
            "classes": torch.zeros(len(rows), most, dtype=torch.int64), "counts": torch.tensor([len(r) for r in rows]),
            "masks": torch.zeros(len(rows), most, h, w, dtype=torch.bool),
        }  # fmt: skip
        for i, found in enumerate(rows):
            for j, (box, score, kind, mask) in enumerate(found):
                out["boxes"][i, j], out["scores"][i, j] = torch.tensor(box), score
                out["classes"][i, j], out["masks"][i, j] = kind, torch.from_numpy(mask)
        return out if self.masks else {k: v for k, v in out.items() if k != "masks"}


def picture(seed, shape, count=60, largest=11):
    """Rectangles and L shapes, a pixel of ground about each; also against the edges."""
    rng = np.random.default_rng(seed)
    image = np.full(shape, 0.1, np.float32)
    taken = np.zeros(shape, bool)
    n = 0
    for _ in range(count * 4):
        h, w = rng.integers(2, largest + 1, 2)
        r, c = rng.integers(0, shape[0] - h + 1), rng.integers(0, shape[1] - w + 1)
        near = np.s_[max(0, r - 1) : r + h + 1, max(0, c - 1) : c + w + 1]
        if taken[near].any() or n == count:
            continue
        taken[r : r + h, c : c + w] = True
        image[r : r + h, c : c + w] = rng.uniform(0.4, 0.9)
        if h > 3 and w > 3:
            image[r : r + h // 2, c : c + w // 2] = 0.1
        n += 1
    return image, n


def same(value):
    return value


def objects(folder, scene, model, name="o.parquet", run=None, **chosen):
    done = map_scene(partial(same, scene), partial(same, model), folder / name, settings=MapSettings(**chosen),
                     run=run)  # fmt: skip
    return geopandas.read_parquet(folder / name) if name.endswith("parquet") else geopandas.read_file(
        folder / name
    ), done


def table(frame):
    return [(r["value"], float(np.float32(r["score"])), r.geometry.normalize().wkt) for _, r in frame.iterrows()]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 10**6), st.integers(70, 190), st.integers(70, 190), st.integers(40, 97), st.integers(16, 30),
    st.integers(1, 5), st.integers(30, 300), st.booleans(),
)  # fmt: skip
def test_the_tile_changes_no_object(seed, height, width, tile, overlap, batch, cell, masks):
    """Objects of at most three quarters of the overlap: every one once, exactly as in one look at the whole scene."""
    image, n = picture(seed, (height, width), largest=11)
    scene = Field(image)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole, _ = objects(folder, scene, Blobs(tile=256, masks=masks), "whole.parquet", batch=1)
        tiled, _ = objects(folder, scene, Blobs(masks=masks), "tiled.parquet", tile=tile, overlap=overlap, batch=batch,
                           cell=cell)  # fmt: skip
    assert len(whole) == n
    assert table(tiled) == table(whole)


def test_outlines_areas_and_classes_are_those_of_the_picture(tmp_path):
    image, n = picture(3, (150, 170))
    frame, done = objects(tmp_path, Field(image), Blobs())
    assert len(frame) == n and done.cells >= 1 and frame.crs.to_epsg() == 32633
    assert set(frame["class"]) == {"dim", "lit"} and ((frame["score"] > 0.6) == (frame["class"] == "lit")).all()
    assert frame.geometry.is_valid.all()
    assert frame.area.sum() == pytest.approx((image > 0.3).sum() * 100)
    np.testing.assert_allclose(frame["area_m2"], frame.area, rtol=2e-3)
    west, north = frame.total_bounds[0], frame.total_bounds[3]
    rows, cols = np.nonzero(image > 0.3)
    assert (west, north) == (500000 + 10 * cols.min(), 5300000 - 10 * rows.min())
    boxes, _ = objects(tmp_path, Field(image), Blobs(masks=False), "boxes.parquet")
    assert len(boxes) == n and (boxes.area >= frame.envelope.area - 1e-6).all()


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb"])
def test_other_formats_hold_the_same(tmp_path, suffix):
    image, n = picture(4, (90, 80), count=20)
    want, _ = objects(tmp_path, Field(image), Blobs())
    got, done = objects(tmp_path, Field(image), Blobs(), f"o{suffix}")
    key = lambda f: sorted((g.normalize().wkt, round(s, 5)) for g, s in zip(f.geometry, f["score"], strict=True))  # noqa: E731
    assert len(got) == n and key(got) == key(want) and got.crs == want.crs
    item = json.loads(Path(done.files["item"]).read_text())
    from pystac.validation import validate_dict

    assert validate_dict({**item, "stac_extensions": []})
    from PIL import Image

    look = np.asarray(Image.open(done.files["quicklook"]))
    assert look.shape == (*plan_shape(item), 4) and (look[..., 3] == 255).any() and (look[..., 3] == 0).any()
    assert item["assets"]["objects"]["file:size"] == (tmp_path / f"o{suffix}").stat().st_size


def test_resumed_sharded_and_parallel_runs_give_the_same_bytes(tmp_path):
    scene = Field(picture(5, (200, 180))[0])
    _, done = objects(tmp_path, scene, Blobs(), "a.parquet", cell=64)
    want = (tmp_path / "a.parquet").read_bytes()
    assert done.cells == 4
    objects(tmp_path, scene, Blobs(), "two.parquet", run=MapRun(workers=2), cell=64)
    assert (tmp_path / "two.parquet").read_bytes() == want
    for i in (2, 1):
        part = map_scene(partial(same, scene), partial(same, Blobs()), tmp_path / "s.parquet",
                         settings=MapSettings(cell=64), run=MapRun(shard=f"{i}/2"))  # fmt: skip
    assert part.files and (tmp_path / "s.parquet").read_bytes() == want
    again = objects(tmp_path, scene, Blobs(), "a.parquet", cell=64)[1]
    assert again.already and not list(tmp_path.glob("*.cells")) and not list(tmp_path.glob(".*"))


def plan_shape(item):
    return tuple(item["properties"]["proj:shape"])


def test_nothing_is_found_on_ground_that_was_not_seen(tmp_path):
    image, _ = picture(6, (120, 120))
    gap = Window(0, 60, 120, 60)
    frame, _ = objects(tmp_path, Field(image, gap), Blobs())
    whole, _ = objects(tmp_path, Field(image), Blobs(), "whole.parquet")
    centres = whole.geometry.envelope.centroid.x
    assert 0 < len(frame) <= (centres < 500600).sum()
    assert (frame.geometry.envelope.centroid.x < 500600).all()
    empty, _ = objects(tmp_path, Field(np.full((90, 90), 0.1, np.float32)), Blobs(), "none.parquet")
    assert len(empty) == 0 and empty.crs.to_epsg() == 32633 and "score" in empty


def test_what_cannot_be_is_refused(tmp_path):
    scene = Field(picture(7, (90, 90))[0])
    with pytest.raises(UserError, match="no vector format"):
        objects(tmp_path, scene, Blobs(), "o.tif")
    with pytest.raises(UserError, match="gives objects, not classes"):
        objects(tmp_path, scene, Blobs(), proba=True)
    with pytest.raises(UserError, match="made of classes"):
        objects(tmp_path, scene, Blobs(), run=MapRun(vectors=tmp_path / "v.gpkg"))

    class Sick(Blobs):
        def predict(self, batch):
            return {**super().predict(batch), "boxes": super().predict(batch)["boxes"] * np.nan}

    with pytest.raises(SwathError, match="not finite"):
        objects(tmp_path, scene, Sick())
    assert not (tmp_path / "o.parquet").exists()


def test_packing_and_outlines():
    mask = np.zeros((9, 9), bool)
    mask[2:7, 3:8] = True
    mask[4, 5] = False
    mask[0, 0] = True
    shape = outline(mask)
    assert shape.area == 24 and shape.bounds == (3, 2, 8, 7) and len(shape.interiors) == 1
    held = Objects(np.array([[3.0, 2, 8, 7]]), np.array([0.5]), np.array([1]), np.array([shape], dtype=object))
    back = unpack(pack(held))
    assert back.outline[0].equals(shape) and (back.xyxy == held.xyxy).all() and back.label.tolist() == [1]
    none = Objects(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    assert unpack(pack(none)).outline is None


def test_a_part_of_a_better_object_is_none():
    """Halves that overlap their whole too little for the IoU; kept are a better part, another class, and neighbours."""
    house, half, neighbour, tall = [0, 0, 10, 10], [0.5, 1, 5, 10], [6, 0, 16, 10], [2, 2, 5, 5]
    boxes = np.array([house, half, half, neighbour, tall, [0, 0, 30, 30]], dtype=float)
    held = Objects(boxes, np.array([0.9, 0.5, 0.4, 0.8, 0.95, 0.3]), np.array([0, 0, 1, 0, 0, 0]))
    kept = suppress(held)
    assert kept.score.tolist() == [0.95, 0.9, 0.8, 0.4, 0.3]
    assert suppress(held, within=1.0).score.tolist() == [0.95, 0.9, 0.8, 0.5, 0.4, 0.3]
    shapes = shapely.box(*boxes.T)
    shapes[1] = shapely.box(8, 8, 18, 18)  # outlines decide where there are any
    outlined = suppress(Objects(boxes, held.score, held.label, shapes))
    assert outlined.score.tolist() == [0.95, 0.9, 0.8, 0.5, 0.4, 0.3]


def test_objects_have_room_in_the_overlap():
    plan = Plan.of(Field(np.zeros((900, 900), np.float32)), Blobs(tile=128).spec, MapSettings())
    assert plan.settings.overlap == 32 and plan.layers == {} and plan.computed < 2.1


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detect", "instances"])
def test_from_tuning_to_objects_of_a_scene(tmp_path, task, capsys):
    """A bundle that knows its rectangles by heart finds them on a scene of many chips, through the command."""
    import rasterio
    from rasterio.transform import Affine

    sys.path.insert(0, str(Path(__file__).parents[1] / "adapt"))
    import tiny_adapt as tiny

    from swath.adapt.bundle import Bundle
    from swath.adapt.run import TuneRun
    from swath.adapt.tune import tune
    from swath.cli.main import main
    from swath.core import config

    source = tiny.ObjectSource(n=64, size=64)
    run = {
        "name": "things", "data": {"kind": "folder", "path": "unused"}, "task": {"kind": task, "width": 32},
        "encoder": {"kind": "swath-vit", "size": "nano", "patch": 8}, "out": str(tmp_path / "run"),
        "tuning": "full", "loop": {"epochs": 12, "batch_size": 8, "lr": 0.002, "progress": False},
        "trust": {"bootstrap": 10, "chips": 1},
    }  # fmt: skip
    bundle = tune(config.parse(run, TuneRun), source).bundle
    cubes = [source.sample(i) for i in range(6)]
    top, bottom = (torch.cat([c.layers[tiny.SENSOR.id].x[0, 0] for c in part], 2) for part in (cubes[:3], cubes[3:]))
    image = torch.cat([top, bottom], 1).numpy()
    count = sum(len(c.labels["what"].objects[0].classes) for c in cubes)
    path = tmp_path / "s2.tif"
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 500000, 0, -10, 5300000)}
    with rasterio.open(path, "w", "GTiff", image.shape[2], image.shape[1], 4, dtype="uint16", nodata=0, **place) as out:
        out.write(np.round((image.clip(0.001) + 0.1) * 1e4).astype("uint16"))
        out.descriptions = ("B02", "B03", "B04", "B08")
    with pytest.raises(SystemExit):
        main(
            ["map", str(bundle), str(path), "--out", str(tmp_path / "o.parquet"), "--sensor", "sentinel2-l2a", "--json"]
        )
    done = json.loads(capsys.readouterr().out)
    frame = geopandas.read_parquet(done["files"]["objects"])
    if task == "detect":  # at any score: an object is not told again by its parts (outlines of so few steps are pieces)
        assert len(frame) <= 1.5 * count
    sure = frame[frame["score"] > 0.5]
    held = Bundle.load(bundle) if isinstance(bundle, str | Path) else bundle
    alone = sum(int((held.predict(c)["scores"] > 0.5).sum()) for c in cubes)
    assert 0.7 * alone <= len(sure) <= 1.3 * alone and len(sure) >= 0.5 * count, (len(sure), alone, count)
    found = sure.to_crs(32633).geometry
    truth = shapely.box(*np.concatenate([boxes_of(c, i) for i, c in enumerate(cubes)]).T)
    shared = np.array([shapely.area(shapely.intersection(truth, g)) for g in found])
    hit = shared > 0.3 * (shapely.area(truth) + found.area.to_numpy()[:, None] - shared)
    missed, false = int((~hit.any(0)).sum()), int((~hit.any(1)).sum())
    told = (len(sure), false, missed, count)
    assert false <= 0.5 * count and missed <= 0.5 * count, told
    assert set(sure["class"]) == {"house"} and sure.geometry.is_valid.all()


def boxes_of(chip, index):
    """A chip's true boxes on the scene of two rows of three, in its crs."""
    x0, y0, x1, y1 = np.asarray(chip.labels["what"].objects[0].xyxy, dtype=float).T
    col, row = index % 3 * 64, index // 3 * 64
    west, north = 500000 + 10 * col, 5300000 - 10 * row
    return np.stack([west + 10 * x0, north - 10 * y1, west + 10 * x1, north - 10 * y0], 1)
