"""Raw pixels: the map is the values, the vector their moments over what is valid."""

import pytest
import torch

from swath.core import SENSORS, Batch, Layer, UserError, Where
from swath.models import build_encoder


def batch(t=1, hole=False):
    s2 = SENSORS.get("sentinel2-l2a").select(["blue", "green", "red", "nir"])
    x = torch.rand(2, t, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.4
    if hole:
        x[0, 0, :, :4] = float("nan")
    return Batch({s2.id: Layer.of(s2, x, times=torch.zeros(2, t, dtype=torch.int64))}, Where.unknown(2))


def test_values_and_moments():
    encoder = build_encoder({"kind": "pixels", "steps": 3})
    found = encoder(batch(3))
    assert found.maps[0].shape == (2, 12, 8, 8) and found.pooled.shape == (2, 24)
    assert torch.allclose(found.pooled[:, :12], found.maps[0].mean((-1, -2)), atol=1e-6)
    assert torch.allclose(found.pooled[:, 12:], found.maps[0].std((-1, -2), correction=0), atol=1e-5)
    with pytest.raises(UserError, match="1 timesteps for 3"):
        encoder(batch(1))


def test_holes_do_not_count():
    encoder = build_encoder("pixels")
    whole, part = encoder(batch()), encoder(batch(hole=True))
    assert torch.allclose(part.pooled[0, :4], whole.maps[0][0, :, 4:].mean((-1, -2)), atol=1e-6)
    assert torch.allclose(part.pooled[1], whole.pooled[1]) and not part.maps[0][0, :, :4].any()
