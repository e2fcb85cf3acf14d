"""The mistakes that users of other toolkits meet, each tried: a named error, or the right result."""

import json
from dataclasses import replace

import pytest
import tiny_adapt as tiny
import torch
from test_tune import make

from swath.adapt.bundle import Bundle
from swath.adapt.prepare import prepare
from swath.adapt.run import TuneRun
from swath.adapt.tune import tune
from swath.core import config
from swath.core.batch import Batch, Boxes, Label, Layer
from swath.core.errors import UserError
from swath.report.tune import write

FAST = {"loop": {"steps": 2, "batch_size": 4, "progress": False}, "trust": {"bootstrap": 5, "chips": 0}}


class Changed(tiny.TinySource):
    """A tiny source whose sample `at` is changed."""

    def __init__(self, change, at=2, **given):
        super().__init__(**given)
        self.change, self.at = change, at

    def sample(self, index, bands=None):
        one = super().sample(index)
        return self.change(one) if index == self.at else one


def with_label(value, valid=None):
    def change(one):
        label = one.labels["what"]
        new = value(label.value)
        return Batch(
            one.layers, one.where, {"what": Label(label.kind, new, label.valid if valid is None else valid(new))}
        )

    return change


def test_a_band_that_the_files_have_not(tmp_path):
    run = make(tmp_path, task="segment", bands={"sentinel2-l2a": ["blue", "green", "red", "nir", "swir16", "swir22"]})
    with pytest.raises(UserError, match=r"unknown band 'swir16'(.|\n)*sensor sentinel2-l2a"):
        prepare(run, tiny.TinySource())


def test_a_typo_in_a_band(tmp_path):
    with pytest.raises(UserError, match="did you mean blue"):
        prepare(make(tmp_path, task="segment", bands={"sentinel2-l2a": ["BLEU", "green"]}), tiny.TinySource())


def test_a_mask_value_outside_the_legend(tmp_path):
    source = Changed(with_label(lambda v: v.masked_fill(v == 2, 255)))
    with pytest.raises(UserError, match=r"\[255\], outside its 3 classes \(a, b, c\)(.|\n)*tiny-2(.|\n)*ignore"):
        prepare(make(tmp_path, task="segment"), source)


def test_an_ignored_value_is_invalid_and_harmless(tmp_path):
    source = Changed(with_label(lambda v: v.masked_fill(v == 2, 255), lambda v: v != 255))
    assert tune(make(tmp_path, task="segment", **FAST), source).scores["accuracy_micro"] > 0


def test_nan_pixels_do_not_poison(tmp_path):
    def hole(one):
        layer = one.layers[tiny.SENSOR.id]
        x = layer.x.clone()
        x[..., :5, :5] = torch.nan
        return Batch({tiny.SENSOR.id: Layer.of(tiny.SENSOR, x, times=layer.times)}, one.where, one.labels)

    found = tune(make(tmp_path, task="segment", **FAST), Changed(hole))
    assert all(v is None or v == v for v in found.record["scores"].values())
    assert torch.isfinite(Bundle.load(found.bundle).predict(hole(tiny.TinySource().sample(2)))["probabilities"]).all()


def test_one_image_of_another_size(tmp_path):
    def small(one):
        layer, label = one.layers[tiny.SENSOR.id], one.labels["what"]
        part = Layer(tiny.SENSOR, layer.x[..., :24, :24], layer.valid[..., :24, :24], layer.times)
        return Batch({tiny.SENSOR.id: part}, one.where,
                     {"what": Label("mask", label.value[:, :24, :24], label.valid[:, :24, :24])})  # fmt: skip

    source = Changed(small)
    with pytest.raises(UserError, match=r"24 x 24(.|\n)*32 x 32(.|\n)*tiny-2(.|\n)*augment.crop"):
        prepare(make(tmp_path, task="segment"), source)
    assert tune(make(tmp_path, task="segment", augment={"crop": 16}, **FAST), source).scores["accuracy_micro"] > 0


def test_one_label_missing(tmp_path):
    with pytest.raises(UserError, match=r"no label 'what'(.|\n)*tiny-2"):
        prepare(make(tmp_path, task="segment"), Changed(lambda one: Batch(one.layers, one.where)))


def test_a_missing_folder(tmp_path):
    run = make(tmp_path, task="segment", data={"kind": "folder", "path": str(tmp_path / "absent")})
    with pytest.raises(UserError, match=r"no such folder(.|\n)*absent"):
        prepare(run)


def test_a_batch_larger_than_the_data_still_trains(tmp_path):
    given = {**FAST, "loop": {"epochs": 3, "batch_size": 64, "progress": False}}
    found = tune(make(tmp_path, task="segment", **given), tiny.TinySource(n=12))
    assert found.record["fit"]["steps"] == 3
    assert any("64 > 6 training samples" in n for n in found.record["notes"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"encoder": "swath-vti"}, "did you mean swath-vit"),
        ({"task": {"kind": "segment", "num_classes": 3}}, "unknown key 'num_classes'"),
        ({"task": "segment", "decoder": {"kind": "unet", "widht": 3}}, "did you mean width"),
        ({"task": "segmnet"}, "did you mean segment"),
        ({"task": {"kind": "segment", "losses": ["dise"]}}, "did you mean dice"),
        ({"task": "segment", "loop": {"epochs": 2, "batchsize": 3}}, "did you mean batch_size"),
    ],
)
def test_typos_name_the_nearest(given, words, tmp_path):
    with pytest.raises(UserError, match=words) as raised:
        make(tmp_path, **{"task": "segment", **given})
    assert len(str(raised.value)) < 300


def test_two_labels_must_be_told_apart(tmp_path):
    source = tiny.TinySource()
    source.labels = {"what": tiny.LABELS["mask"], "other": replace(tiny.LABELS["mask"], name="other")}
    with pytest.raises(UserError, match="label: NAME"):
        prepare(make(tmp_path, task="segment"), source)


def test_losses_that_do_not_fit(tmp_path):
    with pytest.raises(UserError, match="'mse' judges values, this task answers classes"):
        prepare(make(tmp_path, task={"kind": "segment", "losses": ["mse"]}), tiny.TinySource())
    with pytest.raises(UserError, match="uses no decoder"):
        prepare(make(tmp_path, task="classify", decoder="unet"), tiny.TinySource("class"))


def test_one_class_only(tmp_path):
    class One(tiny.TinySource):
        def sample(self, index, bands=None):
            return with_label(lambda v: v * 0)(super().sample(index))

    with pytest.raises(UserError, match="shows only the class"):
        prepare(make(tmp_path, task="segment"), One())


def test_other_settings_never_overwrite_a_run(tmp_path):
    source = tiny.TinySource()
    found = tune(make(tmp_path, task="segment", **FAST), source)
    before = (found.out / "record.json").read_text()
    plan = config.override(config.plain(make(tmp_path, task="segment", **FAST)), ["loop.lr=0.01"])
    changed = config.parse(plan, TuneRun)
    with pytest.raises(UserError, match="lr"):
        tune(changed, source)
    assert (found.out / "record.json").read_text() == before
    assert not [p for p in found.out.rglob("*") if p.name.endswith((".part", ".tmp")) or p.name.startswith(".bundle")]


def test_defaults_work_as_they_are(tmp_path):
    """A run that says nothing but what it must: no ignore index, means or class counts to forget."""
    plan = {"name": "x", "data": {"kind": "folder", "path": "x"}, "encoder": "swath-vit", "task": "segment"}
    run = config.parse(plan, TuneRun)
    ready = prepare(replace(run, out=str(tmp_path)), tiny.TinySource(n=6))
    assert ready.recipe.label.classes == ("a", "b", "c") and json.dumps(config.plain(ready.recipe))
    assert ready.bands == {tiny.SENSOR.id: ("blue", "green", "red", "nir")}


class Boxed(tiny.ObjectSource):
    """Objects whose boxes are given by a function of the true ones."""

    def __init__(self, change, **given):
        super().__init__(**given)
        self.change = change

    def sample(self, index, bands=None):
        one = super().sample(index)
        label = one.labels["what"]
        return Batch(one.layers, one.where, {"what": replace(label, objects=(self.change(label.objects[0]),))})


def test_boxes_outside_their_image_or_without_area(tmp_path):
    for move in (lambda b: b + 100, lambda b: b * torch.tensor([1.0, 1.0, 0.0, 1.0])):
        source = Boxed(lambda o, move=move: Boxes(move(o.xyxy), o.classes, o.masks))
        with pytest.raises(UserError, match=r"no area inside its image of 32 x 32(.|\n)*tiny-0(.|\n)*COCO"):
            prepare(make(tmp_path, task="detect"), source)


def test_no_object_at_all(tmp_path):
    source = Boxed(lambda o: Boxes(o.xyxy[:0], o.classes[:0], o.masks[:0]))
    with pytest.raises(UserError, match="holds no object of 'what'"):
        prepare(make(tmp_path, task="detect"), source)


def test_a_change_of_one_date(tmp_path):
    with pytest.raises(UserError, match=r"compares two dates; the samples have 1(.|\n)*KEY_DATE"):
        tune(make(tmp_path, task="change", **FAST), tiny.TinySource())
    assert not [*(tmp_path / "run").rglob("*.safetensors")]


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "run").write_text("a file, not a folder")
    with pytest.raises(UserError, match=r"nothing can be written here(.|\n)*--out"):
        tune(make(tmp_path, task="segment", **FAST), tiny.TinySource())


def test_samples_in_no_split_are_counted(tmp_path):
    source = tiny.TinySource(n=12)
    source.splits = lambda: {"train": [0, 1, 2, 3], "val": [4], "test": [5, 6], "all": [7, 8, 9, 10, 11]}
    assert "5 samples are in no split and are left out" in prepare(make(tmp_path, task="segment"), source).notes


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ({"loop": {"epochs": 1, "lr": -0.1}}, r"'lr' is -0\.1(.|\n)*loop"),
        ({"loop": {"epochs": 1, "lr": float("nan")}}, "'lr' is nan"),
        ({"loop": {"epochs": 1, "clip": -1}}, r"'clip' is -1(.|\n)*above 0"),
        ({"loop": {"epochs": 0}}, "'epochs' is 0"),
        ({"loop": {"steps": -5}}, r"'steps' is -5(.|\n)*1 or more"),
        ({"loop": {"epochs": 1, "ema": 1.5}}, r"'ema' is 1\.5(.|\n)*0 to 1"),
        ({"trust": {"alpha": 1.5}}, r"'alpha' is 1\.5(.|\n)*trust"),
        ({"trust": {"bootstrap": -3}}, "'bootstrap' is -3"),
        ({"augment": {"crop": -1}}, r"'crop' is -1(.|\n)*augment"),
        ({"augment": {"band_drop": 1.5}}, "'band_drop' is 1.5"),
        ({"tuning": {"kind": "lora", "rank": 0}}, r"'rank' is 0(.|\n)*tuning: lora"),
        ({"tuning": {"kind": "dora", "rank": -1}}, r"'rank' is -1(.|\n)*tuning: dora"),
        ({"tuning": {"kind": "vpt", "length": 0}}, "'length' is 0"),
        ({"tuning": {"kind": "adapter-houlsby", "width": 0}}, "'width' is 0"),
    ],
)
def test_numbers_that_cannot_be_are_named(sets, words, tmp_path):
    """A negative rate or clip climbed where it should descend, and the run ended well."""
    with pytest.raises(UserError, match=words):
        make(tmp_path, task="segment", **sets)


class Late(tiny.TinySource):
    """Class 2 stands in the test split alone."""

    def sample(self, index, bands=None):
        one = super().sample(index)
        label = one.labels["what"]
        test = index in self.splits()["test"]
        value = torch.where(label.value == 2, 2 if test else 1, label.value)
        value[..., :4, :4] = 2 if test else value[..., :4, :4]
        return Batch(one.layers, one.where, {"what": replace(label, value=value)})


def test_a_class_that_only_the_test_split_holds_is_said(tmp_path):
    notes = tune(make(tmp_path, task="segment", **FAST), Late(n=16)).record["notes"]
    assert "the test split holds c, which no training sample looked at shows" in notes
    assert not any("which no training sample" in n for n in tune(
        make(tmp_path / "b", task="segment", **FAST), tiny.TinySource(n=16)
    ).record["notes"])  # fmt: skip


class Lone(tiny.TinySource):
    """One test sample."""

    def splits(self):
        return {"train": list(range(12)), "val": [12, 13], "test": [15]}


def test_one_test_sample_has_a_picture_and_no_interval(tmp_path):
    run = make(tmp_path, task="segment", **FAST)
    found = tune(replace(run, trust=replace(run.trust, chips=4)), Lone(n=16))
    assert found.record["intervals"] == {} and any("1 sample: scores of so few" in n for n in found.record["notes"])
    assert [c["rank"] for c in found.record["chips"]] == ["best"]
    assert "test of 1 sample<" in write(found.out).read_text()


class Unlabelled(tiny.TinySource):
    """The test split's labels are all to be ignored."""

    def sample(self, index, bands=None):
        one = super().sample(index)
        label = one.labels["what"]
        none = torch.zeros_like(label.valid) if index in self.splits()["test"] else label.valid
        return Batch(one.layers, one.where, {"what": replace(label, valid=none)})


def test_a_test_split_without_labels_is_said(tmp_path):
    found = tune(make(tmp_path, task="segment", **FAST), Unlabelled(n=16))
    assert found.scores["iou_macro"] != found.scores["iou_macro"]
    assert "the test split holds no label that counts: nothing is scored" in found.record["notes"]


def test_a_start_at_random_is_said(tmp_path):
    words = "starts at random: the run names no weights"
    assert any(words in n for n in prepare(make(tmp_path, task="segment"), tiny.TinySource()).notes)
    raw = make(tmp_path, task="segment", encoder={"kind": "pixels"})
    assert not any(words in n for n in prepare(raw, tiny.TinySource()).notes)
