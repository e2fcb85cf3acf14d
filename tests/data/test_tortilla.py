"""The tortilla reader: real files pixel for pixel, generated ones of every leaf kind, hostile bytes."""

import hashlib
import io
import json
import struct

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.io import MemoryFile
from tests.data.pack import benv2_like, h5, tiff, tortilla

from swath.core import UserError, collate
from swath.data.open import open_source
from swath.data.sources.tortilla import TortillaConfig
from swath.data.tortilla import entries, leaves, show

NAMES = ("benv2", "biomassters", "caffe", "nzcattle", "pastis")


def independent(data, base=0, path=()):
    """(path, format, bytes, split) of every leaf, by another walk over the bytes."""
    offset, length = struct.unpack("<QQ", data[base + 2 : base + 18])
    for row in pq.read_table(io.BytesIO(data[base + offset : base + offset + length])).to_pylist():
        start, here = base + row["tortilla:offset"], (*path, row["tortilla:id"])
        if row["tortilla:file_format"] == "TORTILLA":
            yield from independent(data, start, here)
        else:
            yield here, row["tortilla:file_format"], data[start : start + row["tortilla:length"]], row


@pytest.mark.parametrize("name", NAMES)
def test_real_files_are_read_pixel_for_pixel(shared, name):
    file = shared / "tortilla" / f"{name}.tortilla"
    data = file.read_bytes()
    expected = list(independent(data))
    held = show([file])
    found = {tuple(x["path"]): x for s in held["samples"] for x in s["leaves"]}
    assert [tuple(x["path"]) for s in held["samples"] for x in s["leaves"]] == [p for p, *_ in expected]
    for path, form, blob, row in expected:
        leaf = found[path]
        assert leaf["format"] == form and leaf["length"] == len(blob)
        if form == "GTiff":
            with MemoryFile(blob) as memory, memory.open() as raster:
                array = raster.read()
        else:
            with h5py.File(io.BytesIO(blob)) as h:
                arrays = [h[k][()] for k in h if isinstance(h[k], h5py.Dataset)]
            if not arrays:
                assert leaf["bytes_sha256"] == hashlib.sha256(blob).hexdigest()
                continue
            array = arrays[0]
        assert (leaf["shape"], leaf["dtype"]) == (list(array.shape), str(array.dtype))
        assert leaf["sha256"] == hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        for key, value in leaf["metadata"].items():
            assert value == row[key] or value is None or isinstance(value, str)
    json.dumps(held, allow_nan=False)


@pytest.mark.parametrize("name", NAMES)
def test_real_files_are_samples_in_physical_units(shared, name):
    source = open_source(shared / "tortilla" / f"{name}.tortilla")
    assert {"train", "val", "test"} == set(source.splits())
    batch = collate([source.sample(i) for i in source.splits()["test"]])
    for layer in batch.layers.values():
        for i, band in enumerate(layer.sensor.bands):
            seen = layer.x[:, :, i][layer.valid[:, :, 0]]
            assert seen.numel() == 0 or band.low - 0.1 <= seen.median() <= band.high
    assert batch.labels


def test_biomassters_keeps_absent_months_as_invalid_timesteps(shared):
    sample = open_source(shared / "tortilla" / "biomassters.tortilla").sample(0)
    valid = sample.layers["sentinel2-l2a"].valid[0, :, 0].flatten(1).any(1)
    assert valid.tolist() == [True] * 3 + [False] + [True] * 8, "December 2 is not in the file"
    assert not sample.layers["sentinel1-grd-desc"].valid.any(), "-9999 is not an observation"


def test_radar_bands_of_benv2_are_named_by_what_they_hold(shared):
    source = open_source(shared / "tortilla" / "benv2.tortilla")
    for i in range(len(source)):
        layer = source.sample(i, {"sentinel1-grd": ["vv", "vh"]}).layers["sentinel1-grd"]
        assert layer.x[:, :, 0].mean() > layer.x[:, :, 1].mean(), "VV is brighter than VH"


def test_parts_are_one_data_set_and_duplicates_are_refused(tmp_path):
    for i in range(2):
        rows = [(f"s{i}{k}", "GTiff", "train", tiff(np.full((3, 4, 4), 9 * i + k, "uint8")), {}) for k in range(2)]
        (tmp_path / f"nzcattle.000{i}.part.tortilla").write_bytes(tortilla(rows))
    card = tmp_path / "card.toml"
    card.write_text(
        'name = "x"\n[layout]\nkind = "tortilla"\n[[layer]]\nsensor = "rgb-aerial"\n'
        'bands = ["red", "green", "blue"]\npath = "*"\n'
    )
    source = TortillaConfig(str(tmp_path / "nzcattle.0000.part.tortilla"), card=str(card)).build()
    assert source.names == ["s00", "s01", "s10", "s11"]
    assert [float(source.sample(i).layers["rgb-aerial"].x.mean()) for i in range(4)] == [0, 1, 9, 10]
    (tmp_path / "nzcattle.0002.part.tortilla").write_bytes((tmp_path / "nzcattle.0000.part.tortilla").read_bytes())
    with pytest.raises(UserError, match="two samples are called 's00'"):
        len(TortillaConfig(str(tmp_path), card=str(card)).build())


def test_every_kind_of_leaf_is_shown(tmp_path):
    out = io.BytesIO()
    pq.write_table(pa.table({"xmin": [1.0], "label": ["a"]}), out)
    deep = tortilla([("x", "GTiff", None, tiff(np.ones((1, 3, 3), "int16")), {})])
    inner = tortilla(
        [
            ("img", "GTiff", None, tiff(np.arange(12, dtype="uint8").reshape(3, 2, 2)), {}),
            ("boxes", "GeoParquet", None, out.getvalue(), {}),
            ("raw", "BYTES", None, b"hello", {}),
            ("two", "HDF5", None, h5({"a": np.zeros((2, 2)), "g/b": np.ones(3, "int8")}), {}),
            ("deep", "TORTILLA", None, deep, {}),
        ]
    )
    file = tmp_path / "x.taco"
    file.write_bytes(tortilla([("s", "TORTILLA", "train", inner, {"n": 1})], magic=b"WX"))
    sample = show([file])["samples"][0]
    assert [x["path"] for x in sample["leaves"]] == [
        ["s", "img"], ["s", "boxes"], ["s", "raw"], ["s", "two"], ["s", "deep", "x"],
    ]  # fmt: skip
    assert [a["array"] for a in sample["leaves"][3]["arrays"]] == ["a", "g/b"]
    assert sample["leaves"][2]["bytes_sha256"] == hashlib.sha256(b"hello").hexdigest()
    assert sample["split"] == "train" and sample["metadata"] == {"n": 1}


def test_everwatch_and_substation_boxes(tmp_path):
    out = io.BytesIO()
    pq.write_table(pa.table({"xmin": [1.0], "ymin": [2.0], "xmax": [5.0], "ymax": [6.0], "label": ["Anhinga"]}), out)
    inner = tortilla(
        [
            ("image", "GTiff", "train", tiff(np.ones((3, 8, 8), "uint8")), {}),
            ("a", "GeoParquet", "train", out.getvalue(), {}),
        ]
    )
    (tmp_path / "geobench_everwatch.tortilla").write_bytes(tortilla([("s", "TORTILLA", "train", inner, {})]))
    boxes = open_source(tmp_path / "geobench_everwatch.tortilla").sample(0).labels["label"].objects[0]
    assert boxes.xyxy.tolist() == [[1, 2, 5, 6]] and boxes.classes.tolist() == [6]
    note = {"sample_annotations": [{"category_id": 1, "bbox": [1, 1, 3, 2], "mask": [[1, 1, 4, 1, 4, 3, 1, 3]]}]}
    inner = tortilla(
        [
            ("image", "GTiff", "train", tiff(np.ones((13, 8, 8), "uint16")), {}),
            ("a", "HDF5", "train", h5(attributes={"annotation": note}), {}),
        ]
    )
    (tmp_path / "substation.tortilla").write_bytes(tortilla([("s", "TORTILLA", "train", inner, {})]))
    boxes = open_source(tmp_path / "substation.tortilla").sample(0).labels["label"].objects[0]
    assert boxes.xyxy.tolist() == [[1, 1, 4, 3]] and int(boxes.masks.sum()) == 6


def read_all(file):
    for entry in entries(file):
        for leaf in leaves(entry):
            from swath.data.tortilla import describe

            describe(leaf)


GOOD = benv2_like(2)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=8),
    end=st.one_of(st.none(), st.integers(0, len(GOOD))),
    head=st.one_of(st.none(), st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))),
)
def test_hostile_bytes_are_a_named_error_or_pixels(tmp_path, cuts, end, head):
    data = bytearray(GOOD)
    for at, value in cuts:
        data[at] = value
    if head is not None:
        struct.pack_into("<QQ", data, 2, *head)
    file = tmp_path / "hostile.tortilla"
    file.write_bytes(bytes(data[:end]))
    try:
        read_all(file)
    except UserError as error:
        assert str(file) in error.where


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "tortilla:id": st.one_of(st.none(), st.text(max_size=5), st.integers(-5, 5)),
                "tortilla:file_format": st.sampled_from(["TORTILLA", "GTiff", "HDF5", "BYTES", "", None, "GeoParquet"]),
                "tortilla:data_split": st.one_of(st.none(), st.text(max_size=3)),
                "tortilla:offset": st.integers(-(2**63), 2**63 - 1) | st.integers(0, 300),
                "tortilla:length": st.integers(-(2**63), 2**63 - 1) | st.integers(0, 300),
            }
        ),
        max_size=4,
    )
)
def test_hostile_rows_are_a_named_error(tmp_path, rows):
    out = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_pylist(rows), out)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return
    body = bytearray(b"\0" * 300)
    struct.pack_into("<2sQQ", body, 0, b"#y", len(body), len(out.getvalue()))
    file = tmp_path / "rows.tortilla"
    file.write_bytes(bytes(body) + out.getvalue())
    try:
        read_all(file)
    except UserError as error:
        assert str(file) in error.where


def test_a_container_that_holds_itself_ends(tmp_path):
    inner = tortilla([("a", "BYTES", None, b"x", {})])
    whole = bytearray(tortilla([("loop", "TORTILLA", None, inner, {})]))
    out = io.BytesIO()
    row = {"tortilla:id": "loop", "tortilla:file_format": "TORTILLA", "tortilla:data_split": None}
    pq.write_table(pa.Table.from_pylist([{**row, "tortilla:offset": 0, "tortilla:length": len(whole)}]), out)
    data = bytes(whole[:200]) + out.getvalue()
    data = bytearray(data)
    struct.pack_into("<2sQQ", data, 0, b"#y", 200, len(out.getvalue()))
    file = tmp_path / "loop.tortilla"
    file.write_bytes(bytes(data))
    with pytest.raises(UserError, match="outside"):
        read_all(file)
