"""Streamed statistics against two passes, merging, invalid pixels, and what is stored."""

import json

import numpy as np
import pytest
import torch

from swath.core import SENSORS, Batch, Label, LabelSpec, Layer, Where
from swath.core.errors import UserError
from swath.data.stats import Gather, Moments, read, save, statistics


class Samples:
    """Random samples with holes; two sensors, a mask and a number."""

    name, licence, fingerprint = "memory", "CC0-1.0", "abc"

    def __init__(self, n=7, offset=0.0):
        self.sensors = (SENSORS.get("sentinel2-l2a").select(["red", "nir"]), SENSORS.get("sentinel1-grd"))
        self.labels = {"mask": LabelSpec("mask", "mask", ("a", "b")), "height": LabelSpec("height", "scalar")}
        rng = np.random.default_rng(0)
        self.x = {s.id: rng.normal(offset, 1, (n, 2, 2, 16, 16)).astype("float32") for s in self.sensors}
        self.valid = {s.id: rng.random((n, 2, 1, 16, 16)) > 0.3 for s in self.sensors}
        self.valid["sentinel1-grd"][2] = False
        self.mask = rng.integers(0, 2, (n, 16, 16))

    def __len__(self):
        return len(self.mask)

    def splits(self):
        return {"train": range(5), "val": range(5, len(self))}

    def sample(self, index, bands=None):
        layers = {
            s.id: Layer.of(
                s, torch.from_numpy(self.x[s.id][index][None]), torch.from_numpy(self.valid[s.id][index][None])
            )
            for s in self.sensors
        }
        m = torch.from_numpy(self.mask[index][None])
        labels = {
            "mask": Label("mask", m, torch.ones_like(m, dtype=torch.bool)),
            "height": Label("scalar", torch.tensor([float(index)]), torch.tensor([index != 1])),
        }
        return Batch(layers, Where.unknown(1), labels)


@pytest.mark.parametrize("offset", [0.0, 5000.0])
def test_exact_against_two_passes(offset):
    source = Samples(offset=offset)
    found = statistics(source, "train")
    for id_ in source.x:
        x, valid = source.x[id_][:5], np.broadcast_to(source.valid[id_][:5], source.x[id_][:5].shape)
        for c, band in enumerate(found.layers[id_]):
            real = x[:, :, c][valid[:, :, c]].astype(np.float64)
            assert band.count == real.size
            want = (real.mean(), np.sqrt(((real - real.mean()) ** 2).mean()), real.min(), real.max())
            assert (band.mean, band.std, band.min, band.max) == pytest.approx(want, rel=1e-9, abs=1e-9)
        assert found.valid[id_] == pytest.approx(source.valid[id_][:5].mean())
    assert found.labels["mask"].classes == {
        "a": int((source.mask[:5] == 0).sum()),
        "b": int((source.mask[:5] == 1).sum()),
    }
    assert found.labels["height"].mean == pytest.approx(np.mean([0, 2, 3, 4]))
    assert found.samples == 5 and found.fingerprint == "abc"


def test_merge_is_one_pass():
    source = Samples()
    parts = [Gather(source) for _ in range(3)]
    for i in range(7):
        parts[i % 3].add(i)
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    assert json.dumps(parts[0].result("").valid) == json.dumps(statistics(source).valid)
    for a, b in zip(
        parts[0].result("").layers["sentinel2-l2a"], statistics(source).layers["sentinel2-l2a"], strict=True
    ):
        assert (a.mean, a.std) == pytest.approx((b.mean, b.std), rel=1e-12)


def test_moments_of_a_hard_series():
    x = np.random.default_rng(1).normal(1e6, 1e-2, (1, 3_000_000))
    m = Moments(1)
    m.add(x)
    assert m.std[0] == pytest.approx(x.std(), rel=1e-6) and m.mean[0] == pytest.approx(x.mean(), rel=1e-12)


def test_stored_with_the_data_hash(tmp_path):
    found = statistics(Samples())
    save(found, tmp_path / "statistics.json")
    assert read(tmp_path / "statistics.json", "abc") == found
    mean, std = found.of("sentinel2-l2a")
    assert len(mean) == len(std) == 2
    with pytest.raises(UserError, match="other data"):
        read(tmp_path / "statistics.json", "abd")
    (tmp_path / "statistics.json").write_text("{}")
    with pytest.raises(UserError, match="no statistics"):
        read(tmp_path / "statistics.json")
    with pytest.raises(UserError, match="no split 'tset'"):
        statistics(Samples(), "tset")
