"""`swath init`: what is found becomes a card and a run file that the schema of runs accepts."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from tests.data.chips import S2, S2_NAMES, folder, write

from swath.core import SENSORS, UserError
from swath.core.config import load
from swath.data.card import load_card
from swath.data.open import open_source
from swath.data.propose import Hints
from swath.data.start import start


def test_a_card_and_a_run_file_that_parse(tmp_path):
    folder(tmp_path / "d", n=20)
    done = start(tmp_path / "d", "segment", Hints("sentinel2-l2a", S2), tmp_path / "o")
    assert not done.assumed
    source = open_source(yaml.safe_load(done.run.read_text())["data"])
    assert source.labels["label"].classes == ("class0", "class1")
    rows = {k: set(v) for k, v in source.splits().items()}
    assert set(rows) == {"train", "val", "test"} and sum(map(len, rows.values())) == 20
    x = torch.cat([source.sample(i).layers["sentinel2-l2a"].x for i in sorted(rows["train"])]).double()
    held = load_card(done.card).statistics["sentinel2-l2a"]
    np.testing.assert_allclose(held["mean"], x.mean((0, 1, 3, 4)), rtol=1e-5)
    np.testing.assert_allclose(held["std"], x.std((0, 1, 3, 4), correction=0), rtol=1e-5)


def test_the_run_file_fits_the_schema_of_runs(tmp_path):
    run = pytest.importorskip("swath.adapt.run")
    folder(tmp_path / "d", n=12)
    done = start(tmp_path / "d", "segment", Hints("sentinel2-l2a", S2), tmp_path / "o")
    parsed = load(done.run, run.TuneRun)
    assert len(parsed.data.build()) == 12
    assert parsed.loop.batch_size <= len(parsed.data.build().splits()["train"])


def test_written_into_the_folder_itself_it_opens_without_options(tmp_path):
    folder(tmp_path, n=12, names=S2_NAMES)
    done = start(tmp_path, "segment", Hints())
    assert any("sentinel2-l2a" in a for a in done.assumed), "B02, B03, B04, B08 fit several sensors: an assumption"
    assert set(open_source(tmp_path).splits()) == {"train", "val", "test"}
    assert "# assumed:" in done.card.read_text()
    with pytest.raises(UserError, match=r"run\.yaml is there already"):
        start(tmp_path, "segment", Hints())


def test_unnamed_bands_are_scaled_and_said_to_be_unknown(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        write(tmp_path / "images" / f"{i}.tif", rng.integers(0, 9000, (5, 16, 16)).astype("uint16"))
        write(tmp_path / "masks" / f"{i}.tif", rng.choice([3, 7, 255], (1, 16, 16)).astype("uint8"))
    done = start(tmp_path, "segment", Hints())
    text = " ".join(done.assumed)
    assert "unit is not known" in text and "[255]" in text and "neighbouring" in text
    source = open_source(tmp_path)
    sample = source.sample(0)
    assert 200 < float(sample.layers["unknown"].x.max()) < 300
    label = sample.labels["label"]
    assert set(label.value[label.valid].tolist()) == {0, 1} and not label.valid.all()


def test_images_of_several_sizes_are_cut_to_one(tmp_path):
    for i in range(12):
        size = (16, 48 + 10 * (i % 2), 61)
        write(tmp_path / "images" / f"{i}.tif", np.full((4, *size[1:]), 1500 + 50 * i, "uint16"))
        write(tmp_path / "masks" / f"{i}.tif", np.arange(size[1] * size[2]).reshape(1, *size[1:]).astype("uint8") % 2)
    done = start(tmp_path, "segment", Hints("sentinel2-l2a", S2))
    assert yaml.safe_load(done.run.read_text())["augment"]["crop"] == 48
    assert any("differ in size" in a for a in done.assumed)
    again = start(tmp_path, "pretrain", Hints("sentinel2-l2a", S2), tmp_path / "o")
    assert "crop" not in again.run.read_text() and not any("size" in a for a in again.assumed)


def test_maps_in_a_folder_of_their_own_name(tmp_path):
    for i in range(12):
        write(tmp_path / "images" / f"{i}.tif", np.full((4, 16, 16), 1500 + 50 * i, "uint16"), names=S2_NAMES)
        write(tmp_path / "heights" / f"{i}.tif", np.full((1, 16, 16), 0.5 + i, "float32"))
        write(tmp_path / "dem" / f"{i}.tif", np.full((1, 16, 16), 300.0, "float32"))
    done = start(tmp_path, "regress", Hints())
    assert any("heights" in a for a in done.assumed)
    sample = open_source(yaml.safe_load(done.run.read_text())["data"]).sample(0)
    assert set(sample.layers) == {"sentinel2-l2a", "copdem"} and sample.labels["label"].kind == "map"
    done.card.unlink()
    for i in range(12):  # which of the two?
        write(tmp_path / "biomass" / f"{i}.tif", np.full((1, 16, 16), 0.5 + i, "float32"))
    with pytest.raises(UserError, match="needs a label"):
        start(tmp_path, "regress", Hints(), tmp_path / "p")


def test_splits_of_neighbours_stay_together(tmp_path):
    for i in range(40):
        place = (500000 + (i % 20) * 320, 5000000 - (i // 20) * 320)
        write(tmp_path / "images" / f"{i:02d}.tif", np.full((4, 32, 32), 2000, "uint16"), origin=place)
        write(tmp_path / "masks" / f"{i:02d}.tif", np.ones((1, 32, 32), "uint8"), origin=place)
    done = start(tmp_path, "segment", Hints("sentinel2-l2a", S2))
    assert "spatial blocks" in load_card(done.card).splits.rule
    split = {k: n for n, keys in json.loads((tmp_path / "splits.json").read_text()).items() for k in keys}
    changes = sum(split[f"{i:02d}"] != split[f"{i + 1:02d}"] for i in range(19))
    assert changes <= 12, "a random split would change about 12 of 19 times on average, blocks of two at most half"


def test_a_label_of_the_wrong_kind_is_refused(tmp_path):
    folder(tmp_path, n=3)
    with pytest.raises(UserError, match="needs a label of kind boxes"):
        start(tmp_path, "detect", Hints("sentinel2-l2a", S2))
    assert not (tmp_path / "card.toml").exists() and not (tmp_path / "run.yaml").exists()


def test_class_folders_become_a_classification(tmp_path):
    for name in ("forest", "water"):
        for i in range(6):
            write(tmp_path / name / f"{i}.tif", np.full((3, 8, 8), 40, "uint8"))
    start(tmp_path, "classify", Hints())
    source = open_source(tmp_path)
    assert source.labels["label"].classes == ("forest", "water") and len(source) == 12
    assert [int(source.sample(i).labels["label"].value) for i in range(12)] == [0] * 6 + [1] * 6


def test_classes_before_a_number_become_a_classification(tmp_path):
    """`SeaLake_3.tif`, as EuroSAT and RESISC45 are delivered; said as an assumption. Times are no classes."""
    for name in ("Forest", "Sea_Lake"):
        for i in range(6):
            write(tmp_path / "a" / "tif" / f"{name}_{i}.tif", np.full((3, 8, 8), 40 + i, "uint8"))
            write(tmp_path / "b" / f"{'pre' if name == 'Forest' else 'post'}_{i}.tif", np.full((3, 8, 8), 40, "uint8"))
    done = start(tmp_path / "a", "classify", Hints())
    assert any("names begin with a class: Forest, Sea_Lake" in a for a in done.assumed)
    source = open_source(tmp_path / "a")
    assert source.labels["label"].classes == ("Forest", "Sea_Lake") and len(source) == 12
    assert [int(source.sample(i).labels["label"].value) for i in range(12)] == [0] * 6 + [1] * 6
    with pytest.raises(UserError, match="needs a label"):
        start(tmp_path / "b", "classify", Hints())


def test_the_verb(tmp_path):
    folder(tmp_path / "d", n=10)
    command = [sys.executable, "-m", "swath.cli", "init", str(tmp_path / "d"), "--task", "segment", "--json"]
    done = subprocess.run(
        [*command, "--sensor", "sentinel2-l2a", "--bands", ",".join(S2)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"] == 10


@pytest.mark.parametrize(
    "image", ["images/{}.tif", "train/images/{}.tif", "images/{}_img.tif", "{}.tif", "{}_merged.tif"]
)
def test_other_plain_namings_are_paired(tmp_path, image):
    mask = {"images/{}_img.tif": "masks/{}_mask.tif", "{}.tif": "{}_mask.tif", "{}_merged.tif": "{}.mask.tif"}.get(
        image, image.replace("images", "masks")
    )
    for i in range(10):
        place = (500000 + 1000 * i, 5000000)
        write(tmp_path / image.format(f"k{i}"), np.full((4, 16, 16), 2000 + i, "uint16"), origin=place)
        write(tmp_path / mask.format(f"k{i}"), np.full((1, 16, 16), i % 2, "uint8"), origin=place)
    start(tmp_path, "segment", Hints("sentinel2-l2a", S2))
    source = open_source(tmp_path)
    assert len(source) == 10
    for i in range(10):
        sample = source.sample(i)
        value = round((float(sample.layers["sentinel2-l2a"].x.max()) + 0.1) * 10000) - 2000
        assert int(sample.labels["label"].value.max()) == value % 2


def test_the_task_says_what_numbers_are(tmp_path):
    for i in range(10):
        write(tmp_path / "images" / f"{i}.tif", np.full((3, 16, 16), 100, "uint8"))
        write(tmp_path / "labels" / f"{i}.tif", np.full((1, 16, 16), i % 3, "float32"))
    a, b = tmp_path / "a", tmp_path / "b"
    one = start(tmp_path, "segment", Hints(), a)
    assert load_card(one.card).labels[0].kind == "mask" and any("taken for classes" in t for t in one.assumed)
    assert load_card(start(tmp_path, "regress", Hints(), b).card).labels[0].kind == "map"


@pytest.mark.parametrize(
    ("values", "dtype", "sensor"),
    [
        (lambda r: r.uniform(0.01, 0.5, (4, 16, 16)), "float32", "sentinel2-l2a"),
        (lambda r: r.integers(0, 255, (3, 16, 16)), "uint8", "rgb-aerial"),
        (lambda r: r.normal(-14, 2, (2, 16, 16)), "float32", "sentinel1-grd"),
        (lambda r: r.uniform(0.01, 0.3, (2, 16, 16)), "float32", "sentinel1-grd"),
        (lambda r: r.integers(50, 4000, (12, 16, 16)), "uint16", "sentinel2-l2a"),
    ],
)
def test_units_are_seen_in_the_values(tmp_path, values, dtype, sensor):
    rng = np.random.default_rng(0)
    for i in range(10):
        write(tmp_path / "images" / f"{i}.tif", values(rng).astype(dtype))
        write(tmp_path / "masks" / f"{i}.tif", rng.integers(0, 2, (1, 16, 16)).astype("uint8"))
    start(tmp_path, "segment", Hints())
    source = open_source(tmp_path)
    layer = source.sample(0).layers[sensor]
    for c, band in enumerate(layer.sensor.bands):
        assert band.low <= float(layer.x[:, :, c].median()) <= band.high
    if sensor == "sentinel1-grd":
        assert -25 < float(layer.x.median()) < -3, "decibels, whatever was stored"
    if dtype == "uint16":
        assert 0.1 < float(layer.x.mean()) < 0.3, "no offset of 2022 in these values"


def plain(root, names, seed=0):
    rng = np.random.default_rng(seed)
    for i, name in enumerate(names):
        write(root / name, rng.integers(0, 255, (3, 16, 16)).astype("uint8"), origin=(500000 + 1000 * i, 5000000))
    return root


def started(root, task):
    done = start(root, task, Hints())
    return open_source(root), yaml.safe_load(done.run.read_text()), load_card(done.card)


@pytest.mark.parametrize("header", ["key,label", "filename,class_name", "split,image,label"])
def test_classes_from_a_table(tmp_path, header):
    plain(tmp_path, [f"images/{i:03d}.tif" for i in range(12)])
    cells = {"key": "{i:03d}", "filename": "images/{i:03d}.tif", "image": "{i:03d}.tif", "split": "train"}
    rows = [
        ",".join(cells.get(c, ["water", "forest"][i % 2]).format(i=i) for c in header.split(",")) for i in range(12)
    ]
    (tmp_path / "labels.csv").write_text("\n".join([header, *rows]))
    source, _, _ = started(tmp_path, "classify")
    assert source.labels["label"].classes == ("forest", "water")
    assert [int(source.sample(i).labels["label"].value) for i in range(12)] == [1, 0] * 6


@pytest.mark.parametrize("columns", ["one", "flags"])
def test_tags_from_a_table(tmp_path, columns):
    plain(tmp_path, [f"images/{i:03d}.tif" for i in range(12)])
    if columns == "one":
        rows = ["key,labels", *[f"{i:03d},{'a;b' if i % 2 else 'b'}" for i in range(12)]]
    else:
        rows = ["image,a,b", *[f"{i:03d}.tif,{i % 2},1" for i in range(12)]]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    source, run, _ = started(tmp_path, "multilabel")
    assert source.labels["label"].classes == ("a", "b") and run["task"]["kind"] == "multilabel"
    assert [source.sample(i).labels["label"].value[0].tolist() for i in range(12)] == [[0, 1], [1, 1]] * 6


def test_numbers_from_a_table_and_keys_with_leading_zeros(tmp_path):
    plain(tmp_path, [f"images/{i:03d}.tif" for i in range(12)])
    (tmp_path / "labels.csv").write_text("\n".join(["key,yield", *[f"{i:03d},{i / 4}" for i in range(12)]]))
    source, run, _ = started(tmp_path, "regress")
    assert run["task"]["kind"] == "scalar"
    assert [float(source.sample(i).labels["label"].value) for i in range(12)] == [i / 4 for i in range(12)]


@pytest.mark.parametrize("place", ["annotations.json", "annotations/instances.json"])
def test_boxes_from_coco(tmp_path, place):
    plain(tmp_path, [f"images/{i}.tif" for i in range(12)])
    (tmp_path / place).parent.mkdir(exist_ok=True)
    note = {"images": [{"id": i, "file_name": f"{i}.tif"} for i in range(12)],
            "categories": [{"id": 5, "name": "ship"}, {"id": 2, "name": "car"}],
            "annotations": [{"image_id": i, "category_id": 5 if i % 2 else 2, "bbox": [1, 2, 3, 4]} for i in range(12)],
            }  # fmt: skip
    (tmp_path / place).write_text(json.dumps(note))
    source, _, _ = started(tmp_path, "detect")
    assert source.labels["label"].classes == ("car", "ship")
    one = source.sample(0).labels["label"].objects[0]
    assert one.xyxy.tolist() == [[1, 2, 4, 6]]


@pytest.mark.parametrize(
    ("image", "order"),
    [
        ("{w}/{i}.tif", ("A", "B")), ("images/{i}_{w}.tif", ("pre", "post")), ("im{n}/{i}.tif", ("1", "2")),
        ("train/{w}/{i}.tif", ("A", "B")),
    ],
)  # fmt: skip
def test_two_dates_are_one_layer_of_two_timesteps(tmp_path, image, order):
    label = "train/label/{i}.tif" if image.startswith("train") else "label/{i}.tif"
    for i in range(10):
        at = (500000 + 1000 * i, 5000000)
        for n, w in enumerate(order, 1):
            write(tmp_path / image.format(w=w, i=i, n=n), np.full((3, 16, 16), 10 * i + n, "uint8"), origin=at)
        write(tmp_path / label.format(i=i), np.kron(np.eye(2), np.full((8, 8), 255)).astype("uint8")[None], origin=at)
    source, run, card = started(tmp_path, "change")
    assert run["task"]["kind"] == "change" and len(card.layers) == 1 and len(source) == 10
    layer = source.sample(3).layers["rgb-aerial"]
    assert layer.shape[:3] == (1, 2, 3) and float(layer.x[0, 1, 0, 0, 0]) > float(layer.x[0, 0, 0, 0, 0])
    assert set(source.sample(0).labels["label"].value.unique().tolist()) == {0, 1}, "255 beside 0 is a class"


def test_a_missing_half_of_a_pair_is_named(tmp_path):
    for i in range(6):
        for w in ("A", "B"):
            write(tmp_path / w / f"{i}.tif", np.full((3, 16, 16), 10 * i, "uint8"))
        write(tmp_path / "label" / f"{i}.tif", np.eye(16).astype("uint8")[None])
    source, _, _ = started(tmp_path, "change")
    (tmp_path / "B" / "2.tif").unlink()
    with pytest.raises(UserError, match="the step 'B' is missing"):
        open_source(tmp_path).sample(2)
    assert len(source) == 6


def test_dates_in_names_are_timesteps(tmp_path):
    for i in range(10):
        at = (500000 + 1000 * i, 5000000)
        for k, day in enumerate(("20200601", "20200101", "20200301")):
            write(tmp_path / "images" / f"site{i}_{day}.tif", np.full((3, 16, 16), 40 * k, "uint8"), origin=at)
        write(tmp_path / "masks" / f"site{i}_mask.tif", np.eye(16).astype("uint8")[None], origin=at)
    source, _, _ = started(tmp_path, "segment")
    layer = source.sample(0).layers["rgb-aerial"]
    assert layer.shape[1] == 3 and layer.times.tolist() == [[18262, 18322, 18414]]
    assert [round(float(v) * 255) for v in layer.x[0, :, 0, 0, 0] * (1 if layer.x.max() <= 1 else 1 / 255)] == [
        40, 80, 0,
    ]  # fmt: skip


def test_polygons_by_their_column(tmp_path):
    import geopandas
    from shapely.geometry import box

    for i in range(10):
        x, y = 500000 + 1000 * i, 5000000
        write(tmp_path / "images" / f"{i}.tif", np.full((3, 16, 16), i, "uint8"), origin=(x, y))
        shapes = [box(x, y - 40, x + 40, y), box(x + 80, y - 160, x + 160, y - 80)]
        (tmp_path / "labels").mkdir(exist_ok=True)
        frame = geopandas.GeoDataFrame({"class": ["water", "field"]}, geometry=shapes, crs="EPSG:32631")
        frame.to_file(tmp_path / "labels" / f"{i}.geojson")
    source, _, _ = started(tmp_path, "segment")
    assert source.labels["label"].classes == ("background", "field", "water")
    value = source.sample(4).labels["label"].value[0]
    assert int(value[0, 0]) == 2 and int(value[12, 12]) == 1 and int(value[0, 15]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segment", "classify", "change", "scalar"])
def test_the_run_file_trains_unchanged(tmp_path, task):
    root = tmp_path / "d"
    rng = np.random.default_rng(0)
    for i in range(12):
        at, x = (500000 + 1000 * i, 5000000), rng.integers(0, 200, (3, 32, 32)).astype("uint8")
        names = {"change": ("A/{}.tif", "B/{}.tif"), "classify": (("water/{}.tif", "field/{}.tif")[i % 2],)}
        for name in names.get(task, ("images/{}.tif",)):
            write(root / name.format(i), x, origin=at)
        if task in ("segment", "change"):
            label = (x[:1] > 100).astype("uint8")
            write(root / ("masks" if task == "segment" else "label") / f"{i}.tif", label, origin=at)
    if task == "scalar":
        (root / "y.csv").write_text("\n".join(["key,value", *[f"{i},{i / 3}" for i in range(12)]]))
    done = start(root, task, Hints())
    command = [sys.executable, "-m", "swath.cli", "tune", str(done.run), "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "runs" / "d").is_dir()


def test_every_task_has_a_first_command():
    from swath.adapt.tasks import TASKS as known
    from swath.data.start import TASKS

    assert set(TASKS) == set(known.names())
    assert all(set(kinds) <= {*known.get(name).takes, "scalar"} for name, kinds in TASKS.items())


@pytest.mark.parametrize("task", ["boundaries", "segment"])
def test_masks_serve_segments_and_boundaries(tmp_path, task):
    rng = np.random.default_rng(0)
    for i in range(12):
        write(tmp_path / "images" / f"{i}.tif", rng.integers(0, 9000, (4, 16, 16)).astype("uint16"))
        write(tmp_path / "masks" / f"{i}.tif", rng.integers(0, 3, (1, 16, 16)).astype("uint8"))
    done = start(tmp_path, task, Hints("sentinel2-l2a", S2))
    run = yaml.safe_load(done.run.read_text())
    assert run["task"]["kind"] == task and run["augment"] == {"flips": True, "turns": True}


@pytest.mark.parametrize(("train", "batch", "epochs"), [(4, 2, 100), (40, 8, 100), (400, 8, 20), (9000, 8, 10)])
def test_a_loop_makes_steps_enough(train, batch, epochs):
    from swath.data.start import loop_of

    found = loop_of(train)
    assert (found["batch_size"], found["epochs"]) == (batch, epochs)


SQUARE, DIAGONAL = np.zeros((16, 16), bool), np.tri(16, 16, -9).astype(bool)
SQUARE[2:6, 3:9] = True


def runs(mask):
    """COCO's run lengths: down the columns, first those of 0."""
    flat = mask.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, flat.size]).tolist()
    return [0, *counts] if flat[0] else counts


@pytest.mark.parametrize("form", ["polygon", "runs", "compressed"])
def test_instances_from_coco(tmp_path, form):
    plain(tmp_path, [f"images/{i}.tif" for i in range(12)])

    def shape(mask, ring):
        if form == "polygon":
            return [ring]
        if form == "runs":
            return {"size": [16, 16], "counts": runs(mask)}
        pack = pytest.importorskip("pycocotools.mask")
        return {"size": [16, 16], "counts": pack.encode(np.asfortranarray(mask, "uint8"))["counts"].decode()}

    masks = [(5, SQUARE, [3, 2, 9, 2, 9, 6, 3, 6], [3, 2, 6, 4]), (2, DIAGONAL, [0, 9, 0, 16, 7, 16], [0, 9, 7, 7])]
    note = {"images": [{"id": i, "file_name": f"{i}.tif"} for i in range(12)],
            "categories": [{"id": 5, "name": "ship"}, {"id": 2, "name": "car"}],
            "annotations": [{"image_id": i, "category_id": c, "bbox": box, "segmentation": shape(mask, ring)}
                            for i in range(12) for c, mask, ring, box in masks]}  # fmt: skip
    (tmp_path / "annotations.json").write_text(json.dumps(note))
    source, run, _ = started(tmp_path, "instances")
    found = source.sample(3).labels["label"].objects[0]
    assert run["task"]["kind"] == "instances" and found.classes.tolist() == [1, 0]
    assert np.array_equal(found.masks[0].numpy(), SQUARE)
    assert np.logical_xor(found.masks[1].numpy(), DIAGONAL).sum() <= (8 if form == "polygon" else 0)


def test_boxes_of_coco_are_no_instances(tmp_path):
    test_boxes_from_coco(tmp_path / "a", "annotations.json")
    for name in ("card.toml", "run.yaml", "splits.json"):
        (tmp_path / "a" / name).unlink()
    source, _, _ = started(tmp_path / "a", "instances")
    with pytest.raises(UserError, match=r"no segmentation(.|\n)*image 0(.|\n)*detect"):
        source.sample(0)


@pytest.mark.parametrize("task", ["instances", "boundaries"])
def test_numbered_objects(tmp_path, task):
    rng = np.random.default_rng(0)
    for i in range(12):
        ids = np.where(SQUARE, 7, np.where(DIAGONAL, 40 + i, 0)).astype("uint16")[None]
        write(tmp_path / "images" / f"{i}.tif", rng.integers(0, 9000, (4, 16, 16)).astype("uint16"))
        write(tmp_path / "masks" / f"{i}.tif", ids)
    done = start(tmp_path, task, Hints("sentinel2-l2a", S2))
    assert any("taken for objects" in a for a in done.assumed)
    found = open_source(tmp_path).sample(5).labels["label"].objects[0]
    assert np.array_equal(found.masks.numpy(), np.stack([SQUARE, DIAGONAL]))
    assert found.xyxy.tolist() == [[3, 2, 9, 6], [0, 9, 7, 16]]


def test_polygons_are_objects_where_a_task_wants_them(tmp_path):
    import geopandas
    from shapely.geometry import box

    shapes = []
    for i in range(10):
        x, y = 500000 + 1000 * i, 5000000
        write(tmp_path / "images" / f"{i}.tif", np.full((3, 16, 16), i, "uint8"), origin=(x, y))
        shapes += [box(x, y - 40, x + 40, y), box(x + 80, y - 200, x + 160, y - 80)]
    geopandas.GeoDataFrame({"crop": ["maize"] * 20}, geometry=shapes, crs="EPSG:32631").to_file(
        tmp_path / "fields.geojson"
    )
    source, _, _ = started(tmp_path, "instances")
    found = source.sample(4).labels["label"].objects[0]
    assert sorted(found.xyxy.tolist()) == [[0, 0, 4, 4], [8, 8, 16, 16]] and found.masks.sum() == 16 + 64


@pytest.mark.parametrize(("task", "folder", "times"), [("superres", "hr", 2), ("gapfill", "targets", 1)])
def test_images_to_answer_with(tmp_path, task, folder, times):
    rng = np.random.default_rng(0)
    for i in range(10):
        fine = rng.integers(1200, 4000, (4, 16 * times, 16 * times)).astype("uint16")
        write(tmp_path / folder / f"{i}.tif", fine)
        for day in ("20210501", "20210601") if task == "gapfill" else ("",):
            name = f"{i}_{day}.tif" if day else f"{i}.tif"
            write(tmp_path / "images" / name, fine[:, ::times, ::times])
    done = start(tmp_path, task, Hints("sentinel2-l2a", S2))
    one = open_source(tmp_path).sample(0)
    label, seen = one.labels["label"], one.layers["sentinel2-l2a"].x[:, 0]
    assert label.kind == "image" and label.value.shape == (1, 4, 16 * times, 16 * times)
    torch.testing.assert_close(label.value[..., ::times, ::times], seen)
    assert yaml.safe_load(done.run.read_text())["task"]["kind"] == task
    assert open_source(tmp_path).labels["label"].classes == S2


def test_a_card_that_is_there_gets_splits_beside_it(tmp_path):
    folder(tmp_path, n=20, names=S2_NAMES)
    start(tmp_path, "segment", Hints("sentinel2-l2a", S2))
    kept = (tmp_path / "card.toml").read_text().split("[splits]")
    (tmp_path / "card.toml").write_text(kept[0] + "[[layer]]" + kept[1].split("[[layer]]", 1)[1])
    before = (tmp_path / "card.toml").read_text()
    for name in ("run.yaml", "splits.json"):
        (tmp_path / name).unlink()
    start(tmp_path, "segment", Hints())
    assert (tmp_path / "card.toml").read_text() == before
    assert set(open_source(tmp_path).splits()) == {"train", "val", "test"}


def test_an_empty_cell_is_no_class(tmp_path):
    plain(tmp_path, [f"images/{i:03d}.tif" for i in range(12)])
    rows = [f"{i:03d},{'' if i == 4 else ['water', 'forest'][i % 2]}" for i in range(12)]
    (tmp_path / "labels.csv").write_text("\n".join(["key,label", *rows]))
    source, _, _ = started(tmp_path, "classify")
    assert source.labels["label"].classes == ("forest", "water")
    assert [bool(source.sample(i).labels["label"].valid) for i in range(12)] == [i != 4 for i in range(12)]


def test_an_undeclared_no_data_value_is_said_and_left_out(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(10):
        x = rng.uniform(0.02, 0.4, (4, 16, 16)).astype("float32")
        y = rng.uniform(0, 30, (1, 16, 16)).astype("float32")
        x[:, :3], y[:, :, :5] = -9999, -9999
        write(tmp_path / "images" / f"{i}.tif", x)
        write(tmp_path / "labels" / f"{i}.tif", y)
    done = start(tmp_path, "regress", Hints("sentinel2-l2a", S2))
    assert sum("-9999, far from all other values" in a for a in done.assumed) == 2
    one = open_source(tmp_path).sample(0)
    assert int(one.layers["sentinel2-l2a"].valid.sum()) == 13 * 16 and int(one.labels["label"].valid.sum()) == 11 * 16


@pytest.mark.parametrize("low", [-9990.0, -5.0])
def test_low_values_are_kept(tmp_path, low):
    """An elevation of -5 m, or a value that nobody uses for 'no data', is a value."""
    rng = np.random.default_rng(0)
    for i in range(10):
        y = rng.uniform(0, 30, (1, 16, 16)).astype("float32")
        y[0, 0, 0] = low
        write(tmp_path / "images" / f"{i}.tif", rng.integers(1200, 4000, (4, 16, 16)).astype("uint16"))
        write(tmp_path / "labels" / f"{i}.tif", y)
    start(tmp_path, "regress", Hints("sentinel2-l2a", S2))
    assert bool(open_source(tmp_path).sample(0).labels["label"].valid.all())


def test_a_source_says_what_did_not_pair(tmp_path):
    folder(tmp_path, n=8)
    rows = {"train": ["k00", "k01", "gone"], "val": ["k03"], "test": ["k05"]}
    (tmp_path / "splits.json").write_text(json.dumps(rows))
    start(tmp_path, "segment", Hints("sentinel2-l2a", S2))
    (tmp_path / "masks" / "k01.tif").unlink()
    (tmp_path / "images" / "k03.tif").unlink()
    words = " ".join(open_source(tmp_path).notes)
    assert "masks/k03.tif" in words and "images/k01.tif" in words and "for example gone" in words


def _level1c(root, order):
    """Chips whose pixels tell cirrus: `order` is the files' own."""
    rng = np.random.default_rng(0)
    for i in range(8):
        x = rng.integers(900, 3000, (13, 16, 16))
        x[order.index("cirrus")] = rng.integers(5, 20, (16, 16))
        write(root / ("wood", "water")[i % 2] / f"{i}.tif", x.astype("uint16"))


def test_an_order_of_bands_that_the_pixels_contradict_is_refused(tmp_path):
    usual = list(SENSORS.get("sentinel2-l1c").names)
    b8a_last = [b for b in usual if b != "nir08"] + ["nir08"]
    _level1c(tmp_path / "usual", usual)
    assert not any("cirrus" in a for a in start(tmp_path / "usual", "classify", Hints("sentinel2-l1c")).assumed)
    _level1c(tmp_path / "last", b8a_last)
    with pytest.raises(UserError, match="band 10 is by far the darkest") as caught:
        start(tmp_path / "last", "classify", Hints("sentinel2-l1c"))
    assert not list((tmp_path / "last").glob("*.toml"))
    told = caught.value.remedy.split("--bands ")[1]
    done = start(tmp_path / "last", "classify", Hints("sentinel2-l1c", tuple(told.split(","))))
    assert load_card(done.card).layers[0].bands == tuple(b8a_last) and not any("cirrus" in a for a in done.assumed)
    _level1c(tmp_path / "odd", [*usual[:3], "cirrus", *usual[3:10], *usual[11:]])
    with pytest.raises(UserError) as caught:
        start(tmp_path / "odd", "classify", Hints("sentinel2-l1c"))
    assert "B8A" not in caught.value.remedy
    done = start(tmp_path / "odd", "classify", Hints("sentinel2-l1c", tuple(usual)))
    assert any("cirrus would be band 11, but band 4" in a for a in done.assumed)


def test_eurosat_by_itself_is_refused_and_with_its_order_is_taken(tmp_path, shared):
    for file in sorted((shared / "real/eurosat_ms_100/tif").glob("*.tif"))[::5]:
        (tmp_path / file.name.split("_")[0]).mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / file.name.split("_")[0])
    with pytest.raises(UserError, match="cirrus") as caught:
        start(tmp_path, "classify", Hints("sentinel2-l1c"))
    bands = tuple(caught.value.remedy.split("--bands ")[1].split(","))
    card = load_card(start(tmp_path, "classify", Hints("sentinel2-l1c", bands)).card)
    assert dict(zip(card.layers[0].bands, card.statistics["sentinel2-l1c"]["mean"], strict=True))["cirrus"] < 0.003


SENSORS_OF = {"S2L2A": ("sentinel2-l2a", 12), "sentinel1-rtc": ("sentinel1-rtc", 2)}


def visits(root, path, sites=12, dates=("20210401", "20210715")):
    """Two sensors of some sites on two dates each, named by `path`, and a class a site in a table."""
    rng = np.random.default_rng(0)
    for i in range(sites):
        for day in dates:
            for word, (_, bands) in SENSORS_OF.items():
                x = rng.integers(0, 3000, (bands, 16, 16)).astype("uint16")
                x = x if bands > 2 else (x / 3000 - 15).astype("float32")
                place = (500000 + 10_000 * i, 5000000)
                write(root / path.format(sensor=word, site=f"farm_{i:02d}", date=day), x, origin=place)
    rows = [f"farm_{i:02d},{'wheat' if i % 2 else 'maize'}" for i in range(sites)]
    (root / "labels.csv").write_text("\n".join(["key,label", *rows]))


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("{sensor}/{site}_{date}.tif", "{site}_{date}"),
        ("{sensor}/{site}_{date}.tif", "{site}_{date}.tif"),
        ("{sensor}/{site}_{date}.tif", ""),
        ("data/{sensor}/{site}_{date}.tif", "{site}_{date}"),
        ("{sensor}/{site}_{date}.tif", "{sensor}/{site}_{date}.tif"),
        ("images/{site}_{date}_{sensor}.tif", "{site}_{date}_{sensor}.tif"),
        ("images/{date}_{sensor}_{site}.tif", "images/{date}_{sensor}_{site}"),
    ],
)
def test_a_pattern_names_the_files_of_every_sensor(tmp_path, path, pattern):
    visits(tmp_path, path)
    done = start(tmp_path, "series", Hints(pattern=pattern))
    assert done.found["samples"] == 12 and set(done.found["layers"]) == {s for s, _ in SENSORS_OF.values()}
    source = open_source(yaml.safe_load(done.run.read_text())["data"])
    sample = source.sample(3)
    assert {k: v.shape[1:3] for k, v in sample.layers.items()} == {s: (2, n) for s, n in SENSORS_OF.values()}
    days = sample.layers["sentinel2-l2a"].times[0]
    assert int(days[1] - days[0]) == 105, "April the first and July the fifteenth"
    assert source.labels["label"].classes == ("maize", "wheat")


def test_a_pattern_that_fits_nothing_is_said(tmp_path):
    visits(tmp_path, "S2L2A/{sensor}-{site}-{date}.tif", sites=2)
    with pytest.raises(UserError, match=r"no image is named like '\{site\}_\{year\}\.tiff'") as told:
        start(tmp_path, "series", Hints(pattern="{site}_{year}.tiff"))
    assert "one is S2L2A/" in (told.value.remedy or "")


def test_a_pattern_of_one_folder_leaves_the_others(tmp_path):
    visits(tmp_path, "{sensor}/{site}_{date}.tif")
    done = start(tmp_path, "series", Hints(pattern="S2L2A/{site}_{date}.tif"))
    assert done.found["samples"] == 12 and list(done.found["layers"]) == ["sentinel2-l2a"]


def test_a_card_that_was_kept_and_names_no_label_is_named_as_the_cause(tmp_path):
    folder(tmp_path, n=12)
    start(tmp_path, "pretrain", Hints("sentinel2-l2a", S2))
    with pytest.raises(UserError, match="found: none") as caught:
        start(tmp_path, "segment", Hints(), tmp_path / "o")
    assert "remove that file" in caught.value.remedy


def test_a_card_written_elsewhere_finds_its_files(tmp_path):
    folder(tmp_path / "d", n=12)
    done = start(tmp_path / "d", "segment", Hints("sentinel2-l2a", S2), tmp_path / "o")
    assert len(open_source(done.card)) == len(open_source(done.run)) == 12


@pytest.mark.parametrize("odd", [3, 9])
def test_images_of_both_baselines_are_said(tmp_path, odd):
    """Chips without and with the +1000 offset of 2022 in one folder."""
    rng = np.random.default_rng(0)
    for i in range(12):
        low = 1000 if i < odd else 0
        dn = (rng.gamma(2.0, 500.0, (4, 32, 32)) + 150 + low).astype("uint16")
        write(tmp_path / "images" / f"{i:02d}.tif", dn, origin=(500000 + 1000 * i, 5000000))
        write(tmp_path / "masks" / f"{i:02d}.tif", (dn[:1] > 1500).astype("uint8"), origin=(500000 + 1000 * i, 5000000))
    done = start(tmp_path, "segment", Hints("sentinel2-l2a", S2))  # some of them in val and test
    told = [a for a in done.assumed if "offset of +1000 that Sentinel-2 has" in a]
    assert len(told) == 1 and "3 of 12 images seem to " + ("carry" if odd == 3 else "lack") in told[0]
    assert told[0] in done.run.read_text() and told[0] in done.card.read_text()


def test_images_of_one_baseline_are_not(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):  # dark and bright places, one convention
        dn = (rng.gamma(2.0, 100.0 + 150 * i, (4, 32, 32)) + 1000).astype("uint16")
        write(tmp_path / "images" / f"{i:02d}.tif", dn, origin=(500000 + 1000 * i, 5000000))
        write(tmp_path / "masks" / f"{i:02d}.tif", (dn[:1] > 1500).astype("uint8"), origin=(500000 + 1000 * i, 5000000))
    done = start(tmp_path, "segment", Hints("sentinel2-l2a", S2))
    assert not any("images seem to" in a for a in done.assumed)


def test_masks_of_floats(tmp_path):
    """Whole numbers with NaN are classes and what is not known; a fraction names its file."""
    folder(tmp_path, names=S2_NAMES)
    for path in (tmp_path / "masks").iterdir():
        mask = np.random.default_rng(0).integers(0, 3, (1, 32, 32)).astype("float32")
        mask[:, :4] = np.nan
        write(path, mask, origin=(500000 + 1000 * int(path.stem[1:]), 5000000))
    start(tmp_path, "segment", Hints("sentinel2-l2a", S2), tmp_path / "o")
    label = open_source(yaml.safe_load((tmp_path / "o" / "run.yaml").read_text())["data"]).sample(0).labels["label"]
    assert not label.valid[0, :4].any() and label.valid[0, 4:].all() and label.value.max() == 2
    mask[:, 8, 8] = 1.5
    write(tmp_path / "masks" / "k03.tif", mask, origin=(503000, 5000000))
    with pytest.raises(UserError, match=r"needs a label of kind mask|holds 1\.5"):
        start(tmp_path, "segment", Hints("sentinel2-l2a", S2), tmp_path / "p")


@pytest.mark.parametrize(("top", "known"), [(279, True), (255, False)])
def test_255_is_a_class_among_more(tmp_path, top, known):
    """In masks of 16 bits with 280 classes it is one; alone at the end of few it means not labelled."""
    folder(tmp_path, n=6, names=S2_NAMES)
    for i in range(6):
        mask = np.arange(1024).reshape(1, 32, 32) % 280 if known else np.arange(1024).reshape(1, 32, 32) % 5
        mask = np.where(mask == 4, 255, mask) if not known else mask
        write(tmp_path / "masks" / f"k{i:02d}.tif", mask.astype("uint16"), origin=(500000 + i * 1000, 5000000))
    done = start(tmp_path, "segment", Hints("sentinel2-l2a", S2), tmp_path / "o")
    assert any("[255]" in a for a in done.assumed) != known
    assert len(done.found["classes"]) == (280 if known else 4)
    label = load_card(done.card).labels[0]
    assert label.ignore == (() if known else (255.0,))


def test_a_stack_of_dates_in_one_file_names_the_way(tmp_path):
    folder(tmp_path, n=4, bands=8)
    with pytest.raises(UserError, match=r"4 bands are named(.|\n)*for 2 dates in one file say `steps` in a card"):
        start(tmp_path, "segment", Hints("sentinel2-l2a", S2))
