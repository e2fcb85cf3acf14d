"""What the input does not show is neither learnt from nor judged; a change needs both of its dates."""

import json
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import tiny_adapt as tiny
import torch
from test_tune import make

from swath.adapt.bundle import Bundle
from swath.adapt.evaluate import batches, evaluate
from swath.adapt.predict import predict
from swath.adapt.prepare import prepare
from swath.adapt.run import TuneRun
from swath.adapt.task import judged, observed
from swath.adapt.tune import tune
from swath.cli.main import main
from swath.core import config
from swath.core.batch import Batch, Boxes, Label, Layer, collate
from swath.core.errors import SwathWarning, UserError
from swath.core.sensors import SENSORS


class Clouded:
    """A source whose samples' left half is hidden: at `dates` (all of them when none are named)."""

    def __init__(self, source, dates=None, share=0.5):
        self.source, self.dates, self.share = source, dates, share
        self.name, self.labels, self.sensors, self.licence = "tiny", source.labels, source.sensors, "CC0-1.0"
        self.fingerprint, self.splits = "clouded", source.splits

    def __len__(self):
        return len(self.source)

    def sample(self, index, bands=None):
        one = self.source.sample(index, bands)
        layer = one.layers[tiny.SENSOR.id]
        valid = layer.valid.clone()
        wide = round(valid.shape[-1] * self.share)
        for t in range(valid.shape[1]) if self.dates is None else self.dates:
            valid[:, t, ..., :wide] = False
        return Batch({tiny.SENSOR.id: replace(layer, valid=valid)}, one.where, one.labels)


def spoil(batch):
    """Labels that are wrong wherever one date or more is hidden: what must not be looked at."""
    layer, label = batch.layers[tiny.SENSOR.id], batch.labels["what"]
    hidden = ~layer.valid[:, :, 0].all(1)
    value = torch.where(hidden if label.kind == "mask" else hidden[:, None], 1 - label.value, label.value)
    return Batch(batch.layers, batch.where, {"what": replace(label, value=value)})


@pytest.mark.parametrize(("kind", "task"), [("mask", "segment"), ("map", "regress")])
def test_a_hidden_pixel_costs_and_scores_nothing(kind, task, tmp_path):
    source = Clouded(tiny.TinySource(kind))
    ready = prepare(make(tmp_path, task=task), source)
    batch = collate([source.sample(i) for i in range(4)])
    module = ready.task.eval()
    assert module(batch).loss == module(spoil(batch)).loss
    for told in (batch, spoil(batch)):
        found = evaluate(module, iter([told]))
        assert found.judged * 2 == found.labelled
        scores = found.scores.compute()
        assert scores == evaluate(module, iter([batch])).scores.compute()


def test_a_change_needs_both_dates(tmp_path):
    ready = prepare(make(tmp_path, task="change"), tiny.ChangeSource())
    module = ready.task.eval()
    for dates, share in (((0,), 0.5), ((1,), 0.5), ((0, 1), 0.5), ((), 1.0)):
        source = Clouded(tiny.ChangeSource(), dates)
        batch = collate([source.sample(i) for i in range(3)])
        found = evaluate(module, iter([batch]))
        assert found.judged == share * found.labelled
        assert module(batch).loss == module(spoil(batch)).loss


def test_segments_of_a_series_need_one_date(tmp_path):
    source = Clouded(tiny.TinySource("mask", dates=3), dates=(0, 1))
    ready = prepare(make(tmp_path, task="segment"), source)
    found = evaluate(ready.task, batches(source, [0, 1], None, 2))
    assert found.judged == found.labelled


def test_what_has_no_dates_cannot_stand_for_one():
    source = Clouded(tiny.ChangeSource(), (0,))
    one = source.sample(0)
    height = Layer.of(SENSORS.get("copdem"), torch.zeros(1, 1, 1, 32, 32))
    both = Batch({**one.layers, "copdem": height}, one.where, one.labels)
    assert not observed(both, (32, 32), every=True)[..., :16].any() and observed(both, (32, 32)).all()
    assert judged(both, "what", every=True).labels["what"].valid.sum() == 16 * 32


def test_objects_that_nothing_shows_are_neither_learnt_nor_judged():
    one = tiny.TinySource("mask").sample(0)
    layer = one.layers[tiny.SENSOR.id]
    xyxy = torch.tensor([[0.0, 0, 9, 9], [10, 4, 20, 12], [15.5, 3, 20, 9]])  # hidden, half hidden, hidden but an edge
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[0, :9, :9] = masks[1, 4:12, 10:16] = masks[2, 3:9, 16:20] = True
    size, classes = torch.tensor([[32.0, 32.0]]), torch.tensor([0, 1, 2])
    valid = layer.valid.clone()
    valid[..., :16] = False
    for given, left in ((None, [1, 2]), (masks, [2])):  # a mask knows better than a box what is hidden
        label = Label("boxes", size, torch.ones_like(size, dtype=torch.bool), (Boxes(xyxy, classes, given),))
        for seen, want in ((layer.valid, [0, 1, 2]), (valid, left), (torch.zeros_like(valid), [])):
            batch = Batch({tiny.SENSOR.id: replace(layer, valid=seen)}, one.where, {"what": label})
            found = judged(batch, "what").labels["what"].objects[0]
            assert found.classes.tolist() == want and torch.equal(found.xyxy, xyxy[want])
            assert given is None or torch.equal(found.masks, masks[want])


FEW = {"loop": {"steps": 2, "batch_size": 4, "progress": False}, "trust": {"bootstrap": 20, "chips": 2}}


def test_the_report_says_how_much_was_hidden(tmp_path):
    hidden = tune(make(tmp_path / "a", task="change", **FEW), Clouded(tiny.ChangeSource(n=16), (1,)))
    words = "50.0 % of the test split's labelled pixels are not scored"
    assert any(n.startswith(words) for n in hidden.record["notes"])
    clear = tune(make(tmp_path / "b", task="change", **FEW), tiny.ChangeSource(n=16))
    assert not any("not scored" in n for n in clear.record["notes"])


class Half(Clouded):
    """Clouds over one split only."""

    def __init__(self, source, split):
        super().__init__(source, share=1.0)
        self.hidden = set(source.splits()[split])

    def sample(self, index, bands=None):
        return super().sample(index) if index in self.hidden else self.source.sample(index)


def test_nothing_to_see_at_all_is_no_score(tmp_path):
    found = tune(make(tmp_path, task="segment", **FEW), Half(tiny.TinySource(n=16), "test"))
    assert found.scores["iou_macro"] != found.scores["iou_macro"]  # nan, not zero
    assert any(n.startswith("100.0 %") for n in found.record["notes"])


def test_nothing_to_learn_from_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no labelled item(.|\n)*swath check"):
        prepare(make(tmp_path, task="segment"), Half(tiny.TinySource(), "train"))
    with pytest.raises(UserError, match="no valid value in the training split"):
        prepare(make(tmp_path, task="regress"), Half(tiny.TinySource("map"), "train"))


@pytest.mark.parametrize(
    ("task", "source", "dates", "empty"),
    [("segment", tiny.TinySource(), None, 255), ("regress", tiny.TinySource("map"), None, np.nan),
     ("change", tiny.ChangeSource(), (0,), 255)],
)  # fmt: skip
def test_a_prediction_has_no_data_where_nothing_is_seen(task, source, dates, empty, tmp_path):
    bundle = Bundle.load(tune(make(tmp_path, task=task, **FEW), source).bundle)
    predict(bundle, Clouded(source, dates), tmp_path / "told", split="test")
    key = "values" if task == "regress" else "classes"
    for path in (tmp_path / "told").glob(f"*-{key}.tif"):
        with rasterio.open(path) as got:
            hidden = got.read_masks(1) == 0
            assert got.nodata == empty or got.nodata != got.nodata
            assert hidden[:, :16].all() and not hidden[:, 16:].any()


def test_one_date_is_no_change(tmp_path):
    """Attention takes any number of dates; a change of one is none."""
    source = tiny.ChangeSource(n=16)
    bundle = Bundle.load(tune(make(tmp_path, task="change", fusion="attention", **FEW), source).bundle)
    one = source.sample(0)
    layer = one.layers[tiny.SENSOR.id]
    first = Layer(layer.sensor, layer.x[:, :1], layer.valid[:, :1], None)
    with pytest.raises(UserError, match=r"comes with 1 date; 'change' compares 2"):
        bundle.predict(Batch({tiny.SENSOR.id: first}, one.where))


def test_a_sensor_that_samples_lack_is_said(tmp_path, recwarn):
    both = {"sentinel2-l2a": ["red", "nir08"], "sentinel1-rtc": []}
    data = {"kind": "world", "sensors": both, "chips": {"train": 6, "val": 2, "test": 4}, "size": 32, "near": "land",
            "labels": ["land_cover"], "dates": ["06-20"], "clouds": 0.0}  # fmt: skip
    plan = {
        "name": "two", "data": data, "encoder": {"kind": "swath-vit", "size": "nano"}, "task": "segment",
        "loop": {"steps": 2, "batch_size": 2, "progress": False}, "out": str(tmp_path / "two"),
        "trust": {"chips": 0, "bootstrap": 0},
    }  # fmt: skip
    run = config.parse(plan, TuneRun)
    bundle = Bundle.load(tune(run).bundle)

    def answers(missing):
        source = replace(run.data, missing=missing).build()
        predict(bundle, source, tmp_path / "told", split="test")
        return [json.loads(x) for x in (tmp_path / "told/predictions.jsonl").read_text().splitlines()]

    assert not [r for r in answers({}) if "lacks" in r]
    assert not [w for w in recwarn if "show nothing" in str(w.message)]
    with pytest.warns(SwathWarning, match="4 of 4 samples show nothing of sentinel1-rtc .*from what is left"):
        rows = answers({"sentinel1-rtc": 1.0})
    assert all(r["lacks"] == ["sentinel1-rtc"] and (tmp_path / "told" / r["classes"]).is_file() for r in rows)


def test_a_card_shows_its_bands_as_a_table(tmp_path, capsys):
    found = tune(make(tmp_path, task="segment"), tiny.TinySource("mask"))
    with pytest.raises(SystemExit) as left:
        main(["show", "bundle", str(found.bundle)])
    said = capsys.readouterr().out
    assert left.value.code == 0 and f"{tiny.SENSOR.id} ({tiny.SENSOR.kind})" in said and " iou_macro: " in said
    for name in tiny.SENSOR.names:
        assert any(name in line and "reflectance" in line for line in said.splitlines())
