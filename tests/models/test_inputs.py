"""Typed input adaptation: every liberty is named, everything else is refused."""

import pytest
import torch

from swath.core import SENSORS, Batch, EncoderSpec, Input, Layer, UserError, Where
from swath.models.inputs import Adaptation, prepare

S2 = SENSORS.get("sentinel2-l2a")
RGB = Input("sentinel2-l2a", ("red", "green", "blue"), "reflectance", (1000.0,) * 3, (2000.0,) * 3, gain=10000.0)


def spec(*inputs, any_bands=False):
    return EncoderSpec("test/one", inputs, (8,), (8.0,), 8, any_bands=any_bands)


def batch(sensor, value=None, valid=None):
    x = torch.full((1, 1, len(sensor.bands), 4, 4), 0.3) if value is None else value
    valid = torch.ones(1, 1, 1, 4, 4, dtype=torch.bool) if valid is None else valid
    return Batch({sensor.id: Layer(sensor, x, valid)}, Where.unknown(1))


def seen(b, s, adaptation=None):
    return prepare(b, s, adaptation or Adaptation(), torch.float32)


def test_bands_are_picked_by_name_and_normalised():
    sensor = S2.select(["blue", "green", "red", "nir"])
    x = torch.tensor([0.1, 0.2, 0.3, 0.4]).view(1, 1, 4, 1, 1).expand(1, 1, 4, 4, 4).contiguous()
    view = seen(batch(sensor, x), spec(RGB))["sentinel2-l2a"]
    assert torch.allclose(view.x[0, 0, :, 0, 0], torch.tensor([1.0, 0.5, 0.0]))


def test_invalid_pixels_are_the_mean():
    valid = torch.ones(1, 1, 1, 4, 4, dtype=torch.bool)
    valid[..., 0, 0] = False
    view = seen(batch(S2, valid=valid), spec(RGB))["sentinel2-l2a"]
    assert (view.x[..., 0, 0] == 0).all() and (view.x[..., 1, 1] == 1).all()


def test_missing_band_is_refused_or_mapped_as_said():
    lacking = batch(S2.select(["green", "red"]))
    with pytest.raises(UserError, match="needs the band blue"):
        seen(lacking, spec(RGB))
    view = seen(lacking, spec(RGB), Adaptation(bands="mean"))["sentinel2-l2a"]
    assert view.present == (True, True, False) and (view.x[:, :, 2] == 0).all()
    assert "blue is missing" in view.notes[0]


def test_another_sensor_needs_a_substitute_and_nearest_says_the_distance():
    landsat = SENSORS.get("landsat8-sr").select(["blue", "green", "red"])
    with pytest.raises(UserError, match="takes sentinel2-l2a"):
        seen(batch(landsat), spec(RGB))
    view = seen(batch(landsat), spec(RGB), Adaptation({"sentinel2-l2a": "landsat8-sr"}, bands="nearest"))
    notes = view["sentinel2-l2a"].notes
    assert "substitute" in notes[0] and any("nm apart" in n for n in notes)


def test_radar_into_optical_only_by_name():
    radar = batch(SENSORS.get("sentinel1-grd"), torch.full((1, 1, 2, 4, 4), -10.0))
    with pytest.raises(UserError):
        seen(radar, spec(RGB))
    view = seen(radar, spec(RGB), Adaptation(sar="vv-vh-vv"))["sentinel2-l2a"]
    assert view.x.shape[2] == 3 and torch.equal(view.x[:, :, 0], view.x[:, :, 2])
    assert "(vv, vh, vv)" in view.notes[0]


def test_units_are_converted_or_refused():
    want = Input("sentinel1-grd", ("vv", "vh"), "linear")
    view = seen(batch(SENSORS.get("sentinel1-grd"), torch.full((1, 1, 2, 4, 4), -10.0)), spec(want))
    assert torch.allclose(view["sentinel1-grd"].x, torch.tensor(0.1))
    wrong = Input("sentinel1-grd", ("vv", "vh"), "kelvin")
    with pytest.raises(UserError, match="no conversion"):
        seen(batch(SENSORS.get("sentinel1-grd")), spec(wrong))


def test_any_bands_takes_what_has_statistics():
    view = seen(batch(S2.select(["red", "nir"])), spec(any_bands=True))["sentinel2-l2a"]
    assert view.sensor.names == ("red", "nir")
    with pytest.raises(UserError, match="has none"):
        seen(batch(SENSORS.get("worldview")), spec(any_bands=True))


def test_required_input_is_asked_for():
    from dataclasses import replace

    need = replace(RGB, required=True)
    with pytest.raises(UserError, match="needs sentinel2-l2a"):
        seen(batch(SENSORS.get("sentinel1-grd")), spec(need))


def test_galileo_decoder_predicts_hidden_tokens_only():
    from swath.models.encoders._galileo_decoder import GalileoDecoder
    from swath.models.encoders.galileo import GalileoShape

    torch.manual_seed(0)
    shape = GalileoShape(dim=32, depth=1, heads=4, patch=4)
    decoder = GalileoDecoder(shape, depth=1).eval()
    sizes = ((1, 2, 2, 1, 7), (1, 2, 2, 3), (1, 1, 3), (1, 4))
    tokens = [torch.randn(*s, 32) for s in sizes]
    mask = [torch.ones(s) for s in sizes]
    mask[0][..., 1] = 0
    mask[0][..., 2] = 2
    months = torch.zeros(1, 1, dtype=torch.int64)
    out = decoder(tokens, mask, months, 1.0)
    tokens[0] = tokens[0].clone()
    tokens[0][..., 2, :] += 9.0 * torch.randn(32)  # what stands at a hidden place is never read
    again = decoder(tokens, mask, months, 1.0)
    assert out[0].shape == tokens[0].shape and torch.equal(out[0][..., 2, :], again[0][..., 2, :])
    tokens[0][..., 1, :] += 9.0 * torch.randn(32)  # the same for all channels would fall to a norm
    assert not torch.allclose(decoder(tokens, mask, months, 1.0)[0][..., 2, :], out[0][..., 2, :])
