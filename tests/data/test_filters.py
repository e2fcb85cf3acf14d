"""Quality limits, series of dates as Prithvi-EO-2.0 draws them, and the fill that really fills."""

import numpy as np
import pytest
import torch

from swath.core import SENSORS, Batch, Layer, Where
from swath.core.errors import UserError
from swath.data.filters import QualityFilter, SeriesRule, choose_series, cloud_share, fill_nearest, missing_share


def test_limits_and_shares():
    keep = QualityFilter().keep(np.array([0.2, 0.21, 0.0, np.nan]), np.array([0.01, 0.0, 0.011, 0.0]))
    assert keep.tolist() == [True, False, False, False]
    valid = torch.ones(1, 2, 1, 10, 10, dtype=torch.bool)
    valid[0, 1, 0, 0, :2] = False
    layer = Layer.of(SENSORS.get("sentinel1-grd"), torch.zeros(1, 2, 2, 10, 10), valid)
    assert missing_share(layer)[0].tolist() == pytest.approx([0.0, 0.02])
    batch = Batch({layer.sensor.id: layer}, Where.unknown(1))
    assert not QualityFilter().keeps(batch) and QualityFilter(missing=0.02).keeps(batch)
    scl = np.array([[[8, 9], [4, 4]], [[4, 4], [4, 4]]])
    assert cloud_share(scl, (8, 9, 10)).tolist() == [0.5, 0.0]
    with pytest.raises(UserError):
        QualityFilter(cloud=20)


@pytest.mark.parametrize("seed", range(5))
def test_series_keep_the_gaps_and_use_a_date_once(seed):
    rng = np.random.default_rng(seed)
    days = np.sort(rng.choice(3650, 400, replace=False)) + 16000
    cloud, missing = rng.random(400) ** 4, rng.random(400) * 0.07
    rule = SeriesRule(enough=0)
    series = choose_series(days, cloud, missing, rule, seed)
    assert series == choose_series(days, cloud, missing, rule, seed)
    assert len(series) >= 3
    used = [i for s in series for i in s]
    assert len(set(used)) == len(used)
    for s in series:
        gaps = np.diff(days[list(s)])
        assert 4 <= len(s) <= 16 and gaps.min() >= 28 and gaps.max() <= 84
        assert (cloud[list(s)] <= 0.15).all() and (missing[list(s)] <= 0.05).all()


def test_relaxed_when_there_are_too_few_and_given_up_in_the_end():
    days, cloud = np.arange(0, 400, 40), np.full(10, 0.3)
    assert choose_series(days, cloud, np.zeros(10), SeriesRule(enough=0)) == []
    assert choose_series(days, cloud, np.zeros(10), SeriesRule(enough=1))
    assert choose_series(days, np.full(10, 0.7), np.zeros(10)) == []
    assert choose_series([], [], []) == []
    four = choose_series(np.arange(0, 120, 30), np.zeros(4), np.zeros(4))
    assert four == [(0, 1, 2, 3)]


def test_rare_seasons_are_drawn_first():
    days = np.concatenate([np.arange(0, 120, 30), *[np.arange(1000, 1120, 30) + k for k in range(12)]])
    first = [
        choose_series(days, np.zeros(len(days)), np.zeros(len(days)), SeriesRule(enough=0), s)[0] for s in range(200)
    ]
    rare = sum(days[s[0]] < 500 for s in first) / 200
    assert rare > 0.2  # a thirteenth of the series, drawn far more often


def test_rules_that_cannot_end_are_refused():
    with pytest.raises(UserError):
        SeriesRule(relax=0.0)
    with pytest.raises(UserError):
        SeriesRule(min_days=90, max_days=30)


def test_fill_really_fills():
    x = np.array([[1.0, -9999, -9999, 4.0, -9999], [-9999, 2.0, -9999, -9999, -9999], [-9999] * 5])
    out = fill_nearest(x, x == -9999)
    assert out[0].tolist() == [1, 1, 4, 4, 4] and out[1].tolist() == [2] * 5 and np.isnan(out[2]).all()
    assert not (out == -9999).any() and x[0, 1] == -9999
