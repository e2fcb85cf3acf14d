"""Tasks with their own heads: change, objects, fields, images. Each must beat what needs no learning."""

import pytest
import tiny_adapt as tiny
import torch
from test_tune import make

from swath.adapt.bundle import Bundle
from swath.adapt.heads import guided
from swath.adapt.tune import tune
from swath.core.batch import Batch, Layer, collate
from swath.core.errors import UserError

QUICK = {"bootstrap": 20, "chips": 0}


def again(found, source):
    """The loaded bundle's own scores on the test split."""
    bundle = Bundle.load(found.bundle)
    batch = collate([source.sample(i) for i in source.splits()["test"]])
    scores = bundle.task.scores()
    scores.update(bundle.predict(batch), batch)
    assert scores.compute()[found.primary] == pytest.approx(found.scores[found.primary], abs=1e-5)
    return batch


@pytest.mark.parametrize("fusion", ["concat", "difference"])
def test_change(fusion, tmp_path):
    source = tiny.ChangeSource(n=32)
    found = tune(make(tmp_path, task="change", fusion=fusion, trust=QUICK), source)
    assert found.scores["iou_macro"] > 0.7 > 1.4 * found.baseline["iou_macro"]
    again(found, source)


def guide_error(found, batch):
    bundle = Bundle.load(found.bundle)
    simple, _ = guided(batch, bundle.recipe.guide, (32, 32), (torch.tensor(bundle.recipe.centre), None))
    return float((simple - batch.labels["what"].value).square().mean().sqrt())


@pytest.mark.parametrize(("task", "cls"), [("gapfill", tiny.HoleySource), ("superres", tiny.CoarseSource)])
def test_an_untrained_image_is_nearly_its_guide(task, cls, tmp_path):
    source = cls(n=16)
    loop = {"steps": 1, "batch_size": 8, "progress": False, "lr": 1e-6}
    found = tune(make(tmp_path, task=task, trust=QUICK, loop=loop), source)
    guide = guide_error(found, again(found, source))
    assert found.scores["rmse"] == pytest.approx(guide, rel=0.05)
    assert found.baseline["rmse"] == pytest.approx(guide, rel=1e-4)


def test_a_gap_is_interpolated_in_time():
    x = torch.tensor([1.0, 9.0, 9.0, 4.0]).view(1, 4, 1, 1, 1).expand(1, 4, 4, 1, 3).clone()
    valid = torch.ones(1, 4, 1, 1, 3, dtype=torch.bool)
    valid[:, 1:3, ..., 0], valid[:, 2:, ..., 1] = False, False
    valid[..., 2] = False
    days = torch.tensor([[18_000, 18_010, 18_020, 18_030]])
    batch = Batch({tiny.SENSOR.id: Layer(tiny.SENSOR, x, valid, days)}, tiny.TinySource().sample(0).where)
    told, known = guided(batch, (tiny.SENSOR.id, (0,)), (1, 3), (torch.tensor([7.0]), 2))
    torch.testing.assert_close(told[0, 0, 0], torch.tensor([3.0, 9.0, 7.0]))
    assert known[0, 0, 0].tolist() == [1.0, 1.0, 0.0]
    told, _ = guided(batch, (tiny.SENSOR.id, (0,)), (1, 3), (torch.tensor([7.0]), 1))
    torch.testing.assert_close(told[0, 0, 0], torch.tensor([2.0, 9.0, 7.0]))


@pytest.mark.slow
def test_superres_is_better_than_bicubic(tmp_path):
    source = tiny.CoarseSource(n=32)
    loop = {"steps": 150, "batch_size": 8, "progress": False, "lr": 3e-3, "validate_every": 50}
    found = tune(make(tmp_path, task="superres", trust=QUICK, loop=loop), source)
    assert found.scores["rmse"] < 0.97 * guide_error(found, again(found, source))


def test_boundaries_find_fields(tmp_path):
    source = tiny.ObjectSource(n=32)
    loop = {"steps": 50, "batch_size": 8, "progress": False, "validate_every": 25, "lr": 2e-3}
    found = tune(make(tmp_path, task="boundaries", trust=QUICK, loop=loop), source)
    assert found.scores["object_f1"] > 0.5
    again(found, source)


def test_objects_run_and_answer(tmp_path):
    source = tiny.ObjectSource(n=10)
    loop = {"steps": 4, "batch_size": 4, "progress": False}
    found = tune(make(tmp_path, task={"kind": "instances", "width": 32}, trust=QUICK, loop=loop), source)
    told = Bundle.load(found.bundle).predict(source.sample(0), uncertainty=True)
    n = int(told["counts"][0])
    assert told["boxes"].shape[1] == told["scores"].shape[1] == told["masks"].shape[1] >= n
    assert told["masks"].shape[2:] == (32, 32)


def test_wrong_labels_are_refused(tmp_path):
    with pytest.raises(UserError, match="takes one label of kind boxes"):
        tune(make(tmp_path, task="detect"), tiny.TinySource("mask"))
    with pytest.raises(UserError, match="compares two dates"):
        tune(make(tmp_path, task="change"), tiny.TinySource("mask", dates=3))
