"""Files as GEO-Bench-2 publishes them: every card reads a file of the layout that it declares; odd files are shown."""

import io
import json
import subprocess
import sys

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.io import MemoryFile
from tests.data.pack import h5, tiff, tortilla

from swath.data.cards import CARDS
from swath.data.open import open_source
from swath.data.tortilla import sha256, show

NAMES = [n for n in CARDS.names() if n.startswith("geobench2-")]


def table(rows):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def array(card, layer, side=12, many=1):
    channels = max(x.channels for x in card.layers if x.path == layer.path)
    unit = card.stored(layer).bands[0].unit
    rng = np.random.default_rng(7)
    x = (
        rng.uniform(-20, -5, (many * channels, side, side))
        if unit == "db"
        else rng.integers(1, 200, (channels, side, side))
    )
    return x.astype("float32" if unit in ("db", "linear") else "uint16")


def label_leaf(card, label, side=12):
    """Bytes of the label's leaf, its format and the row's metadata."""
    values = label.values or tuple(range(max(2, len(label.classes))))
    if not label.path:
        named = label.classes[:2] if label.kind == "tags" else 0
        return None, "", {label.column: list(named) if label.kind == "tags" else named}
    if label.kind in ("mask", "map"):
        x = np.resize(np.array(values), (1, side, side)).astype("float32" if label.kind == "map" else "uint8")
        return tiff(x), "GTiff", {}
    if label.column == "label":
        boxes = [{"xmin": 1.0, "ymin": 2.0, "xmax": 5.0, "ymax": 6.0, "label": label.classes[0]}]
        return (
            table([*boxes, {**boxes[0], "label": None}] if "Unknown White" in label.classes else boxes),
            "GeoParquet",
            {},
        )
    note = {"boxes": [{"category_id": values[0], "bbox": [1, 2, 3, 4], "bbox_mode": "xywh"}]}
    return h5(attributes={"annotation": note}), "HDF5", {}


def sample(card, i):
    """A row of one sample, with its leaves where the card's paths say."""
    leaves, at, meta = [], {}, {}
    for layer in card.layers:
        dates = {"dates": [20200101, 20200201]} if layer.dates_from == "dates" else {}
        for one in layer.path.split(","):
            steps = layer.order if "{step}" in one else ("",)
            for step in steps:
                name = one.replace("{step}", step).replace("*", "a")
                x = array(card, layer)
                time = {"stac:time_start": 1.5e9} if layer.dates_from.startswith("stac") else {}
                if "pastis" in card.name:
                    leaf = ("HDF5", h5({"x": np.stack([x, x])}), dates)
                else:
                    leaf = ("GTiff", tiff(x), time)
                if "=" in name:
                    key, _, value = name.partition("=")
                    leaves += [(f"p{k}", *leaf[:2], {key: value}) for k in range(3)]
                elif name.startswith("#"):
                    at[int(name[1:])] = (f"leaf{name[1:]}", *leaf)
                else:
                    leaves.append((name, *leaf))
    for label in card.labels:
        blob, form, more = label_leaf(card, label)
        meta |= more
        if blob is not None:
            path = label.path.split("[")[0]
            if path.startswith("#"):
                at[int(path[1:])] = ("label", form, blob, {})
            else:
                leaves.append((path, form, blob, {}))
    for k in sorted(k for k in at if k >= 0):
        while len(leaves) < k:
            leaves.append((f"other{len(leaves)}", "GTiff", tiff(np.ones((1, 12, 12), "uint8")), {}))
        leaves.insert(k, at[k])
    leaves += [at[k] for k in at if k < 0]
    rows = [(n, f, None, b, {**meta, **m}) for n, f, b, m in leaves]
    return (f"sample_{i}", "TORTILLA", ("train", "validation", "test")[i % 3], tortilla(rows), meta)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "geobench2-pastis-r"])
def test_every_card_reads_a_file_of_its_layout(tmp_path, name):
    card = CARDS.get(name)
    parts = len(card.files) > 1
    rows = [sample(card, i) for i in range(6)]
    stem = "geobench_" + name.removeprefix("geobench2-").replace("-", "_")
    for k in range(2 if parts else 1):
        mine = rows[k::2] if parts else rows
        suffix = f".{k:04d}.part.tortilla" if parts else ".tortilla"
        (tmp_path / (stem + suffix)).write_bytes(tortilla(mine))
    file = sorted(tmp_path.iterdir())[0]
    source = open_source(file)
    assert len(source) == 6 and {k: len(v) for k, v in source.splits().items()} == {"train": 2, "val": 2, "test": 2}
    for i in range(6):
        batch = source.sample(i)
        assert list(batch.layers) == [x.id for x in card.layers] and list(batch.labels) == [x.name for x in card.labels]
        for layer in batch.layers.values():
            assert layer.x.isfinite().all()
    assert show([file])["count"] == (3 if parts else 6)


OPTIONS = [
    {}, {"compress": "deflate"}, {"tiled": True, "blockxsize": 16, "blockysize": 16}, {"BIGTIFF": "YES"},
    {"compress": "lzw", "interleave": "pixel"},
]  # fmt: skip
DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64", "complex64"]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_nesting_of_any_rasters_is_shown_with_its_hash(tmp_path_factory, data):
    tmp_path = tmp_path_factory.mktemp("any")
    want = {}
    counter = iter(range(10**6))

    def leaf(path):
        dtype = data.draw(st.sampled_from(DTYPES))
        shape = (data.draw(st.integers(1, 5)), data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40)))
        x = np.random.default_rng(next(counter)).integers(0, 100, shape).astype(dtype)
        options = data.draw(st.sampled_from(OPTIONS))
        with MemoryFile() as memory:
            profile = {"driver": "GTiff", "height": shape[1], "width": shape[2], "count": shape[0], "dtype": dtype}
            with memory.open(**profile, **options) as out:
                out.write(x)
            blob = bytes(memory.getbuffer())
        want[path] = (list(shape), dtype, sha256(x))
        return blob

    def container(path, depth):
        rows = []
        for k in range(data.draw(st.integers(1, 3))):
            here = (*path, f"n{k}")
            nested = data.draw(st.sampled_from(["TORTILLA", "TACO"]))
            flat = data.draw(st.sampled_from(["GTiff", "COG", "gtiff"]))
            if depth < 3 and data.draw(st.booleans()):
                rows.append((here[-1], nested, None, container(here, depth + 1), {}))
            else:
                rows.append((here[-1], flat, "train", leaf(here), {}))
        return tortilla(rows, data.draw(st.sampled_from([b"#y", b"WX"])))

    file = tmp_path / "any.tortilla"
    file.write_bytes(container((), 0))
    found = {}
    for one in show([file])["samples"]:
        assert one["split"] == "train"
        for x in one["leaves"]:
            found[tuple(x["path"])] = (x["shape"], x["dtype"], x["sha256"])
    assert found == want


def test_formats_that_nobody_knows_are_told_by_their_bytes(tmp_path):
    (tmp_path / "a.tortilla").write_bytes(
        tortilla([("x", "MP4", None, b"\0\0film", {}), ("y", "NUMPY", "val", b"12", {})])
    )
    first, second = show([tmp_path / "a.tortilla"])["samples"]
    assert len(first["leaves"][0]["bytes_sha256"]) == 64 and second["split"] == "val"


@pytest.mark.parametrize("where", ["file", "folder"])
def test_the_verb_lists_files_without_a_card(tmp_path, where):
    x = np.arange(48, dtype="int16").reshape(3, 4, 4)
    inner = tortilla([("img", "GTiff", "test", tiff(x), {})])
    (tmp_path / "unheard.tortilla").write_bytes(tortilla([("s", "TORTILLA", None, inner, {})]))
    target = str(tmp_path / "unheard.tortilla") if where == "file" else str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "swath.cli", "data", "show", target, "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)["samples"]
    assert (one["id"], one["split"]) == ("s", "test")
    (leaf,) = one["leaves"]
    assert leaf["path"] == ["s", "img"] and leaf["shape"] == [3, 4, 4] and leaf["sha256"] == sha256(x)
    with MemoryFile(tiff(x)) as memory, memory.open() as raster:
        assert sha256(raster.read()) == leaf["sha256"] and leaf["dtype"] == raster.dtypes[0]


def test_hdf5_leaves_tell_every_array(tmp_path):
    blob = io.BytesIO()
    with h5py.File(blob, "w") as file:
        file["a/b"] = np.ones((2, 3), "float32")
        file["a/c"] = np.zeros(4, "uint8")
        file["text"] = "words"
    (tmp_path / "a.tortilla").write_bytes(tortilla([("x", "HDF5", "train", blob.getvalue(), {})]))
    (leaf,) = show([tmp_path / "a.tortilla"])["samples"][0]["leaves"]
    assert [(a["array"], a["shape"]) for a in leaf["arrays"]] == [("a/b", [2, 3]), ("a/c", [4])]
