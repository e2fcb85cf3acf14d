"""Identities of the published scores."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from swath.bench.scores import objects
from swath.bench.scores.events import Contingency, anomaly_correlation, tail_quantile_error
from swath.bench.scores.relative import KG_PER_V100_HOUR, arp, kg_co2, table
from swath.bench.shift import Point, effective_robustness, leave_one_out, mean_ranks, residuals
from swath.core import UserError

count = st.integers(0, 10_000)
tables = st.builds(Contingency, count, count, count, count)


@given(tables)
def test_contingency_identities(t):
    s = t.scores()
    if t.hits and t.false_alarms + t.misses:
        # 1/CSI = 1/POD + 1/(1-FAR) - 1
        assert 1 / s["csi"] == pytest.approx(1 / s["pod"] + 1 / (1 - s["far"]) - 1)
    if np.isfinite(s["hss"]) and np.isfinite(s["gss"]):
        assert s["hss"] == pytest.approx(2 * s["gss"] / (1 + s["gss"]), abs=1e-9)
        assert -1 - 1e-9 <= s["hss"] <= 1 + 1e-9


@given(tables, tables)
def test_contingency_adds(a, b):
    assert (a + b).hits == a.hits + b.hits and (a + b).rejections == a.rejections + b.rejections


def test_a_perfect_and_a_random_forecast():
    x = np.random.default_rng(0).gamma(1, 5, 20000)
    assert Contingency.of(x, x, 10.0).scores() == {"pod": 1, "far": 0, "csi": 1, "hss": 1, "gss": 1}
    assert abs(Contingency.of(np.random.default_rng(1).permutation(x), x, 10.0).scores()["hss"]) < 0.02
    assert anomaly_correlation(2 * x, x) == pytest.approx(1) and tail_quantile_error(1.1 * x, x) == pytest.approx(0.1)


def squares(places, size=64):
    mask = np.zeros((size, size), np.uint8)
    for r, c, n in places:
        mask[r : r + n, c : c + n] = 1
    return mask


def test_objects_by_hand():
    truth = squares([(2, 2, 10), (20, 20, 10), (40, 40, 10)])
    got = squares([(2, 2, 10), (20, 23, 10), (50, 2, 5), (45, 45, 10)])
    # the second shares 70 of 130 pixels (IoU .54), the last 25 of 175 (.14)
    assert objects.match_objects(got, truth) == objects.Matches(2, 2, 1)
    assert objects.match_objects(got, truth).scores()["f1"] == pytest.approx(4 / 7)
    half = squares([(0, 0, 10)])
    half[:, 5:] = 0  # IoU of exactly one half is no match: the threshold is strict
    assert objects.match_objects(half, squares([(0, 0, 10)])).tp == 0
    with pytest.raises(UserError, match="match two"):
        objects.match_objects(got, truth, 0.4)


@given(st.integers(0, 2**32 - 1))
def test_objects_are_symmetric_and_shapely_agrees(seed):
    rng = np.random.default_rng(seed)
    places = [
        (int(r), int(c), int(n)) for r, c, n in zip(*rng.integers(2, 50, (2, 6)), rng.integers(2, 12, 6), strict=True)
    ]
    truth = squares(places)
    got = squares([(r + int(rng.integers(0, 3)), c, n) for r, c, n in places])
    one, two = objects.match_objects(got, truth), objects.match_objects(truth, got)
    assert (one.tp, one.fp, one.fn) == (two.tp, two.fn, two.fp)
    from rasterio.features import shapes
    from shapely.geometry import shape

    polygons = [[shape(g) for g, v in shapes(m, connectivity=4) if v == 1] for m in (got, truth)]
    hits = sum(any(p.intersection(t).area > 0.5 * p.union(t).area for t in polygons[1]) for p in polygons[0])
    assert one.tp == hits and one.tp + one.fp == len(polygons[0]) and one.tp + one.fn == len(polygons[1])


def test_field_pixels_and_consensus():
    truth = np.array([[1, 1, 2, 3], [0, 0, 1, 3]])
    got = np.array([[1, 0, 1, 1], [2, 0, 1, 1]])
    assert objects.pixel_scores(got, truth)["iou"] == pytest.approx(2 / 4)
    assert objects.consensus(np.stack([got, got])) == 1
    assert objects.km2_per_second(10_000, 10.0, 2.0) == pytest.approx(0.5)


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0.01, 1), min_size=1, max_size=6), st.floats(-0.5, 2))
def test_arp_of_a_scaled_model_is_the_scale(base, gain):
    assert arp({k: v * (1 + gain) for k, v in base.items()}, base) == pytest.approx(gain, abs=1e-9)
    assert arp(base, base) == 0


def test_arp_refuses_other_tasks_and_knows_the_co2_constant():
    with pytest.raises(UserError, match=r"\['b'\]"):
        arp({"a": 1.0}, {"a": 1.0, "b": 1.0})
    assert kg_co2(768) == pytest.approx(109.44) and pytest.approx(0.1425) == KG_PER_V100_HOUR
    rows = table({"x": {"a": 0.6}, "base": {"a": 0.5}}, "base", {"x": 768})
    assert rows[0]["model"] == "x" and rows[0]["ARP %"] == pytest.approx(20) and "kg CO2e" not in rows[1]


points = st.lists(
    st.builds(Point, st.sampled_from("abc"), st.text("xyz", min_size=1), st.floats(0, 1), st.floats(0, 1)),
    min_size=6, max_size=20,
)  # fmt: skip


@given(points)
def test_rho_has_zero_mean_over_the_fitted_points(rows):
    assume(np.ptp([p.inside for p in rows]) > 1e-3)
    assert residuals(rows).mean() == pytest.approx(0, abs=1e-9)


def test_robustness_finds_the_one_that_holds_up():
    rng = np.random.default_rng(0)
    rows = [Point(m, f"t{i}", x, 0.8 * x - 0.1 + (0.1 if m == "a" else 0) + rng.normal(0, 0.01))
            for m in "abcd" for i, x in enumerate(rng.uniform(0.4, 0.9, 6))]  # fmt: skip
    found = effective_robustness(rows, repeats=300)
    assert max(found.rho, key=found.rho.get) == "a" and found.low["a"] > 0 > found.high["b"]
    assert leave_one_out(rows)["a"] == pytest.approx(0.1, abs=0.03)
    assert mean_ranks([found.rho, found.rho])["a"] == 1
    with pytest.raises(UserError, match="every shift"):
        mean_ranks([{"a": 1.0}, {"b": 1.0}])
