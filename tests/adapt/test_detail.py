"""Pixels beside tokens: dates as moments, sensors that are missing, and edges finer than a patch."""

from dataclasses import replace

import pytest
import tiny_adapt as tiny
import torch
from test_tune import make

from swath.adapt.build import Recipe, assemble
from swath.adapt.detail import NEAR, Planes, around, moment_count, moments
from swath.adapt.prepare import prepare
from swath.adapt.tune import tune
from swath.core import config
from swath.core.batch import Batch, Label, Layer, Where
from swath.core.errors import SwathWarning
from swath.models import build_encoder
from swath.train import LoopConfig, optim


def layer(t, valid=None):
    x = torch.randn(2, t, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    days = torch.arange(t).expand(2, t) * 60 + 18_000
    return Layer(tiny.SENSOR, x, torch.ones(2, t, 1, 6, 6, dtype=torch.bool) if valid is None else valid, days)


def test_moments_of_all_dates_lose_nothing():
    for t in (1, 2, 3, 5):
        one = layer(t)
        found = moments(one, one.x, moment_count(t)).unflatten(1, (moment_count(t), 5))[:, :t, :4]
        order = (torch.arange(t) + 0.5) / t
        basis = torch.stack([torch.cos(torch.pi * k * order) for k in range(t)]) / t
        back = torch.einsum("tk,bkchw->btchw", torch.linalg.inv(basis), found)
        torch.testing.assert_close(back, one.x, atol=1e-4, rtol=1e-4)


def test_a_date_that_shows_nothing_counts_for_nothing_but_is_known():
    valid = torch.ones(2, 3, 1, 6, 6, dtype=torch.bool)
    valid[:, 1] = False
    one = layer(3, valid)
    other = one.x.clone()
    other[:, 1] = 99.0
    a, b = moments(one, one.x, 5), moments(one, other, 5)
    assert torch.equal(a, b) and torch.isfinite(a).all()
    told = [moments(layer(3, v), one.x, 5).unflatten(1, (5, 5))[:, :, 4] for v in (valid, valid.flip(1).roll(1, 1))]
    assert not torch.equal(*told)


def test_a_missing_sensor_is_zeros_and_said_so():
    statistics = {tiny.SENSOR.id: dict.fromkeys(tiny.SENSOR.names, (0.1, 0.2)), "sentinel1-rtc": {"vv": (-12.0, 3.0)}}
    planes = Planes(statistics, 1)
    source = tiny.TinySource("mask")
    batch = source.sample(0)
    found = planes(batch, (32, 32))
    assert found.shape == (1, 4 + 1 + 1 + 1, 32, 32) == (1, planes.width, 32, 32)
    assert bool((found[:, 4] == 1).all()) and bool((found[:, 5:] == 0).all())
    assert planes(Batch({}, batch.where), (8, 8)).abs().sum() == 0


def test_probes_have_no_pixels_and_others_do(tmp_path):
    source = tiny.TinySource("mask")
    want = {"full": 32, "lora": 32, "frozen": 0, "linear": 0}
    for tuning, channels in want.items():
        ready = prepare(make(tmp_path, task="segment", tuning=tuning), source)
        assert ready.recipe.task.detail == channels and ready.task.needs_pixels == bool(channels)
    assert prepare(make(tmp_path, task="segment", decoder="linear"), source).recipe.task.detail == 0


def test_edges_are_finer_than_a_patch(tmp_path):
    source = tiny.TinySource("mask", n=32)
    rest = {"trust": {"bootstrap": 10, "chips": 0}, "loop": {"epochs": 8, "batch_size": 8, "progress": False}}
    with_pixels = tune(make(tmp_path / "a", task="segment", **rest), source)
    without = tune(make(tmp_path / "b", task={"kind": "segment", "detail": 0}, **rest), source)
    assert with_pixels.scores["iou_macro"] > without.scores["iou_macro"] + 0.05


def test_pixels_learn_faster_and_sometimes_alone(tmp_path):
    source = tiny.TinySource("mask")
    module = prepare(make(tmp_path, task="segment"), source).task
    rows = optim.groups(module, LoopConfig(steps=1))
    scales = {n: g["scale"] for g in rows for n in g["names"]}
    assert {s for n, s in scales.items() if n.startswith("head.detail.")} == {3.0}
    assert {s for n, s in scales.items() if not n.startswith("head.detail.")} == {1.0}
    batch, detail = source.sample(0), module.head.detail
    deep = torch.randn(1, detail.deep.in_channels, 4, 4)
    seen = [detail.train()(x, batch, (32, 32)) for x in (deep, deep + 1) for _ in range(8)]
    same = sum(torch.equal(a, b) for a in seen[:8] for b in seen[8:])
    assert 0 < same < 64, "with its tokens hidden a sample's answer does not hear them, else it does"
    assert not torch.equal(*(detail.eval()(x, batch, (32, 32)) for x in (deep, deep + 1)))


def alike(n, seed=0, steps=1):
    """Samples whose four bands are nearly one: brightness, and small differences that mean something."""
    g = torch.Generator().manual_seed(seed)
    light = torch.randn(n, steps, 1, 16, 16, generator=g)
    other = torch.randn(n, steps, 4, 16, 16, generator=g)
    x = 0.3 + 0.1 * (light + 0.05 * other)
    where = Where(torch.arange(n), torch.zeros(n, 2, dtype=torch.float64))
    return Batch({tiny.SENSOR.id: Layer.of(tiny.SENSOR, x)}, where)


@pytest.mark.parametrize("steps", [1, 3])
def test_whitened_pixels_have_no_correlation(steps):
    batch = alike(6, steps=steps)
    planes = Planes({tiny.SENSOR.id: dict.fromkeys(tiny.SENSOR.names, (0.3, 0.1))}, steps)
    samples = [batch[i] for i in range(6)]
    wide = planes.count * 4
    before = torch.cat([planes(s, (16, 16)) for s in samples])[:, :wide].movedim(1, -1).flatten(0, -2)
    planes.whiten(samples)
    after = torch.cat([planes(s, (16, 16)) for s in samples])[:, :wide].movedim(1, -1).flatten(0, -2)
    assert torch.corrcoef(before[:, :4].T).abs().fill_diagonal_(0).max() > 0.9
    spread = torch.cov(after.T)
    assert spread.fill_diagonal_(0).abs().max() < 0.05 and after.mean(0).abs().max() < 0.05
    kept = after.std(0).sort(descending=True).values  # as many directions as dates and bands; moments may say more
    assert kept.max() < 1.1 and kept[4 * steps - 1] > 0.4


def test_what_is_not_seen_stays_nothing_when_whitened():
    batch = alike(6)
    known = {tiny.SENSOR.id: dict.fromkeys(tiny.SENSOR.names, (0.3, 0.1)), "copdem": {"elevation": (0.0, 1.0)}}
    planes = Planes(known, 1)
    with pytest.warns(SwathWarning, match="copdem"):
        planes.whiten([batch[i] for i in range(6)])
    layer = batch.layers[tiny.SENSOR.id]
    valid = layer.valid.clone()
    valid[..., :8] = False
    found = planes(Batch({tiny.SENSOR.id: replace(layer, valid=valid)}, batch.where), (16, 16))
    assert not found[..., :8].any() and found[:, :4, :, 8:].abs().min() > 0
    assert not found[:, 5:].any()  # a sensor that is missing


def test_few_pixels_whiten_a_little_and_more_whiten_more():
    """Samples of one pixel, as tables of pixels have: fewer than twice the moments were left as they came, unsaid."""
    batch = alike(6)
    x = batch.layers[tiny.SENSOR.id].x
    layer = Layer.of(tiny.SENSOR, x[..., :1, :1])
    tied = []
    for n in (0, 2, 6):
        planes = Planes({tiny.SENSOR.id: dict.fromkeys(tiny.SENSOR.names, (0.3, 0.1))}, 1)
        if n:
            planes.whiten([Batch({tiny.SENSOR.id: layer}, batch.where)[i] for i in range(n)])
        after = planes(batch, (16, 16))[:, :4].movedim(1, -1).flatten(0, -2)
        assert after.isfinite().all()
        spread = torch.linalg.eigvalsh(torch.cov(after.T))
        tied.append(float(spread[-1] / spread[0]))
    assert tied[0] > tied[1] > tied[2]


def test_a_sensor_that_no_sample_shows_is_said():
    batch = alike(6)
    known = {tiny.SENSOR.id: dict.fromkeys(tiny.SENSOR.names, (0.3, 0.1)), "copdem": {"elevation": (0.0, 1.0)}}
    with pytest.warns(SwathWarning, match="none of the 6 training samples looked at shows a pixel of copdem"):
        Planes(known, 1).whiten([batch[i] for i in range(6)])


def test_one_constant_band_does_not_blow_up():
    batch = alike(6)
    batch.layers[tiny.SENSOR.id].x[:, :, 2] = 0.3
    planes = Planes({tiny.SENSOR.id: dict.fromkeys(tiny.SENSOR.names, (0.3, 0.1))}, 1)
    planes.whiten([batch[i] for i in range(6)])
    assert planes(batch, (16, 16)).abs().max() <= 8


def test_means_around_a_pixel_are_over_what_is_seen():
    g = torch.Generator().manual_seed(3)
    x, seen = torch.randn(2, 3, 9, 8, generator=g), torch.rand(2, 1, 9, 8, generator=g) < 0.6
    for side, found in zip(NEAR, around(torch.where(seen, x, 0.0), seen), strict=True):
        r = side // 2
        for row, col in ((0, 0), (4, 3), (8, 7)):
            square = (..., slice(max(0, row - r), row + r + 1), slice(max(0, col - r), col + r + 1))
            some = seen[square].float()
            want = (x[square] * some).sum((2, 3)) / some.sum((2, 3)).clamp_min(1)
            torch.testing.assert_close(found[:, :, row, col], want, atol=1e-5, rtol=1e-5)


def test_logarithms_of_what_is_positive_tell_light_from_cover():
    """Half the light takes the same off all logarithms, whatever is lit; a mean below zero (decibels) has none."""
    known = {tiny.SENSOR.id: dict.fromkeys(tiny.SENSOR.names, (0.3, 0.06)), "sentinel1-rtc": {"vv": (-12.0, 3.0)}}
    planes = Planes(known, 1, wide=True)
    assert planes.logs == {tiny.SENSOR.id: [0, 1, 2, 3], "sentinel1-rtc": []}
    assert planes.width == (4 + 4 + 2 * 4 + 1) + (1 + 2 * 1 + 1)
    batch = alike(2)
    x = batch.layers[tiny.SENSOR.id].x

    def values(x):
        return planes.values(Batch({tiny.SENSOR.id: Layer.of(tiny.SENSOR, x)}, batch.where), tiny.SENSOR.id)[0]

    near = values(0.3 + 0.001 * x)
    torch.testing.assert_close(near[:, :4], near[:, 4:8], atol=2e-3, rtol=2e-2)
    bright = torch.rand_like(x) * 0.3 + 0.4
    lost = values(bright) - values(bright / 2)
    assert lost[:, 4:8].std() / lost[:, 4:8].mean() < 0.5 * lost[:, :4].std() / lost[:, :4].mean()


def test_bundles_of_before_see_bands_alone(tmp_path):
    ready = prepare(make(tmp_path, task="segment"), tiny.TinySource("mask"))
    assert ready.recipe.wide
    told = config.plain(ready.recipe)
    del told["wide"]
    old = config.parse(told, Recipe)
    task = assemble(old, build_encoder(old.encoder))
    assert not old.wide and task.head.detail.planes.width == 4 + 1
    assert ready.task.head.detail.planes.width == 4 + 4 + 8 + 1


CHIP_TASKS = {"classify": "class", "series": "class", "multilabel": "tags", "scalar": "scalar"}


@pytest.mark.parametrize("task", CHIP_TASKS)
def test_a_chip_is_told_by_its_pixels_too_but_a_probe_by_its_encoder(task, tmp_path):
    source = tiny.TinySource(CHIP_TASKS[task], dates=2 if task == "series" else 1)
    for tuning, channels in {"full": 32, "lora": 32, "frozen": 0, "linear": 0}.items():
        ready = prepare(make(tmp_path, task=task, tuning=tuning), source)
        assert ready.recipe.task.detail == channels and ready.task.needs_pixels == bool(channels)
    assert ready.task.head.detail is None


def test_pixels_that_are_not_seen_say_nothing_of_a_chip(tmp_path):
    module = prepare(make(tmp_path, task="classify"), tiny.TinySource("class")).task.eval()
    batch = tiny.TinySource("class").sample(0)
    layer = batch.layers[tiny.SENSOR.id]
    valid = layer.valid.clone()
    valid[..., :16] = False
    half = Batch({tiny.SENSOR.id: Layer.of(tiny.SENSOR, layer.x, valid, layer.times)}, batch.where)
    right = Batch(
        {tiny.SENSOR.id: Layer.of(tiny.SENSOR, layer.x[..., 16:], layer.valid[..., 16:], layer.times)}, batch.where
    )
    whole, seen, alone = (module.head.detail(b) for b in (batch, half, right))
    torch.testing.assert_close(seen, alone)
    assert not torch.allclose(seen, whole)


def shares(n, seed):
    """Chips of two covers that differ by a twentieth of what light does; the class is the cover of most pixels."""
    batch = alike(n, seed)
    x = batch.layers[tiny.SENSOR.id].x
    g = torch.Generator().manual_seed(seed + 1)
    truth = torch.rand(n, generator=g) < 0.5
    cover = torch.rand(n, 16, 16, generator=g) < torch.where(truth, 0.65, 0.35)[:, None, None]
    x[:, 0, 1] += 0.01 * (cover.float() - 0.5)
    label = Label("class", truth.long(), torch.ones(n, dtype=torch.bool))
    return Batch(batch.layers, batch.where, {"what": label})


def test_a_small_difference_between_bands_is_found(tmp_path):
    """What a mean spectrum tells: without the pixels' own layers forty steps find nothing."""

    class Shares(tiny.TinySource):
        def sample(self, index, bands=None):
            return shares(1, 100 + index)

    source, found = Shares("class", n=24), {}
    source.labels = {"what": replace(source.labels["what"], classes=("a", "b"))}
    test = shares(200, 7)
    for detail in (32, 0):
        module = prepare(make(tmp_path, task={"kind": "classify", "detail": detail}), source).task.train()
        loop = LoopConfig(steps=40, lr=1e-3, warmup=0.1)
        optimizer = optim.build(module, loop)
        for step in range(40):
            module(shares(16, 1000 + step)).loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = loop.lr * group["scale"] * optim.lr_factor(loop, step, 40)
            optimizer.step()
            optimizer.zero_grad()
        told = module.eval().predict(test)["classes"]
        found[detail] = float((told == test.labels["what"].value).float().mean())
    assert found[32] > 0.9 and found[32] > found[0] + 0.2
