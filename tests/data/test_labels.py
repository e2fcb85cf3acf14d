"""Every label kind of a folder, series with missing dates and sensors, and refusals that name file, band and value."""

import json

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from shapely import box
from tests.data.chips import folder, write

from swath.core import UserError, collate
from swath.data.check import check
from swath.data.labels import drawn
from swath.data.open import open_source

HEAD = """name = "t"
[layout]
kind = "folder"
[[layer]]
sensor = "sentinel2-l2a"
bands = ["blue", "green", "red", "nir"]
path = "images"
scale = 0.0001
offset = -0.1
[[label]]
"""


def source(root, label, head=HEAD):
    (root / "card.toml").write_text(head + label)
    return open_source(root)


def squares(root, i, **columns):
    x = 500000 + i * 1000
    shapes = [box(x, 4999920, x + 80, 5000000), box(x + 80, 4999680, x + 320, 4999760)]
    return geopandas.GeoDataFrame(columns, geometry=shapes, crs="EPSG:32631")


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".parquet"])
def test_vectors_a_file_a_key(tmp_path, suffix):
    folder(tmp_path, n=2)
    (tmp_path / "fields").mkdir()
    for i in range(2):
        frame = squares(tmp_path, i, crop=["wheat", "maize"])
        path = tmp_path / "fields" / f"k{i:02d}{suffix}"
        frame.to_parquet(path) if suffix == ".parquet" else frame.to_file(path)
    held = source(tmp_path, 'kind = "mask"\npath = "fields"\ncolumn = "crop"\nclasses = ["none", "wheat", "maize"]\n')
    mask = held.sample(1).labels["label"].value[0]
    assert (mask[:8, :8] == 1).all() and (mask[24:, 8:] == 2).all() and int((mask > 0).sum()) == 64 + 8 * 24


def test_one_vector_layer_for_all_and_a_class_that_is_none(tmp_path):
    folder(tmp_path, n=2)
    squares(tmp_path, 0, kind=[1, 7]).to_file(tmp_path / "all.gpkg")
    held = source(tmp_path, 'kind = "mask"\npath = "all.gpkg"\ncolumn = "kind"\nclasses = ["no", "yes"]\n')
    with pytest.raises(UserError, match="holds 7, which the legend"):
        held.sample(0)
    assert not held.sample(1).labels["label"].value.any()


def test_tables_of_scalars_classes_and_tags(tmp_path):
    folder(tmp_path, n=3)
    (tmp_path / "y.csv").write_text("key,height,kind\nk00,1.5,oak\nk02,-1,pine\n")
    label = 'kind = "scalar"\npath = "y.csv"\ncolumn = "height"\nunit = "m"\nignore = [-1.0]\n'
    held = source(tmp_path, label + '[[label]]\nname = "tree"\nkind = "class"\npath = "y.csv"\ncolumn = "kind"\n'
                  'classes = ["oak", "pine"]\n')  # fmt: skip
    batch = collate([held.sample(i) for i in range(3)])
    assert batch.labels["label"].valid.tolist() == [True, False, False] and float(batch.labels["label"].value[0]) == 1.5
    assert batch.labels["tree"].value.tolist() == [0, 0, 1] and batch.labels["tree"].valid.tolist() == [
        True,
        False,
        True,
    ]
    pq.write_table(pa.table({"key": ["k00"], "tags": [["b", "c"]]}), tmp_path / "t.parquet")
    held = source(tmp_path, 'kind = "tags"\npath = "t.parquet"\ncolumn = "tags"\nclasses = ["a", "b", "c"]\n')
    assert held.sample(0).labels["label"].value.tolist() == [[0, 1, 1]]
    with pytest.raises(UserError, match="no column 'tag'"):
        source(tmp_path, 'kind = "tags"\npath = "t.parquet"\ncolumn = "tag"\nclasses = ["a"]\n').sample(0)


def test_coco_boxes(tmp_path):
    folder(tmp_path, n=2)
    coco = {
        "images": [{"id": 4, "file_name": "k01.tif"}, {"id": 9, "file_name": "k00.tif"}],
        "categories": [{"id": 2, "name": "ship"}, {"id": 1, "name": "car"}],
        "annotations": [{"image_id": 4, "category_id": 2, "bbox": [1, 2, 3, 4]}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    held = source(tmp_path, 'kind = "boxes"\npath = "boxes.json"\nclasses = ["car", "ship"]\n')
    one = held.sample(1).labels["label"].objects[0]
    assert one.xyxy.tolist() == [[1, 2, 4, 6]] and one.classes.tolist() == [1]
    assert len(held.sample(0).labels["label"].objects[0].classes) == 0
    coco["annotations"].append({"id": 5, "image_id": 4, "category_id": 7, "bbox": [1, 2, 3, 4]})
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    with pytest.raises(UserError, match="annotation 5 is of category 7, which is not listed"):
        open_source(tmp_path).sample(0)
    (tmp_path / "boxes.json").write_text('{"images": 3}')
    with pytest.raises(UserError, match="not COCO: it lacks 'categories'"):
        open_source(tmp_path).sample(0)


def test_quantities_and_ignored_values(tmp_path):
    folder(tmp_path, n=1)
    values = np.linspace(0, 300, 32 * 32, dtype="float32").reshape(1, 32, 32)
    values[0, 0, 0], values[0, 0, 1] = np.nan, -9999
    write(tmp_path / "agb" / "k00.tif", values, nodata=-9999)
    held = source(tmp_path, 'kind = "map"\npath = "agb"\nunit = "t/ha"\nscale = 0.5\n').sample(0).labels["label"]
    assert held.valid[0, 0, 0].tolist()[:3] == [False, False, True] and float(held.value.max()) == 150
    with pytest.raises(UserError, match="fractions"):
        source(tmp_path, 'kind = "mask"\npath = "agb"\nclasses = ["a"]\n').sample(0)


SERIES = """name = "t"
[layout]
kind = "folder"
[[layer]]
sensor = "sentinel2-l2a"
bands = ["red", "nir"]
path = "{site}_{date}_{sensor}.tif"
scale = 0.0001
offset = 0.0
[[layer]]
sensor = "sentinel1-grd"
bands = ["vv", "vh"]
path = "{site}_{date}_{sensor}.tif"
unit = "linear"
scale = 1.0
"""


def test_series_with_missing_dates_and_a_missing_sensor(tmp_path):
    for site, date, sensor in (
        ("a", "20200105", "sentinel2-l2a"),
        ("a", "20200301", "sentinel2-l2a"),
        ("a", "20200110", "sentinel1-grd"),
        ("b", "20210101", "sentinel2-l2a"),
    ):
        value = np.full((2, 8, 8), 1000, "uint16") if "2-" in sensor else np.full((2, 8, 8), 0.1, "float32")
        write(tmp_path / f"{site}_{date}_{sensor}.tif", value)
    held = source(tmp_path, "", SERIES)
    assert [item.key for item in held.index.items] == ["a", "b"]
    batch = collate([held.sample(0), held.sample(1)])
    s2, s1 = batch.layers["sentinel2-l2a"], batch.layers["sentinel1-grd"]
    assert s2.shape == (2, 2, 2, 8, 8) and s2.valid[:, :, 0, 0, 0].tolist() == [[True, True], [True, False]]
    assert s2.times.tolist()[0] == [18266, 18322]
    assert s1.valid[:, 0, 0, 0, 0].tolist() == [True, False] and torch.allclose(s1.x[0], torch.tensor(-10.0))
    write(tmp_path / "b_20219901_sentinel2-l2a.tif", np.ones((2, 8, 8), "uint16"))
    held = open_source(tmp_path)
    assert held.index.bad_dates == (("b_20219901_sentinel2-l2a.tif", "20219901"),)
    assert any("date cannot be read are left out, for example b_20219901" in note for note in held.notes)
    (found,) = check(tmp_path, only=("dates",), workers=1).findings
    assert (found.level, found.file, found.value) == ("error", "b_20219901_sentinel2-l2a.tif", "20219901")


def test_one_band_a_file(tmp_path):
    for i, band in enumerate(("B02", "B03", "B04", "B08")):
        write(tmp_path / f"x_{band}.tif", np.full((1, 8, 8), 1000 * (i + 1), "uint16"))
    text = HEAD.replace('path = "images"', 'path = "{key}_{band}.tif"').replace("[[label]]\n", "")
    held = source(tmp_path, "", text)
    layer = held.sample(0, {"sentinel2-l2a": ["nir", "blue"]}).layers["sentinel2-l2a"]
    assert layer.x[0, 0, :, 0, 0].tolist() == pytest.approx([0.3, 0.0], abs=1e-6)
    (tmp_path / "x_B08.tif").unlink()
    with pytest.raises(UserError, match="band nir is missing"):
        open_source(tmp_path).sample(0)


def test_refusals_name_the_file_and_the_value(tmp_path):
    folder(tmp_path, n=2)
    label = 'kind = "mask"\npath = "masks"\nclasses = ["a", "b"]\n'
    write(tmp_path / "masks" / "k00.tif", np.full((1, 32, 32), 9, "uint8"))
    with pytest.raises(UserError, match="holds 9") as caught:
        source(tmp_path, label).sample(0)
    assert "masks/k00.tif" in caught.value.where
    write(tmp_path / "masks" / "k00.tif", np.zeros((1, 32, 32), "uint8"), origin=(0, 0))
    with pytest.raises(UserError, match="lies elsewhere"):
        open_source(tmp_path).sample(0)
    write(tmp_path / "images" / "k01.tif", np.ones((3, 32, 32), "uint16"))
    with pytest.raises(UserError, match="the file has 3 bands and the card names 4: blue, green, red, nir") as caught:
        open_source(tmp_path).sample(1)
    assert "images/k01.tif" in caught.value.where
    (tmp_path / "images" / "k01.tif").write_bytes(b"II*\0 not a tiff")
    with pytest.raises(UserError, match="cannot be read"):
        open_source(tmp_path).sample(1)


@pytest.mark.parametrize(
    "shape",
    [
        {"counts": "o"},  # ends where more is to come
        {"counts": [8, -4, 12]},
        {"counts": [1, "x"]},
        {"counts": 3},
        [[0, 0, 3, 0, 3, 3, 1]],
        [[0, 0, 3, 0, 3, None]],
        [3],
    ],
)
def test_a_damaged_segmentation_is_named(shape):
    with pytest.raises(UserError) as caught:
        drawn(shape, (4, 4), "a.json, image k")
    assert caught.value.where == "a.json, image k"
