"""Pictures for reports: which bands and dates are shown, and what decides a stretch."""

from dataclasses import replace

import numpy as np
import torch

from swath.core import SENSORS, Batch, Layer, Where
from swath.data.picture import MISSING, finest, save, seen, three

S2 = SENSORS.get("sentinel2-l2a").select(["blue", "green", "red", "nir"])


def layer(dates=3, side=8):
    ground = torch.linspace(0.1, 0.4, side * side).view(side, side).expand(1, dates, 4, side, side).clone()
    return Layer.of(S2, ground)


def test_three_channels_of_any_layer():
    assert three(S2.names, 4) == [2, 1, 0]
    assert three(["nir", "red", "green"], 3) == [0, 1, 2]
    assert three(["vv", "vh"], 2) == [0, 1, 1]
    assert three(S2.names, 1) == three((), 1) == [0, 0, 0], "a map made of bands is not these bands"


def test_a_grey_ground_is_grey_and_a_hole_decides_nothing():
    told = layer(1)
    told.x[:, :, 0] += 0.2  # more blue everywhere: a stretch by channel would wash that out
    picture = seen(told).astype(int)
    assert (picture[..., 2] - picture[..., 0]).min() >= 0
    assert (picture[2:6, :, 2] > picture[2:6, :, 0] + 60).all()
    assert (picture[..., 0] == picture[..., 1]).all()
    valid = told.valid.clone()
    valid[..., :2, :] = False
    holed = replace(told, x=torch.where(valid, told.x, 99.0), valid=valid)
    found = seen(holed)
    assert (found[:2] == MISSING).all()
    assert found[2:, :, 2].max() == 255
    assert found[2:, :, 0].min() == 0


def test_the_last_date_that_shows_anything():
    told = layer(3)
    told.x[:, 1] = told.x[:, 1].flip(-1)
    valid = told.valid.clone()
    valid[:, 2] = False
    picture = seen(replace(told, valid=valid))
    assert picture[0, 0, 0] > picture[0, -1, 0], "the second date's, which is mirrored"
    assert (seen(replace(told, valid=torch.zeros_like(valid))) == MISSING).all()


def test_the_finest_optical_layer_and_whole_pixels(tmp_path):
    radar = Layer.of(SENSORS.get("sentinel1-rtc"), torch.zeros(1, 1, 2, 16, 16))
    batch = Batch({radar.sensor.id: radar, S2.id: layer(1)}, Where.unknown(1))
    assert finest(batch).sensor.id == S2.id
    from PIL import Image

    picture = np.zeros((8, 18, 3), np.uint8)
    picture[0, 0] = 255
    assert save(picture, tmp_path / "a.png", 33) == "a.png"
    found = np.asarray(Image.open(tmp_path / "a.png"))
    assert found.shape == (32, 72, 3)
    assert (found[:4, :4] == 255).all()
    assert not found[4:].any()
