"""Where a map may speak: what some date shows, and for a change what every date shows."""

from types import SimpleNamespace

import torch

from swath.core import SENSORS, Batch, Layer, Where, Window
from swath.deploy.compute import _valid


def test_a_change_is_not_mapped_where_a_date_is_hidden():
    sensor = SENSORS.get("sentinel2-l2a").select(["red", "nir"])
    valid = torch.ones(1, 2, 1, 4, 4, dtype=torch.bool)
    valid[:, 0, ..., :1] = False
    valid[:, 1, ..., 3:] = False
    height = Layer.of(SENSORS.get("copdem"), torch.zeros(1, 1, 1, 4, 4))
    moving = Layer(sensor, torch.zeros(1, 2, 2, 4, 4), valid, None)
    batch = Batch({sensor.id: moving, "copdem": height}, Where.unknown(1))
    for every, columns in ((False, [True] * 4), (True, [False, True, True, False])):
        plan = SimpleNamespace(spec=SimpleNamespace(inputs=(), every_date=every))
        assert _valid(plan, batch, Window(0, 0, 4, 4)).tolist() == [columns] * 4
