"""Splits hold for any samples: disjoint, whole groups, the buffer kept, the past before the future."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from swath.core.errors import UserError
from swath.data.footprints import RADIUS_M, great_circle_m, nearest_m
from swath.data.splits import Samples, SplitRule, audit, block_groups, deal, split

FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}


@st.composite
def samples(draw, least=30):
    n = draw(st.integers(least, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    centre = np.array(
        [draw(st.sampled_from([-179.9, -60.0, 0.0, 25.0, 179.9])), draw(st.sampled_from([-75.0, 0.0, 52.0, 80.0]))]
    )
    spread = draw(st.sampled_from([0.5, 3.0, 30.0]))
    lonlat = centre + rng.normal(0, spread, (n, 2)) * [1, 0.3]
    lonlat[:, 1] = lonlat[:, 1].clip(-89, 89)
    lonlat[:, 0] = (lonlat[:, 0] + 180) % 360 - 180
    return Samples(
        tuple(f"s{i}" for i in range(n)), lonlat, rng.uniform(0, 900, n), rng.integers(10000, 12000, n).astype(float),
        {"event": [f"e{v}" for v in rng.integers(0, 12, n)]}, rng.integers(0, 50, (n, 3)).astype(float),
    )  # fmt: skip


def slow_distance(a, b):
    """Haversine, written another way than the product's chord."""
    lon, lat, lon2, lat2 = (np.radians(v) for v in (*a, *b))
    h = np.sin((lat2 - lat) / 2) ** 2 + np.cos(lat) * np.cos(lat2) * np.sin((lon2 - lon) / 2) ** 2
    return 2 * RADIUS_M * np.arcsin(np.sqrt(min(1.0, h)))


def check_partition(found, n):
    rows = np.concatenate([*found.parts.values(), found.dropped])
    assert sorted(rows.tolist()) == list(range(n))
    assert all(len(r) for r in found.parts.values())


@settings(max_examples=60, deadline=None)
@given(samples(), st.sampled_from(["blocks", "event", "random", "time"]), st.integers(0, 5))
def test_disjoint_and_complete(given_samples, rule, seed):
    try:
        found = split(given_samples, SplitRule(rule, FRACTIONS, size_m=30_000, seed=seed))
    except UserError:
        assume(False)
    check_partition(found, len(given_samples))
    again = split(given_samples, SplitRule(rule, FRACTIONS, size_m=30_000, seed=seed))
    assert all((again.parts[k] == v).all() for k, v in found.parts.items())


@settings(max_examples=60, deadline=None)
@given(samples(), st.floats(100, 40_000), st.floats(5_000, 200_000))
def test_buffer_is_kept(given_samples, buffer_m, size_m):
    how = SplitRule("blocks", FRACTIONS, size_m=size_m, buffer_m=buffer_m)
    try:
        found = split(given_samples, how)
    except UserError:
        assume(False)
    check_partition(found, len(given_samples))
    owner = found.of(len(given_samples))
    radius, places = given_samples.radius_m, given_samples.lonlat
    for i in range(len(given_samples)):
        for j in range(i):
            if owner[i] and owner[j] and owner[i] != owner[j]:
                assert slow_distance(places[i], places[j]) - radius[i] - radius[j] >= buffer_m - 1e-3


@settings(max_examples=40, deadline=None)
@given(samples(), st.integers(0, 9))
def test_groups_stay_whole(given_samples, seed):
    events = given_samples.columns["event"]
    assume(len(set(events)) >= 3)
    owner = split(given_samples, SplitRule("event", FRACTIONS, seed=seed)).of(len(given_samples))
    assert all(len({o for o, e in zip(owner, events, strict=True) if e == name}) == 1 for name in set(events))


@settings(max_examples=40, deadline=None)
@given(samples(), st.floats(0, 60))
def test_time_goes_forward(given_samples, gap):
    try:
        found = split(given_samples, SplitRule("time", FRACTIONS, gap_days=gap))
    except UserError:
        assume(False)
    days = given_samples.days
    for before, after in (("train", "val"), ("val", "test")):
        assert days[found.parts[before]].max() < days[found.parts[after]].min() - gap + 1e-9 + (gap == 0)
    check_partition(found, len(given_samples))


@settings(max_examples=40, deadline=None)
@given(samples(), st.floats(3_000, 80_000))
def test_blocks_are_as_large_as_they_say(given_samples, size_m):
    places = given_samples.lonlat
    groups = block_groups(places, size_m)
    for name in set(groups):
        rows = [i for i, g in enumerate(groups) if g == name]
        for i in rows:
            assert slow_distance(places[rows[0]], places[i]) <= 2.2 * size_m


@settings(max_examples=30, deadline=None)
@given(samples())
def test_audit_is_the_brute_force_minimum(given_samples):
    found = split(given_samples, SplitRule("random", FRACTIONS))
    places = given_samples.lonlat
    for leak in audit(given_samples, found.parts):
        brute = min(slow_distance(places[i], places[j]) for i in found.parts[leak.a] for j in found.parts[leak.b])
        assert leak.nearest_m == pytest.approx(brute, rel=1e-6, abs=0.01)
        i, j = given_samples.names.index(leak.sample), given_samples.names.index(leak.neighbour)
        assert slow_distance(places[i], places[j]) == pytest.approx(brute, rel=1e-6, abs=0.01)


def test_stratified_shares_are_near():
    rng = np.random.default_rng(0)
    n = 3000
    groups = [f"g{v}" for v in rng.integers(0, 150, n)]
    classes = np.eye(4)[rng.choice(4, n, p=[0.7, 0.2, 0.08, 0.02])]
    classes[[g in ("g1", "g2", "g3", "g4") for g in groups]] = [0, 0, 0, 1]
    parts = deal(groups, FRACTIONS, 0, classes)
    for name, share in FRACTIONS.items():
        got = classes[parts[name]].sum(0) / classes.sum(0)
        assert np.abs(got - share).max() < 0.08, (name, got)


def test_across_the_date_line_and_the_pole():
    far, which = nearest_m(np.array([[179.99, 10.0], [0.0, 89.99]]), np.array([[-179.99, 10.0], [180.0, 89.99]]))
    assert (
        which.tolist() == [0, 1] and far[0] == pytest.approx(2190, rel=0.01) and far[1] == pytest.approx(2224, rel=0.01)
    )
    assert great_circle_m(np.array([[0.0, 0.0]]), np.array([[180.0, 0.0]]))[0] == pytest.approx(np.pi * RADIUS_M)
