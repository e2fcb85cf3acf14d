"""The world against published statistics of Sentinel-1 and Sentinel-2 pretraining sets (facts in the sensor files)."""

import numpy as np
import pytest

from swath.core import SENSORS
from swath.world import World, day_of

DAYS = [day_of(2021, 2, 14), day_of(2021, 5, 20), day_of(2021, 8, 10), day_of(2021, 11, 5)]


@pytest.fixture(scope="module")
def sample():
    """A global land sample: 60 places, four dates."""
    world = World(7, clouds=1.0)
    sites = world.sites(60, seed=5)
    return world.batch(
        sites, 24, ["sentinel2-l2a", "sentinel2-l1c", "sentinel1-rtc", "sentinel1-grd"], DAYS, ["land_cover"]
    )


def pixels(layer):
    return layer.x.permute(2, 0, 1, 3, 4).reshape(layer.shape[2], -1).numpy()


def test_sentinel2_means_and_deviations(sample):
    """Means within 35 % of the published ones, deviations within a factor of two."""
    sensor = SENSORS.get("sentinel2-l2a")
    x = pixels(sample.layers["sentinel2-l2a"])
    for band, row in zip(sensor.bands, x, strict=True):
        assert 0.65 * band.mean < row.mean() < 1.35 * band.mean, (band.name, row.mean(), band.mean)
        assert 0.5 * band.std < row.std() < 2 * band.std, (band.name, row.std(), band.std)


def test_bands_go_together_as_on_earth(sample):
    x = np.corrcoef(pixels(sample.layers["sentinel2-l2a"]))
    i = SENSORS.get("sentinel2-l2a").index
    assert x[i("blue"), i("green")] > 0.95 and x[i("green"), i("red")] > 0.93
    assert x[i("nir"), i("nir08")] > 0.98 and x[i("rededge078"), i("nir")] > 0.97
    assert x[i("swir16"), i("swir22")] > 0.85
    assert x[i("blue"), i("swir16")] < x[i("blue"), i("green")]


def test_the_top_of_the_atmosphere_is_bluer(sample):
    top, low = (sample.layers[k] for k in ("sentinel2-l1c", "sentinel2-l2a"))
    clear = low.valid.expand(-1, -1, 1, -1, -1)[:, :, 0]

    def mean(layer, band):
        return float(layer.x[:, :, layer.sensor.index(band)][clear].mean())

    assert mean(top, "coastal") > mean(low, "coastal") + 0.03
    assert abs(mean(top, "nir08") - mean(low, "nir08")) < 0.05
    assert float(top.x[:, :, top.sensor.index("cirrus")][clear].mean()) < 0.03


@pytest.mark.parametrize("product", ["sentinel1-rtc", "sentinel1-grd"])
def test_radar_means(sample, product):
    """Within 2.5 dB of the published means, deviations within a factor of two."""
    for band, row in zip(SENSORS.get(product).bands, pixels(sample.layers[product]), strict=True):
        assert abs(row.mean() - band.mean) < 2.5, (band.name, row.mean(), band.mean)
        assert 0.5 * band.std < row.std() < 2 * band.std, (band.name, row.std(), band.std)


def test_ndvi_and_ndwi_by_class():
    """In local summer: forest green, bare land not, water wet."""
    world = World(7, clouds=0.0)
    ranges = {"tree cover": (0.55, 0.95), "cropland": (0.15, 0.9), "bare or sparse": (0.0, 0.3), "water": (-1.0, 0.15)}
    found = {}
    from swath.world import LABELS

    for near in ("forest", "cropland", "bare", "water"):
        sites = world.sites(4, seed=2, near=near)
        for site in sites:
            day = day_of(2021, 7, 15) if site.lat > 0 else day_of(2021, 1, 15)
            b = world.batch([site], 48, {"sentinel2-l2a": ["green", "red", "nir"]}, [day], ["land_cover"])
            g, r, n = b.layers["sentinel2-l2a"].x[0, 0].numpy()
            for k, name in enumerate(LABELS["land_cover"].classes):
                here = b.labels["land_cover"].value[0].numpy() == k
                if here.sum() > 40:
                    found.setdefault(name, []).append(
                        (float(((n - r) / (n + r))[here].mean()), float(((g - n) / (g + n))[here].mean()))
                    )
    for name, (low, high) in ranges.items():
        ndvi = float(np.mean([v[0] for v in found[name]]))
        assert low < ndvi < high, (name, ndvi)
    assert np.mean([v[1] for v in found["water"]]) > 0.15 > np.mean([v[1] for v in found["tree cover"]])


def test_speckle_has_the_stated_looks():
    from swath.world.radar import LOOKS, speckle_db

    power = 10 ** (speckle_db() / 10)
    assert power.mean() == pytest.approx(1.0, abs=0.01)
    assert power.mean() ** 2 / power.var() == pytest.approx(LOOKS, rel=0.05)
