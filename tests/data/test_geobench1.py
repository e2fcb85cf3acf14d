"""GEO-Bench v1: real samples with their proven traps, partitions, and pickles that run nothing."""

import json
import os
import pickle

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swath.core import UserError
from swath.data.cards import CARDS
from swath.data.inert import Record, unpickle
from swath.data.sources.geobench1 import GeobenchConfig


def names(card):
    return [n.strip() for n in CARDS.get(card).layers[0].path.split("|")]


def write(root, key, card, label, seed=0, date=""):
    rng = np.random.default_rng(seed)
    with h5py.File(root / f"{key}.hdf5", "w") as file:
        for i, name in enumerate(names(card)):
            file[name + date] = rng.integers(100 * i, 100 * i + 50, (8, 8)).astype("int16")
        held = {"bands_order": names(card)}
        if isinstance(label, np.ndarray) and label.ndim == 2:
            file["label" + date] = label
        else:
            held["label"] = label
        file.attrs["pickle"] = str(pickle.dumps(held))


def test_real_samples_hold_the_bands_their_cards_say(shared):
    root = shared / "real" / "geobench_v1_samples"
    eurosat = GeobenchConfig(str(root / "m-eurosat")).build()
    for i in range(len(eurosat)):
        layer = eurosat.sample(i).layers["sentinel2-l1c"]
        mean = {b: float(layer.x[:, :, k].mean()) for k, b in enumerate(layer.sensor.names)}
        assert mean["cirrus"] < 0.01 < mean["nir09"] < mean["nir08"], "B10 is near zero over land, B9 below B8A"
        assert abs(mean["nir08"] - mean["nir"]) < 0.2 * mean["nir"], "B8A is next to B8"
    kiln = GeobenchConfig(str(root / "brick_kiln"), card="geobench1-m-brick-kiln").build()
    assert "cirrus" not in kiln.sensors[0].names and len(kiln) == 5
    crops = GeobenchConfig(str(root / "m-SA-crop-type")).build().sample(0)
    assert crops.layers["sentinel2-display"].sensor.bands[0].unit == "display"
    assert 0.5 < float(crops.labels["label"].valid.float().mean()) < 0.6


def test_partitions_dates_and_every_label_kind(tmp_path):
    root = tmp_path / "m-forestnet"
    root.mkdir()
    for i in range(3):
        write(root, f"s{i}", "geobench1-m-forestnet", i, seed=i, date="_2016-05-0" + str(i + 1))
    (root / "default_partition.json").write_text(json.dumps({"train": ["s0"], "valid": ["s2"], "test": ["s1"]}))
    (root / "0.10x_train_partition.json").write_text(json.dumps({"train": ["s0"], "valid": [], "test": []}))
    source = GeobenchConfig(str(root)).build()
    assert source.splits() == {"train": [0], "val": [2], "test": [1]}
    assert GeobenchConfig(str(root), partition="0.10x_train").build().splits() == {"train": [0]}
    with pytest.raises(UserError, match="unknown partition"):
        GeobenchConfig(str(root), partition="0.5x").build().splits()
    sample = source.sample(1)
    assert int(sample.labels["label"].value) == 1
    assert sample.layers["landsat8-display"].times.tolist() == [[16923]]
    torch.testing.assert_close(
        source.sample(0, {"landsat8-display": ["red"]}).layers["landsat8-display"].x,
        source.sample(0).layers["landsat8-display"].x[:, :, 2:3],
    )
    big = tmp_path / "m-bigearthnet"
    big.mkdir()
    tags = np.zeros(43, dtype=int)
    tags[[3, 5]] = 1
    write(big, "a", "geobench1-m-bigearthnet", tags)
    assert GeobenchConfig(str(big)).build().sample(0).labels["label"].value[0].nonzero().ravel().tolist() == [3, 5]
    nz = tmp_path / "m-nz-cattle"
    nz.mkdir()
    write(nz, "a", "geobench1-m-nz-cattle", np.eye(8, dtype="int16"), date="_2017-01-01")
    assert int(GeobenchConfig(str(nz)).build().sample(0).labels["label"].value.sum()) == 8


class Evil:
    def __reduce__(self):
        return (os.system, ("true",))


def test_a_pickle_runs_nothing(tmp_path, monkeypatch):
    data = pickle.dumps({"label": 3, "evil": Evil()})
    ran = []
    monkeypatch.setattr(os, "system", ran.append)
    held = unpickle(data, "here")
    assert not ran
    assert held["label"] == 3 and isinstance(held["evil"], Record)


@given(st.binary(max_size=200) | st.text(max_size=80))
def test_any_bytes_are_a_value_or_a_named_error(data):
    try:
        unpickle(data, "here")
    except UserError as error:
        assert error.where == "here"


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "m-pv4ger").mkdir()
    (tmp_path / "m-pv4ger" / "x.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 50)
    with pytest.raises(UserError, match="cannot be read") as caught:
        GeobenchConfig(str(tmp_path / "m-pv4ger")).build().sample(0)
    assert "x.hdf5" in caught.value.where
