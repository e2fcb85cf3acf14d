"""A batch cut into parts is the batch: what a network draws, and what a loss divides by, is each sample's own."""

from dataclasses import dataclass

import pytest
import tiny_adapt as tiny
import torch

from swath.adapt.run import TuneRun
from swath.adapt.tune import tune
from swath.core import config
from swath.core.batch import Batch, Label


@dataclass
class PartlyLabelled(tiny.TinySource):
    """Each sample with another share of labelled pixels, some with none."""

    def sample(self, index, bands=None):
        batch = super().sample(index, bands)
        label, rows = batch.labels["what"], torch.arange(self.size)[None, :, None]
        valid = label.valid & (rows < (index % 5) * self.size // 4)
        return Batch(batch.layers, batch.where, {"what": Label("mask", label.value.where(valid, 255), valid)})


def losses(folder, loss, parts):
    run = config.parse(
        {
            "name": "parts", "out": str(folder), "data": {"kind": "folder", "path": "unused"},
            "encoder": {"kind": "swath-vit", "size": "nano"}, "trust": {"calibrate": False, "ood": False, "chips": 0},
            "task": {"kind": "segment", "losses": [loss], "balanced": True, "detail": 8},
            "loop": {"steps": 4, "batch_size": 12, "accumulate": parts, "optimizer": "sgd", "lr": 0.1, "clip": 0.2,
                     "progress": False, "log_every": 1, "energy": "off"},
        },
        TuneRun,
    )  # fmt: skip
    found = tune(run, PartlyLabelled(n=40))
    return [row["loss"] for row in found.record["curves"] if "loss" in row]


@pytest.mark.parametrize("loss", ["ce", "focal"])
def test_parts_learn_what_the_whole_batch_learns(loss, tmp_path):
    """The encoder hides times and places, the head its tokens, of some samples: the same ones in any part."""
    whole = losses(tmp_path / "whole", loss, 1)
    assert len(whole) == 4 and whole[-1] < whole[0]
    assert losses(tmp_path / "parts", loss, 3) == pytest.approx(whole, abs=1e-5)
