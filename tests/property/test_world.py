"""Any window of any size at any place is a pure function of the absolute pixel: windows fit, bit for bit."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swath.world import Frame, World, day_of
from swath.world.noise import fbm, hash_grid, smooth, sub

SENSORS = {"sentinel2-l2a": None, "sentinel2-l1c": ["blue", "cirrus", "nir09"], "sentinel1-grd": None, "copdem": None}
LABELS = ["land_cover", "crop_type", "field_boundary", "burn_scar", "flood", "cloud", "canopy_height"]
DAYS = [day_of(2021, 1, 20), day_of(2021, 7, 3)]
PLACES = [(10.0, 52.0), (77.0, 27.0), (-60.2, -33.1), (139.5, 36.0), (30.0, 0.0), (9.0, 46.6), (-64.5486, -31.9258),
          (25.0, 0.002), (12.6, -10.5), (-100.0, 61.0)]  # fmt: skip


def crop(batch, frame, part):
    """The window `part` of a batch over `frame`."""
    r, c = part.row - frame.row, part.col - frame.col
    out = {}
    for k, layer in batch.layers.items():
        if layer.sensor.id == "copdem":
            s = 3
            out[k] = layer.x[..., r // s : (r + part.height) // s, c // s : (c + part.width) // s]
        else:
            out[k] = layer.x[..., r : r + part.height, c : c + part.width]
            out[k + "?"] = layer.valid[..., r : r + part.height, c : c + part.width]
    for k, label in batch.labels.items():
        out["label " + k] = label.value[..., r : r + part.height, c : c + part.width]
    return out


@settings(max_examples=8, deadline=None)
@given(
    place=st.sampled_from(PLACES),
    cut=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    off=st.tuples(st.integers(-40, 40), st.integers(-40, 40)),
)
def test_adjacent_windows_fit(place, cut, off):
    world = World(11, clouds=1.5)
    base = world.frame(place, 60)
    frame = Frame(10.0, base.row + 6 * off[0], base.col + 6 * off[1], 60, 60)
    whole = world.window(frame, SENSORS, DAYS, LABELS)
    r, c = 6 * cut[0], 6 * cut[1]
    for top, left, h, w in ((0, 0, r, c), (0, c, r, 60 - c), (r, 0, 60 - r, c), (r, c, 60 - r, 60 - c)):
        part = Frame(10.0, frame.row + top, frame.col + left, h, w)
        again = world.window(part, SENSORS, DAYS, LABELS)
        want, got = crop(whole, frame, part), crop(again, part, part)
        for name in want:
            assert torch.equal(want[name], got[name]), name


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), row=st.integers(-700_000, 700_000), col=st.integers(-1_700_000, 1_700_000),
    wavelength=st.sampled_from([25.0, 90.0, 777.0, 5_000.0, 90_000.0]), gsd=st.sampled_from([0.5, 3.0, 10.0, 30.0]),
)  # fmt: skip
def test_noise_is_a_function_of_place(seed, row, col, wavelength, gsd):
    whole = smooth(Frame(gsd, row, col, 40, 50), seed, wavelength)
    part = smooth(Frame(gsd, row + 13, col + 7, 9, 31), seed, wavelength)
    assert np.array_equal(whole[13:22, 7:38], part)
    assert np.abs(whole).max() < 7


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5, deadline=None)
def test_noise_has_unit_deviation(seed):
    field = smooth(Frame(10.0, 0, 0, 300, 300), seed, 40.0)
    assert abs(field.mean()) < 0.1 and 0.9 < field.std() < 1.1
    hashes = hash_grid(seed, np.arange(-64, 64), np.arange(-64, 64))
    assert len(np.unique(hashes)) > 16_370
    assert abs(np.bitwise_count(hashes).mean() - 16) < 0.15


def test_octaves_finer_than_the_pixels_are_left_out():
    frame = Frame(30.0, 5, 5, 20, 20)
    assert np.array_equal(fbm(frame, 3, ((500.0, 1.0), (50.0, 1.0))), fbm(frame, 3, ((500.0, 1.0),)))
    assert sub(3, "a") != sub(3, "b") != sub(4, "b")


@pytest.mark.parametrize("gsd", [1.0, 3.0, 30.0])
def test_other_pixel_sizes_fit_too(gsd):
    world = World(3)
    sensor = {1.0: "naip", 3.0: "planet-superdove", 30.0: "hls-s30"}[gsd]
    frame = world.frame((10.3, 51.9), 48, gsd)
    whole = world.window(frame, [sensor], DAYS[1:], ["objects"])
    part = world.window(Frame(gsd, frame.row + 24, frame.col, 24, 48), [sensor], DAYS[1:])
    assert torch.equal(whole.layers[sensor].x[..., 24:, :], part.layers[sensor].x)


PROBE = """
import hashlib, sys
from swath.world import World, day_of
sensors, days = ["sentinel2-l2a", "sentinel1-rtc"], [day_of(2022, 5, 1)]
b = World(5).batch([(10.0, 52.0), (77.0, 27.0)], 36, sensors, days, ["crop_type"])
h = hashlib.sha256()
for v in b.layers.values():
    h.update(v.x.numpy().tobytes() + v.valid.numpy().tobytes())
h.update(b.labels["crop_type"].value.numpy().tobytes())
print(h.hexdigest())
"""


def test_two_processes_agree_bit_for_bit():
    runs = [subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout and len(runs[0].stdout.strip()) == 64
