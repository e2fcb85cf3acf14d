"""Variance shares: against a direct two-way analysis of variance, and on designs whose answer is known."""

import numpy as np
import pytest

from swath.bench.study import Design, decompose, design, omega, varies
from swath.core import Result, UserError


def records(effect, seeds=4, noise=0.01):
    rng = np.random.default_rng(0)
    return [
        Result(
            protocol="p", dataset="d", encoder=f"{a}{b}{c}", tuning="full", seed=s, metric="m", origin="rerun",
            value=0.5 + effect(a, b, c) + noise * rng.standard_normal(),
            controls={"data": f"d{a}", "architecture": f"a{b}", "algorithm": f"g{c}"},
        )
        for a in range(2) for b in range(3) for c in range(2) for s in range(seeds)
    ]  # fmt: skip


def test_the_factor_that_matters_is_found():
    plan = design(records(lambda a, b, c: 0.2 * a))
    assert plan.values.shape == (2, 3, 2, 4)
    shares = decompose(plan, repeats=300)
    assert shares[0].term == "data" and shares[0].share > 0.95 and shares[0].low > 0.9
    assert all(abs(s.share) < 0.02 for s in shares[1:])


def test_an_interaction_is_no_main_effect():
    shares = {s.term: s.share for s in decompose(design(records(lambda a, b, c: 0.1 * (a ^ c))), repeats=100)}
    assert shares["data x algorithm"] > 0.9 and abs(shares["data"]) < 0.05 and abs(shares["algorithm"]) < 0.05


def test_noise_alone_explains_nothing():
    shares = decompose(design(records(lambda a, b, c: 0.0, seeds=8)), repeats=200)
    assert shares[0].term.startswith("seeds") and shares[0].share > 0.7


def test_sums_of_squares_by_hand():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 4, 5))
    got = omega(x)
    grand = x.mean()
    ss_a = 20 * ((x.mean((1, 2)) - grand) ** 2).sum()
    ss_b = 15 * ((x.mean((0, 2)) - grand) ** 2).sum()
    ss_cells = 5 * ((x.mean(2) - grand) ** 2).sum()
    mse = ((x - x.mean(2, keepdims=True)) ** 2).sum() / (12 * 4)
    total = ((x - grand) ** 2).sum()
    assert got[0,] == pytest.approx((ss_a - 2 * mse) / (total + mse))
    assert got[1,] == pytest.approx((ss_b - 3 * mse) / (total + mse))
    assert got[0, 1] == pytest.approx((ss_cells - ss_a - ss_b - 6 * mse) / (total + mse))


def test_a_hole_and_missing_controls_are_named():
    rows = records(lambda a, b, c: 0.0)
    with pytest.raises(UserError, match="d0 x a0 x g0"):
        design([r for r in rows if r.encoder != "000"])
    bare = Result(protocol="p", dataset="d", encoder="e", tuning="f", seed=0, metric="m", value=0.0, origin="rerun")
    with pytest.raises(UserError, match="for e"):
        design([bare])
    assert varies(rows) == {"data": 2, "architecture": 3, "algorithm": 2}
    assert isinstance(design(rows), Design)
