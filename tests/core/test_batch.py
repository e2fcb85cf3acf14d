"""Layers and labels refuse what does not fit, and say what they saw."""

import pytest
import torch

from swath.core import SENSORS, Batch, Label, Layer, UserError, Where

S2 = SENSORS.get("sentinel2-l2a").select(["red", "nir", "swir16"])
OK = torch.rand(2, 1, 3, 4, 4)
VALID = torch.ones(2, 1, 1, 4, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("x", "valid", "times", "words"),
    [
        (OK[0], VALID, None, "must be (B, T, C, H, W)"),
        (OK[:, :, :2], VALID, None, "2 channels for 3 bands: red, nir, swir16"),
        (OK, VALID[:, :, :, :3], None, "valid must be bool (2, 1, 1, 4, 4)"),
        (OK, VALID.float(), None, "valid must be bool"),
        ((OK * 10000).int(), VALID, None, "physical units"),
        (OK, VALID, torch.zeros(2, 1), "times must be int64"),
        (OK, VALID, torch.zeros(2, 3, dtype=torch.int64), "times must be int64 (2, 1)"),
    ],
)
def test_a_wrong_layer_is_refused(x, valid, times, words):
    with pytest.raises(UserError, match="layer sentinel2-l2a") as error:
        Layer(S2, x, valid, times)
    assert words in str(error.value)


def test_nan_becomes_invalid_and_zero():
    x = OK.clone()
    x[0, 0, 1, 2, 2] = float("inf")
    layer = Layer.of(S2, x)
    assert not layer.valid[0, 0, 0, 2, 2] and layer.x[0, 0, :, 2, 2].tolist() == [0, 0, 0]
    assert layer.valid.sum() == 31


def test_select_by_alias_keeps_order():
    layer = Layer.of(S2, OK).select(["B11", "B04"])
    assert layer.sensor.names == ("swir16", "red") and torch.equal(layer.x, OK[:, :, [2, 0]])


def test_a_batch_refuses_other_counts_and_names():
    with pytest.raises(UserError, match="holds 2 samples, the batch 3"):
        Batch({S2.id: Layer.of(S2, OK)}, Where.unknown(3))
    with pytest.raises(UserError, match="under the name 's2'"):
        Batch({"s2": Layer.of(S2, OK)}, Where.unknown(2))


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("mask", torch.zeros(2, 4, 4), "int64"),
        ("mask", torch.zeros(2, 1, 4, 4, dtype=torch.int64), "dimensions"),
        ("class", torch.zeros(2, 3, dtype=torch.int64), "dimensions"),
    ],
)
def test_a_wrong_label_is_refused(kind, value, words):
    with pytest.raises(UserError, match=words):
        Label(kind, value, torch.ones_like(value, dtype=torch.bool))


def test_no_precision_policy_rounds_a_year_away():
    times = torch.tensor([[20410], [20411]])
    batch = Batch({S2.id: Layer.of(S2, OK, times=times)}, Where.unknown(2))
    half = batch.map(lambda t: t.to(torch.bfloat16) if t.is_floating_point() else t)
    assert half.layers[S2.id].x.dtype == torch.bfloat16
    assert half.layers[S2.id].times.dtype == torch.int64 and half.where.lonlat.dtype == torch.float64
    assert torch.equal(half.layers[S2.id].times, times)
