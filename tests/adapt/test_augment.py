"""Augmentation moves layers, dates and labels together, keeps values physical, and depends on the address alone."""

from dataclasses import replace

import pytest
import tiny_adapt as tiny
import torch

from swath.adapt.augment import Augment, crop, mirror, turn, zoom
from swath.core.batch import Batch, Layer
from swath.core.errors import UserError
from swath.core.sensors import SENSORS


def marked(sample):
    """The mask written into every band: whatever moves one must move the other."""
    layer, label = sample.layers[tiny.SENSOR.id], sample.labels["what"]
    x = label.value[:, None, None].float().expand(1, layer.shape[1], 4, *label.value.shape[1:]) / 10
    coarse = Layer.of(SENSORS.get("sentinel1-grd"), x[..., :2, ::4, ::4].clone())
    return Batch(
        {tiny.SENSOR.id: Layer.of(tiny.SENSOR, x.clone()), "sentinel1-grd": coarse}, sample.where, sample.labels
    )


@pytest.mark.parametrize(
    "change", [mirror, lambda b: turn(b, 1), lambda b: turn(b, 3), lambda b: crop(b, 16, 0.7, 0.3)]
)
def test_geometry_moves_everything_together(change):
    out = change(marked(tiny.TinySource(dates=2).sample(3)))
    mask = out.labels["what"].value
    for t in range(2):
        assert torch.equal((out.layers[tiny.SENSOR.id].x[:, t, 0] * 10).round().long(), mask)
    s1 = out.layers["sentinel1-grd"].x[:, 0, 0]
    assert s1.shape[-1] * 4 == mask.shape[-1]
    cells = torch.nn.functional.interpolate((s1 * 10)[None], scale_factor=4)[0].round().long()
    assert torch.equal(cells, mask)


def test_boxes_move_with_their_masks():
    sample = tiny.ObjectSource().sample(2)
    for change in (mirror, lambda b: turn(b, 1), lambda b: turn(b, 2), lambda b: turn(b, 3)):
        for box, m in zip(o.xyxy, o.masks, strict=True) if (o := change(sample).labels["what"].objects[0]) else ():
            rows, cols = m.nonzero(as_tuple=True)
            want = [int(cols.min()), int(rows.min()), int(cols.max()) + 1, int(rows.max()) + 1]
            assert box.tolist() == want
    cut = crop(sample, 16, 0.5, 0.5).labels["what"]
    assert cut.value.tolist() == [[16, 16]] and all(o.masks.shape[1:] == (16, 16) for o in cut.objects)
    with pytest.raises(UserError, match="does not move boxes"):
        zoom(sample, 1.5, 0.1, 0.1)


def test_the_address_decides():
    sample = tiny.TinySource(dates=2).sample(1)
    transform = Augment(True, True, 16, 0.3, 0.1, 0.02, 4, 0.2, 0.5, 0.0).transform(0)
    a, b, c = transform(sample, 0), transform(sample, 0), transform(sample, 1)
    x = tiny.SENSOR.id
    assert torch.equal(a.layers[x].x, b.layers[x].x) and not torch.equal(a.layers[x].x, c.layers[x].x)
    assert Augment().transform(0) is None


def test_one_date_and_one_sensor_always_stay():
    sample = marked(tiny.TinySource(dates=3).sample(1))
    for epoch in range(20):
        out = Augment(date_drop=0.99, sensor_drop=0.99, band_drop=0.9).transform(0)(sample, epoch)
        assert any(bool(v.valid.any()) for v in out.layers.values())


def test_radiometry_is_physical():
    sample = tiny.TinySource().sample(1)
    layer = sample.layers[tiny.SENSOR.id]
    hazy = Augment(haze=0.05).transform(0)(sample, 1).layers[tiny.SENSOR.id]
    added = (hazy.x - layer.x).mean((0, 1, 3, 4))
    assert bool((added[:-1] > added[1:]).all()), "haze falls with the wavelength"
    gained = Augment(gain=0.2).transform(0)(sample, 1).layers[tiny.SENSOR.id].x / layer.x
    assert float(gained.std()) < 1e-4, "a gain is one number a sample"
    radar = Layer.of(SENSORS.get("sentinel1-grd"), torch.full((1, 1, 2, 64, 64), -12.0))
    batch = Batch({"sentinel1-grd": radar}, sample.where)
    speckled = Augment(speckle=4).transform(0)(batch, 0).layers["sentinel1-grd"].x
    power = 10 ** (speckled / 10)
    assert float(power.mean()) == pytest.approx(10**-1.2, rel=0.05)
    assert float((power.std() / power.mean()) ** -2) == pytest.approx(4, rel=0.15)


def test_invalid_pixels_stay_as_they_are():
    sample = tiny.TinySource().sample(1)
    layer = sample.layers[tiny.SENSOR.id]
    hole = replace(layer, valid=layer.valid & False)
    out = Augment(gain=0.2, haze=0.1, band_drop=0.5).transform(0)(Batch({tiny.SENSOR.id: hole}, sample.where), 0)
    assert torch.equal(out.layers[tiny.SENSOR.id].x, layer.x)
