"""Masks: counts, missing tokens, independence of the batch, and the public mistakes they do not repeat."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokens import S1, S2, Tiny, make_batch

from swath.core import Tokens, UserError, generator, per_sample
from swath.objectives.masks import IGNORE, MASKS, MISSING, TARGET, VISIBLE, Plan, draw
from swath.objectives.masks.blocks import Blocks
from swath.objectives.masks.cross import Cross
from swath.objectives.masks.dirichlet import Dirichlet
from swath.objectives.masks.random import Random
from swath.objectives.masks.tube import Tube
from swath.objectives.masks.whole import Whole


def tokens(b=3, t=3, rows=4, cols=5, sensors=2, valid=None):
    parts = [(s, 0, i, r, c) for s in range(sensors) for i in range(t) for r in range(rows) for c in range(cols)]
    place = torch.tensor(parts)
    seen = torch.ones(b, len(place), dtype=torch.bool) if valid is None else valid
    names = tuple(f"s{i}" for i in range(sensors))
    return Tokens(torch.randn(b, len(place), 8), seen, place, names, ((rows, cols),) * sensors)


def plan_of(mask, t=None, seed=0):
    t = t or tokens()
    return draw(mask, t, per_sample(generator(seed), torch.arange(len(t.x)), "mask"))


@pytest.mark.parametrize("name", MASKS.names())
def test_every_mask_shows_and_hides_and_respects_missing(name):
    valid = torch.ones(3, 120, dtype=torch.bool)
    valid[1, :30] = False
    plan = plan_of(MASKS.get(name)(), tokens(valid=valid))
    assert (plan.state[1, :30] == MISSING).all()
    assert (plan.state[0] != MISSING).all()
    assert plan.visible.any(1).all()
    assert plan.target.any(1).all()


@pytest.mark.parametrize("name", MASKS.names())
def test_a_sample_is_masked_alike_in_any_batch(name):
    t = tokens(b=4)
    whole = plan_of(MASKS.get(name)(), t)
    from dataclasses import replace

    part = draw(MASKS.get(name)(), replace(t, x=t.x[2:], valid=t.valid[2:]),
                per_sample(generator(0), torch.tensor([2, 3]), "mask"))  # fmt: skip
    assert torch.equal(whole.state[2:], part.state)
    other = plan_of(MASKS.get(name)(), t, seed=1)
    assert not torch.equal(other.state, whole.state)


@given(st.integers(2, 60), st.floats(0.05, 0.95), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_random_counts(n, ratio, missing):
    present = torch.ones(n, dtype=torch.bool)
    present[: min(missing, n - 1)] = False
    state = Random(ratio).states(torch.zeros(n, 5, dtype=torch.int64), present, tokens(), generator(n))
    state = torch.where(present, state, MISSING)
    have = int(present.sum())
    hidden = int((state == TARGET).sum())
    assert hidden + int((state == VISIBLE).sum()) == have
    assert hidden == min(max(round(have * ratio), 1), have - 1)


def test_random_can_ignore_a_part():
    plan = plan_of(Random(0.8, predict=0.5))
    assert [(plan.state[0] == s).sum().item() for s in (VISIBLE, TARGET, IGNORE)] == [24, 48, 48]


def test_tube_hides_the_same_places_everywhere():
    t = tokens()
    plan = plan_of(Tube(0.5), t)
    grid = plan.state[0].view(2, 3, 4, 5)
    assert (grid == grid[0, 0]).all()
    assert (grid[0, 0] == TARGET).sum() == 10


@pytest.mark.parametrize("axis", ["time", "chunk", "sensor"])
def test_whole_hides_slices(axis):
    plan = plan_of(Whole(axis, 0.5))
    grid = plan.state[0].view(2, 3, 20)
    assert (grid == grid[:, :, :1]).all()
    if axis == "chunk":
        assert (grid[0] == grid[1]).all()
        assert torch.equal(grid[0, :, 0].diff().ne(0).sum().clamp_max(2), grid[0, :, 0].diff().ne(0).sum())
    if axis == "sensor":
        assert (grid[0] != grid[1]).all()


def test_blocks_hide_aligned_squares_and_exact_shares():
    t = tokens(rows=8, cols=8, sensors=1, t=2)
    squares = plan_of(Blocks(0.6, side=2), t).state[0].view(2, 4, 2, 4, 2)
    assert (squares == squares[:, :, :1, :, :1]).all()
    assert (squares[0, :, 0, :, 0] == TARGET).sum() == 10  # ceil(16 * 0.6)
    free = plan_of(Blocks(0.6), t).state.view(3, 2, 64)
    assert ((free == TARGET).sum(2) == round(64 * 0.6)).all()


def test_dirichlet_budget_is_exact_and_shares_vary():
    plan = plan_of(Dirichlet(visible=30), tokens(b=40))
    assert (plan.visible.sum(1) == 30).all()
    first = plan.visible[:, :60].sum(1)
    assert first.min() < 8
    assert first.max() > 22
    assert 10 < first.float().mean() < 20


def test_trap_6_a_structured_mask_is_never_all_ignored():
    """Galileo's public random mask sets every token to one state by `(mask != 0) | (mask != 2)`."""
    plan = plan_of(Cross(), tokens(b=30))
    for state in plan.state:
        assert len(state.unique()) >= 2
        assert (state == VISIBLE).any()
        assert (state == TARGET).any()


def test_cross_never_encodes_maps():
    plan = plan_of(Cross(predict_only=("s1",)), tokens(b=30))
    assert not plan.visible[:, 60:].any()
    assert plan.target[:, 60:].any()


def test_trap_13_the_default_mixture_is_valid():
    """Presto's public default strategies fail their own assertion."""
    mask = MASKS.get("mixed")()
    assert len(mask.members()) == 4
    kinds = {str(plan_of(mask, tokens(b=1, t=4), seed=i).state.view(2, 4, 20)[:, :, 0].tolist()) for i in range(12)}
    assert len(kinds) > 3


def test_plan_spread_is_the_inverse_of_keep():
    plan = plan_of(Random(0.6), tokens(valid=torch.rand(3, 120, generator=generator(1)) > 0.3))
    assert (plan.keep == 120).any(), "rows of unlike length are padded"
    t = plan.padded(tokens())
    kept = t.x.gather(1, plan.keep[..., None].expand(-1, -1, 8))
    back = plan.spread(kept, torch.full((8,), 7.0))
    assert torch.equal(back[plan.visible], tokens_x(t)[plan.visible])
    assert (back[~plan.visible] == 7).all()


def tokens_x(t):
    return t.x[:, :120]


def test_padding_changes_no_encoding():
    """A sample beside a longer one is encoded as it is alone."""
    encoder, batch = Tiny(), make_batch(holes=True)
    plan, alone = [], []
    with torch.no_grad():
        t = encoder.tokenize(batch)
        plan = draw(Random(0.5), t, per_sample(generator(0), batch.where.key, "mask"))
        full = plan.spread(encoder.encode(plan.padded(t), plan.keep), torch.zeros(32))
        for i in range(len(batch)):
            one = encoder.tokenize(batch[i])
            mine = Plan.of(plan.state[i : i + 1])
            alone.append(mine.spread(encoder.encode(mine.padded(one), mine.keep), torch.zeros(32)))
    torch.testing.assert_close(full, torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert S1 and S2


def test_seeing_nothing_is_refused():
    class Nothing:
        kind = "nothing"

        def states(self, place, present, t, g):
            return torch.full((len(place),), TARGET, dtype=torch.uint8)

    with pytest.raises(UserError, match="nothing to see"):
        plan_of(Nothing())
