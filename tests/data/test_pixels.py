"""Pixel time series: Presto's real arrays, generated arrays and tables."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from swath.core import UserError, collate
from swath.data.open import open_source
from swath.data.sources.pixels import PixelsConfig

CARD = """name = "p"
[layout]
kind = "pixels"
[[layer]]
sensor = "sentinel2-l2a"
bands = ["red", "nir"]
scale = 0.0001
offset = 0.0
[[layer]]
sensor = "sentinel1-grd"
bands = ["vv"]
first = 2
[[label]]
kind = "scalar"
name = "moisture"
"""


def test_real_series_of_presto(shared):
    source = open_source("presto-fuel-moisture", path=shared / "real" / "presto_fuel_moisture")
    raw = np.load(shared / "real" / "presto_fuel_moisture" / "s1_s2_era5_srtm.npy")
    assert len(source) == len(raw) and set(source.splits()) == {"train", "test"}
    batch = collate([source.sample(i) for i in (0, 17, 2312)])
    s2 = batch.layers["sentinel2-l1c"]
    assert s2.shape == (3, 3, 11, 1, 1) and s2.times is None
    np.testing.assert_allclose(s2.x[1, :, 7, 0, 0], raw[17, :, 9] * 1e-4, rtol=1e-5)
    assert 250 < float(batch.layers["era5"].x[:, :, 0].mean()) < 310, "kelvin"
    assert batch.where.lonlat[0].tolist() == pytest.approx([-110.62335, 43.748628])
    dated = PixelsConfig(
        str(shared / "real" / "presto_fuel_moisture"),
        card="presto-fuel-moisture",
        values="s1_s2_era5_srtm.npy",
        months="month.npy",
        year=2018,
    ).build()
    assert dated.sample(1).layers["sentinel2-l1c"].times.tolist() == [[17850, 17880, 17911]]  # months 10, 11, 0


def test_a_table_with_missing_dates_and_cells(tmp_path):
    names = ("key", "date", "B04", "B08", "vv", "lon", "lat", "moisture")
    rows = [
        ("b", "2020-02-01", 2000, 3000, -12.0, 3.0, 4.0, 7.0),
        ("b", "2020-01-01", 1000, None, -11.0, 3.0, 4.0, 7.0),
        ("a", "2020-01-05", 500, 900, None, 1.0, 2.0, None),
    ]
    rows = [dict(zip(names, row, strict=True)) for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    (tmp_path / "card.toml").write_text(CARD)
    source = open_source(tmp_path / "p.parquet")
    assert source.names == ("b", "a")
    layer = source.sample(0).layers["sentinel2-l2a"]
    assert layer.valid[0, :, 0, 0, 0].tolist() == [False, True] and layer.times.tolist() == [[18262, 18293]]
    assert float(layer.x[0, 1, 1]) == pytest.approx(0.3)
    second = source.sample(1)
    assert second.layers["sentinel2-l2a"].valid[0, :, 0, 0, 0].tolist() == [True, False]
    assert not second.layers["sentinel1-grd"].valid.any() and not second.labels["moisture"].valid.any()


def test_what_does_not_fit_is_named(tmp_path):
    (tmp_path / "card.toml").write_text(CARD)
    np.save(tmp_path / "values.npy", np.zeros((4, 2, 2)))
    with pytest.raises(UserError, match="layer sentinel1-grd needs 3 channels, the file has 2"):
        PixelsConfig(str(tmp_path)).build()
    np.save(tmp_path / "values.npy", np.zeros((4, 2, 3)))
    np.save(tmp_path / "latlon.npy", np.zeros((3, 2)))
    with pytest.raises(UserError, match=r"shape \(3, 2\); \(4, 2\) is needed"):
        PixelsConfig(str(tmp_path)).build()
    (tmp_path / "values.npy").write_bytes(b"\x93NUMPY\x01")
    with pytest.raises(UserError, match="cannot be read"):
        PixelsConfig(str(tmp_path)).build()
    pq.write_table(pa.table({"key": ["a"], "B04": [1]}), tmp_path / "p.parquet")
    with pytest.raises(UserError, match="no column for band nir"):
        PixelsConfig(str(tmp_path / "p.parquet")).build()
