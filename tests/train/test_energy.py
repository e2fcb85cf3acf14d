"""Energy: the method is said, and what cannot be measured is not hidden."""

import sys

import pytest
import torch

from swath.core import SwathWarning
from swath.train.energy import Energy, Meter

CPU = torch.device("cpu")


def burn():
    x = torch.rand(300, 300)
    for _ in range(200):
        x = (x @ x).tanh()


def test_estimate_grows_with_work_and_says_how():
    meter = Meter("estimate", Energy(), CPU)
    burn()
    first = meter.total()
    burn()
    second = meter.total()
    assert 0 < first.kwh < second.kwh
    assert second.kgco2e > 0
    assert second.methods == ("estimate: 8 W per busy core, PUE 1.2, 0.445 kg/kWh (world mean)",)


def test_it_goes_on_from_before():
    before = Energy(1.0, 0.5, 10.0, ("other",))
    total = Meter("estimate", before, CPU).total()
    assert total.kwh >= 1.0
    assert total.methods[0] == "other"
    assert Energy.of(total.record()) == total
    assert Meter("off", before, CPU).total() is before


def test_codecarbon_that_is_absent_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.warns(SwathWarning, match="estimated; codecarbon"):
        meter = Meter("codecarbon", Energy(), CPU)
    burn()
    assert "codecarbon could not be used" in meter.total().methods[0]


@pytest.mark.slow
def test_codecarbon_measures():
    pytest.importorskip("codecarbon")
    meter = Meter("codecarbon", Energy(), CPU)
    burn()
    total = meter.total()
    meter.stop()
    assert total.kwh > 0
    assert total.methods[0].startswith("codecarbon offline")
