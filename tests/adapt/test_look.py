"""The look at the training split before a run: enough samples, spread over all, and more while a class is unseen."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swath.adapt import prepare
from swath.adapt.prepare import look, spread
from swath.core import SENSORS, Batch, Label, LabelSpec, Layer, Where


class Counted:
    """A source of masks in which only one late sample shows the second class."""

    name = "counted"

    def __init__(self, rare):
        self.rare, self.asked = rare, []

    def sample(self, index, bands=None):
        self.asked.append(index)
        sensor = SENSORS.get("sentinel2-l2a").select(("red",))
        x = torch.full((1, 1, 1, 4, 4), float(index))
        value = torch.full((1, 4, 4), int(index == self.rare))
        return Batch(
            {sensor.id: Layer.of(sensor, x)}, Where.unknown(1), {"mask": Label("mask", value, torch.ones(1, 4, 4) > 0)}
        )


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(prepare, "LOOKS", 8)
    monkeypatch.setattr(prepare, "MOST_LOOKS", 64)


LABEL = LabelSpec("mask", "mask", classes=("a", "b"))
RUN = SimpleNamespace(augment=SimpleNamespace(crop=0), task=None)
BANDS = {"sentinel2-l2a": ("red",)}


def test_a_class_unseen_is_looked_for(few):
    early, late = Counted(rare=0), Counted(rare=37)
    assert look(early, range(64), LABEL, BANDS, RUN).total == 8 and len(early.asked) == 8
    found = look(late, range(64), LABEL, BANDS, RUN)
    assert bool((found.counts > 0).all()) and 8 < found.total <= 64
    absent = look(Counted(rare=-1), range(200), LABEL, BANDS, RUN)
    assert absent.total == 64 and absent.counts[1] == 0


def test_a_short_look_is_spread_over_the_split(few):
    found = look(Counted(rare=0), range(64), LABEL, BANDS, RUN)
    mean, _ = found.statistics["sentinel2-l2a"]["red"]
    assert mean == pytest.approx(31.5, abs=4)


@given(st.integers(1, 400), st.integers(1, 128))
def test_spread_is_a_choice_without_repetition(n, most):
    chosen = spread(range(n), most)
    assert len(chosen) == min(n, most) == len(set(chosen)) and chosen[0] == 0 and set(chosen) <= set(range(n))
    for part in (4, 16, 64):
        if part <= len(chosen):
            gaps = sorted(chosen[:part])
            assert max(b - a for a, b in zip(gaps, [*gaps[1:], n], strict=True)) <= 4 * n / part + 2
