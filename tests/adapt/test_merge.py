"""Merging: what must hold for every merger, hand examples, the choice of checkpoints, files and their records."""

import json
import math
from itertools import permutations

import pytest
import torch
from safetensors.torch import load_file, save_file

from swath.adapt.merge import MERGERS, Parents
from swath.adapt.merge._choose import Point, comparable, equal_loss
from swath.adapt.merge._diagnose import barrier, diagnose
from swath.adapt.merge._run import family_of, merge, save
from swath.adapt.merge._states import open_parent
from swath.adapt.merge.dare import Dare
from swath.adapt.merge.greedy import Greedy
from swath.adapt.merge.magmax import MagMax
from swath.adapt.merge.slerp import Slerp
from swath.adapt.merge.task_arithmetic import TaskArithmetic
from swath.adapt.merge.ties import Ties
from swath.adapt.merge.uniform import Uniform
from swath.adapt.merge.wise_ft import WiseFt
from swath.core.errors import UserError


def state(seed, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    return {
        "a": scale * torch.randn(3, 4, generator=g),
        "b": (scale * torch.randn(5, generator=g)).to(torch.bfloat16),
        "count": torch.tensor(seed),
    }


def written(folder, name, values, licence="CC0-1.0"):
    place = folder / name
    place.mkdir(parents=True)
    save_file(values, place / "encoder.safetensors")
    (place / "card.json").write_text(json.dumps({"name": name, "encoder": {"kind": "x"}, "licence": licence}))
    return open_parent(place)


@pytest.fixture
def family(tmp_path):
    base = written(tmp_path, "base", state(0))
    near = [{k: v + state(i, 0.1)[k] if v.is_floating_point() else v for k, v in base.state.items()} for i in (1, 2, 3)]
    return base, [written(tmp_path, f"p{i}", s) for i, s in enumerate(near)]


def equal(one, two, **near):
    assert one.keys() == two.keys()
    for k in one:
        assert one[k].dtype == two[k].dtype
        torch.testing.assert_close(one[k], two[k], **near)


ALL = [Uniform(), TaskArithmetic(), MagMax(), Ties(), Dare(drop=0.5), Slerp(), WiseFt(), Greedy()]


def test_every_merger_is_tested():
    assert {type(m).kind for m in ALL} == set(MERGERS.names())


@pytest.mark.parametrize("merger", ALL, ids=lambda m: m.kind)
def test_a_model_merged_with_itself_is_itself(merger, family):
    base, parents = family
    one = parents[0]
    n = merger.parents[1] or 3
    whole = {"task-arithmetic": TaskArithmetic(1 / n), "wise-ft": WiseFt(1.0), "ties": Ties(density=1.0),
             "dare": Dare(drop=0.0, then=TaskArithmetic(1 / n))}.get(merger.kind, merger)  # fmt: skip
    found = merge(whole, [one] * n, base, judge=lambda s: 0.0)
    equal(found, dict(one.state) | {"count": base.state["count"]})


@pytest.mark.parametrize("merger", [TaskArithmetic(0.0), MagMax(0.0), Ties(lam=0.0), WiseFt(0.0)], ids=lambda m: m.kind)
def test_no_step_is_the_base(merger, family):
    base, parents = family
    equal(merge(merger, parents[: merger.parents[1]], base), dict(base.state))


@pytest.mark.parametrize("merger", [Uniform(), TaskArithmetic(), MagMax(), Ties(), Dare(drop=0.5), Greedy()],
                         ids=lambda m: m.kind)  # fmt: skip
def test_the_order_of_parents_changes_no_bit(merger, family):
    base, parents = family
    found = [merge(merger, p, base, judge=lambda s: float(s["a"].sum())) for p in permutations(parents)]
    for other in found[1:]:
        assert all(torch.equal(found[0][k], other[k]) for k in other)


def test_task_arithmetic_by_hand():
    base = {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    states = [{"w": torch.tensor([2.0, 2.0]).double()}, {"w": torch.tensor([1.0, 6.0]).double()}]
    given = Parents(states, ["a", "b"], base)
    assert TaskArithmetic(0.5).merge(given)["w"].tolist() == [1.5, 4.0]
    assert MagMax().merge(given)["w"].tolist() == [2.0, 6.0]


def test_ties_by_hand():
    """Four weights, half of each task vector stays: [4, -3, ., .] and [., 2, 5, .] and [., 2, ., -6]."""
    taus = [[4.0, -3.0, 1.0, 0.5], [1.0, 2.0, 5.0, -0.5], [-1.0, 2.0, 1.0, -6.0]]
    base = {"w": torch.zeros(2).double(), "v": torch.zeros(2).double()}
    states = [{"w": torch.tensor(t[:2]).double(), "v": torch.tensor(t[2:]).double()} for t in taus]
    found = Ties(density=0.5).merge(Parents(states, ["a", "b", "c"], base))
    # second weight: -3 + 2 + 2 = 1, so the positive ones win and their mean is 2
    assert found["w"].tolist() == [4.0, 2.0] and found["v"].tolist() == [5.0, -6.0]


def test_dare_keeps_the_expectation(family):
    base, parents = family
    given = family_of(parents, base)
    mean = {k: torch.zeros_like(v) for k, v in given.taus[0].items()}
    for seed in range(2000):
        for k, v in Dare(drop=0.5, seed=seed).thinned(given.taus[0]).items():
            mean[k] += v / 2000
    torch.testing.assert_close(mean["a"], given.taus[0]["a"], atol=0.02, rtol=0.1)


def test_slerp_keeps_the_length_and_halves_the_angle():
    one, two = {"w": torch.tensor([1.0, 0.0]).double()}, {"w": torch.tensor([0.0, 1.0]).double()}
    found = Slerp(0.5).merge(Parents([one, two], ["a", "b"]))["w"]
    torch.testing.assert_close(found, torch.tensor([math.sqrt(0.5)] * 2).double())
    third = Slerp(1 / 3).merge(Parents([one, two], ["a", "b"]))["w"]
    assert float(torch.atan2(third[1], third[0])) == pytest.approx(math.pi / 6)
    still = Slerp().merge(Parents([one, one], ["a", "b"]))["w"]
    assert torch.equal(still, one["w"])


def test_a_greedy_soup_leaves_out_what_spoils_it(family):
    _, parents = family
    target = (parents[0].state["a"].double() + parents[1].state["a"].double()) / 2
    found = merge(Greedy(), parents, judge=lambda s: -float((s["a"] - target).norm()))
    torch.testing.assert_close(found["a"], target.float())
    with pytest.raises(UserError, match="tastes"):
        merge(Greedy(), parents)


def test_models_that_differ_are_refused(family, tmp_path):
    base, parents = family
    other = dict(base.state)
    cases = {
        "1 are new: c": {**other, "c": torch.zeros(1)},
        "1 tensors of": {k: v for k, v in other.items() if k != "b"},
        "'a' is \\(4, 3\\) here": {**other, "a": other["a"].T.contiguous()},
        "not finite": {**other, "a": other["a"] * float("nan")},
    }
    for i, (words, values) in enumerate(cases.items()):
        with pytest.raises(UserError, match=words) as error:
            merge(Uniform(), [parents[0], written(tmp_path, f"odd{i}", values)])
        assert f"odd{i}" in str(error.value.where)
    with pytest.raises(UserError, match="--base"):
        merge(Ties(), parents)
    with pytest.raises(UserError, match="takes 2 parents"):
        merge(Slerp(), parents)


def test_what_is_written_says_where_it_came_from(family, tmp_path):
    base, parents = family
    strict = written(tmp_path, "strict", dict(parents[0].state), licence="CC-BY-NC-4.0")
    done = save(
        tmp_path / "out", merge(TaskArithmetic(), [*parents, strict], base), TaskArithmetic(), [*parents, strict], base
    )
    card = json.loads((tmp_path / "out/card.json").read_text())
    assert card["licence"] == "CC-BY-NC-4.0 AND CC0-1.0" and card["encoder"] == {"kind": "x"}
    assert [p["sha256"] for p in card["merge"]["parents"]] == [p.sha256 for p in [*parents, strict]]
    assert card["merge"]["base"]["sha256"] == base.sha256 and card["merge"]["merger"] == {
        "kind": "task-arithmetic",
        "lam": 0.5,
    }
    equal(load_file(tmp_path / "out/encoder.safetensors"), done.state)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_diagnosis_of_known_steps():
    base = {"w": torch.zeros(4).double()}
    one, two = {"w": torch.tensor([1.0, 1, 0, 0]).double()}, {"w": torch.tensor([-1.0, 1, 0, 2]).double()}
    found = diagnose(
        Parents([one, two], ["a", "b"], base, judge=lambda s: float(-(((s["w"][0]) ** 2 - 1) ** 2))), points=3
    )
    assert found.norms == pytest.approx([math.sqrt(2), math.sqrt(6)])
    assert found.cosines[0][1] == pytest.approx(0) and found.conflicts[0][1] == 0.5
    assert found.barriers[0][1] == pytest.approx(1.0) and found.paths["a to b"] == pytest.approx([0, -1, 0])
    assert barrier([1.0, 2.0, 1.0]) == 0.0


def curve(*losses):
    return [Point(100 * i, v) for i, v in enumerate(losses)]


def test_equal_loss_on_a_toy():
    """Loss 1.0 is where both have been; the first run's best, .8, is not in reach of the second."""
    found = equal_loss({"a": curve(9.0, 1.0, 0.8), "b": curve(9.0, 1.4, 1.01)}, slack=1.5)
    assert {k: p.step for k, p in found.points.items()} == {"a": 100, "b": 200}
    assert found.spread == pytest.approx(0.01) and found.mean == pytest.approx(1.005)


def test_equal_loss_at_the_start_does_not_count():
    found = equal_loss({"a": curve(9.0, 2.0, 1.0), "b": curve(9.0, 2.5, 1.3)})
    assert {p.step for p in found.points.values()} == {200}


def test_of_equal_spreads_the_lower_loss_wins():
    found = equal_loss({"a": curve(2.0, 1.5, 1.0), "b": curve(2.1, 1.6, 1.1)}, slack=9)
    assert [p.loss for p in found.points.values()] == [1.0, 1.1]


@pytest.mark.parametrize("seed", range(20))
def test_equal_loss_is_the_best_of_all_choices(seed):
    g = torch.Generator().manual_seed(seed)
    runs = {n: curve(*torch.rand(6, generator=g).tolist()) for n in "abc"}
    found = equal_loss(runs, slack=10)
    best = min(
        (max(t) - min(t), sum(t) / 3)
        for t in ((a.loss, b.loss, c.loss) for a in runs["a"] for b in runs["b"] for c in runs["c"])
        if max(t) <= 10 * max(min(p.loss for p in r) for r in runs.values())
    )
    assert (found.spread, found.mean) == pytest.approx(best)


def test_normalised_losses_of_sensors_on_other_scales():
    radar, optical = curve(40.0, 24.0, 20.0), curve(4.0, 3.0, 2.0)
    found = equal_loss({"s1": radar, "s2": optical}, slack=99, normalise=True)
    assert {k: p.step for k, p in found.points.items()} == {"s1": 200, "s2": 200}


def test_equal_losses_on_other_scales_are_told_from_equal_training():
    """Radar's best is what optical bands have at their first step: the bare numbers undo the optical run."""
    runs = {"s1": curve(1.0, 0.8, 0.7), "s2": curve(0.9, 0.68, 0.4, 0.2)}
    bare, scaled = equal_loss(runs), equal_loss(runs, normalise=True)
    assert bare.points["s2"].step == 100 and bare.ways["s2"] == pytest.approx(0.22 / 0.7) and bare.ways["s1"] == 1.0
    assert bare.apart and not scaled.apart and scaled.ways == {"s1": 1.0, "s2": 1.0}
    flat = equal_loss({"a": curve(1.0, 1.0), "b": curve(1.0, 1.0)})
    assert flat.ways == {"a": 1.0, "b": 1.0} and not flat.apart


def test_losses_of_other_objectives_are_refused():
    with pytest.raises(UserError, match="'norm_pix' of the objective is False here and True in a"):
        comparable({"a": {"kind": "mae", "norm_pix": True}, "b": {"kind": "mae", "norm_pix": False}})
    comparable({"a": {"kind": "mae"}, "b": {"kind": "mae"}})
    with pytest.raises(UserError, match="no checkpoint with a finite loss"):
        equal_loss({"a": curve(float("nan"))})
