"""Every known sensor: order, ranges, uniqueness, aliases."""

import math

import pytest

from swath.core import SENSORS, UnknownName
from swath.core.sensor import Sensor, read_sensor

ALL = SENSORS.names()
PROMISED = """sentinel2-l1c sentinel2-l2a sentinel1-grd sentinel1-rtc landsat5-sr landsat7-sr landsat8-sr landsat9-sr
landsat5-toa landsat7-toa landsat8-toa landsat9-toa hls-l30 hls-s30 naip planet-superdove modis enmap gaofen2 copdem
worldcover dynamicworld era5 mars-ctx mars-hirise mars-themis rgb-aerial worldview"""
S2 = ["coastal", "blue", "green", "red", "rededge071", "rededge075", "rededge078"]
S2 += ["nir", "nir08", "nir09", "swir16", "swir22"]
SPANS = {
    "coastal": (420, 455), "blue": (450, 500), "green": (530, 570), "red": (630, 670), "yellow": (595, 625),
    "nir": (800, 870), "nir08": (855, 880), "nir09": (930, 960), "cirrus": (1360, 1390), "swir16": (1590, 1660),
    "swir22": (2120, 2230), "lwir11": (10700, 11500), "lwir12": (11900, 12100), "rededge071": (700, 730),
}  # fmt: skip


def test_every_promised_sensor_is_there():
    assert set(ALL) >= set(PROMISED.split())


@pytest.mark.parametrize("name", ALL)
def test_ranges(name):
    sensor: Sensor = SENSORS.get(name)
    assert sensor.id == name
    assert sensor.bands and sensor.title and sensor.source
    assert sensor.body == ("mars" if name.startswith("mars-") else "earth")
    for band in sensor.bands:
        assert 0.1 <= band.gsd <= 20_000
        assert band.low < band.high
        assert band.scale > 0 and math.isfinite(band.offset)
        if band.nm is not None:
            assert 300 <= band.nm <= 20_000
            assert band.fwhm and 5 <= band.fwhm <= 2200
            low, high = band.span_nm
            assert low > 300 and high < 20_000
        if band.mean is not None:
            assert band.std > 0 and band.low < band.mean < band.high
        if band.name in SPANS and sensor.body == "earth":
            assert SPANS[band.name][0] <= band.nm <= SPANS[band.name][1], (name, band.name)
    if sensor.dtype.startswith(("uint", "int")):
        bits = int(sensor.dtype.lstrip("uint"))
        low, high = (0, 2**bits - 1) if sensor.dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        assert sensor.nodata is None or low <= sensor.nodata <= high
        for band in sensor.bands:
            stored = (min(band.high, 1.0) - band.offset) / band.scale if band.unit == "reflectance" else band.high
            if band.unit in ("reflectance", "display", "class"):
                assert low <= stored <= high, f"{name} {band.name}: {stored} does not fit {sensor.dtype}"


@pytest.mark.parametrize("name", ALL)
def test_every_alias_resolves_to_one_band(name):
    sensor = SENSORS.get(name)
    assert len(set(sensor.names)) == len(sensor.names)
    for band in sensor.bands:
        for alias in (band.name, *band.aliases, *(a.lower() for a in band.aliases)):
            assert sensor.band(alias) is band
            owners = [b for b in sensor.bands if alias.lower() in {b.name.lower(), *(a.lower() for a in b.aliases)}]
            assert owners == [band]


@pytest.mark.parametrize("name", ["sentinel2-l2a", "sentinel2-l1c", "hls-s30", "planet-superdove", "mars-themis"])
def test_bands_rise_in_wavelength(name):
    nm = [b.nm for b in SENSORS.get(name).bands]
    assert nm == sorted(nm)


def test_sentinel2_order_and_storage():
    l2a, l1c = SENSORS.get("sentinel2-l2a"), SENSORS.get("sentinel2-l1c")
    assert list(l2a.names) == S2
    assert [n for n in l1c.names if n != "cirrus"] == S2
    assert l1c.index("cirrus") == 10
    assert all((b.scale, b.offset) == (0.0001, -0.1) for b in (*l2a.bands, *l1c.bands))
    assert [b.gsd for b in l2a.bands] == [60, 10, 10, 10, 20, 20, 20, 10, 20, 60, 20, 20]
    assert l2a.nodata == 0


def test_classes_of_the_land_cover_products():
    assert dict(SENSORS.get("worldcover").classes)[80] == "permanent water"
    assert [k for k, _ in SENSORS.get("dynamicworld").classes] == list(range(9))


def test_a_series_is_a_spectrometer():
    enmap = SENSORS.get("enmap")
    assert len(enmap.bands) == 224
    assert enmap.names[0] == "vnir001" and enmap.names[-1] == "swir133"
    assert enmap.bands[0].nm == 418.4 and enmap.bands[-1].nm == 2445.3
    match = enmap.nearest(SENSORS.get("sentinel2-l2a"), max_nm=7)
    assert not match.unmatched and len(match.pairs) == 12


@pytest.mark.parametrize("n", [8, 9])
def test_landsat_matches_hls(n):
    match = SENSORS.get(f"landsat{n}-sr").nearest(SENSORS.get("hls-l30").select(["blue", "red", "nir08", "swir22"]))
    assert {k: v[0] for k, v in match.pairs.items()} == {k: k for k in ("blue", "red", "nir08", "swir22")}


def test_an_unknown_sensor_and_band_name_the_nearest():
    with pytest.raises(UnknownName, match="sentinel2-l2a"):
        SENSORS.get("sentinel2-2a")
    with pytest.raises(UnknownName, match="rededge071"):
        SENSORS.get("sentinel2-l2a").band("rededge71")


def test_a_file_without_bands_is_refused(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('kind = "optical"\n')
    with pytest.raises(Exception, match="band"):
        read_sensor("x", path)
