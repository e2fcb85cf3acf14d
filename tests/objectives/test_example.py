"""Rasters are seldom complete: samples, and whole batches, that lack a sensor."""

from dataclasses import replace

import pytest
import torch
from cases import CASES
from tiny_tokens import S1, S2, Tiny, TinySource, make_batch

from swath.core import SwathWarning, UserError, generator
from swath.core.config import parse_member
from swath.objectives import OBJECTIVES, Kit
from swath.objectives.pretraining.example import Complete, example_of, having
from swath.train import Feed


class Gappy(TinySource):
    """The first samples have no radar, and the optical layer comes second where both are there."""

    def sample(self, index, bands=None):
        batch = super().sample(index, bands)
        names = [S2.id] if index < 3 else [S1.id, S2.id]
        return replace(batch, layers={n: batch.layers[n] for n in names})


def test_the_example_has_every_sensor_in_the_source_s_order():
    example = example_of(Feed(Gappy(8)), range(8))
    assert list(example.layers) == [S2.id, S1.id]
    assert torch.equal(example.layers[S1.id].x, make_batch(1, first=3).layers[S1.id].x)
    assert list(example_of(Feed(Gappy(3)), range(3)).layers) == [S2.id], "what nobody has is left out"


def test_a_batch_is_completed_with_nothing():
    example = make_batch(1)
    batch = make_batch(3, sensors=(S1,))
    whole = Complete(example)(batch)
    assert list(whole.layers) == [S2.id, S1.id]
    assert whole.layers[S1.id] is batch.layers[S1.id]
    assert whole.layers[S2.id].shape == (3, 2, 4, 16, 16)
    assert not whole.layers[S2.id].valid.any()
    assert Complete(example)(make_batch(2)).layers.keys() == example.layers.keys()


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_objective_takes_a_batch_that_lacks_a_sensor(name):
    """The loss is finite and so is its gradient, also where a pair of sensors is asked for and nobody has both."""
    given, how = CASES[name]
    torch.manual_seed(0)
    encoder = Tiny((S2, S1))
    teacher = Tiny((S2, S1), width=16, seed=9) if name in ("distill", "sum") else None
    complete = Complete(make_batch(1, **{k: v for k, v in how.items() if k != "sensors"}))
    module = parse_member({"kind": name, **given}, OBJECTIVES).build(Kit(encoder, complete.example, teacher))
    more = {k: v for k, v in how.items() if k != "sensors"}
    for sensors in ((S2,), (S1,)):
        if name == "mpmae" and sensors == (S1,):
            continue  # it sees one sensor; without that there is nothing to see
        step = module(complete(make_batch(4, sensors=sensors, **more)), generator(3))
        assert torch.isfinite(step.loss), sensors
        step.loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None), sensors
        module.zero_grad()


def test_samples_without_a_wanted_layer_are_left_out_with_a_word():
    class Told(Gappy):
        def holds(self, index):
            return set(self.sample(index).layers)

        def splits(self):
            return {"train": range(6), "val": range(6, 8)}

    source = Told(8)
    assert having(source, None) is source
    assert having(source, {S2.id: ["red"]}) is source
    with pytest.warns(SwathWarning, match="3 of 8 samples have nothing of sentinel1-rtc"):
        found = having(source, {S1.id: ["vv"]})
    assert found.splits() == {"train": [3, 4, 5], "val": [6, 7]}
    assert list(found.sample(4).layers) == [S1.id, S2.id]
    assert found.fingerprint == source.fingerprint
    with pytest.raises(UserError, match="no sample has any of copdem"):
        having(source, {"copdem": ["elevation"]})
