"""Checkpoints: whole or not at all."""

import os
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from swath.core import SwathError, SwathWarning, UserError
from swath.train import checkpoint


def state(scale=1.0):
    return {"model.a": torch.full((4, 3), scale), "optim.a/step": torch.tensor(3.0), "model.n": torch.tensor(5)}


def test_round_trip_in_place(tmp_path):
    path = checkpoint.publish(tmp_path, 7, state(2.0), {"step": 7})
    target = state(0.0)
    checkpoint.restore(path, target)
    assert torch.equal(target["model.a"], torch.full((4, 3), 2.0))
    assert checkpoint.record_of(path) == {"step": 7}
    assert checkpoint.damage(path) is None


def test_only_the_last_ones_are_kept(tmp_path):
    for step in (1, 2, 3, 4):
        checkpoint.publish(tmp_path, step, state(), {}, keep=2)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize("harm", ["flip", "cut", "gone", "no manifest"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, harm):
    checkpoint.publish(tmp_path, 1, state(), {})
    last = checkpoint.publish(tmp_path, 2, state(), {})
    file = last / "state.safetensors"
    data = bytearray(file.read_bytes())
    match harm:
        case "flip":
            data[-1] ^= 1
            file.write_bytes(data)
        case "cut":
            file.write_bytes(data[:-5])
        case "gone":
            file.unlink()
        case _:
            (last / "manifest.json").unlink()
    with pytest.warns(SwathWarning, match="damaged"):
        assert checkpoint.latest(tmp_path).name == "step-00000001"


FULL = """
import resource, sys, torch
from pathlib import Path
from swath.core import SwathError
from swath.train import checkpoint
folder = Path(sys.argv[1])
checkpoint.publish(folder, 1, {"model.a": torch.ones(10)}, {})
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    checkpoint.publish(folder, 2, {"model.a": torch.ones(1_000_000)}, {})
except SwathError as error:
    sys.exit(0 if "step-00000001" in str(error) else 3)
sys.exit(4)
"""


def test_a_full_disk_leaves_the_last_good_one(tmp_path):
    """The kernel refuses the write (a file size limit stands for a full disk)."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], env=env, check=False)
    assert done.returncode == 0
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.latest(tmp_path).name == "step-00000001"
    assert not list(tmp_path.glob(".tmp-*"))


def test_no_space_while_flushing(tmp_path, monkeypatch):
    checkpoint.publish(tmp_path, 1, state(), {})
    real = checkpoint._sync

    def full(path):
        if path.name == "manifest.json":
            raise OSError(28, "No space left on device")
        real(path)

    monkeypatch.setattr(checkpoint, "_sync", full)
    with pytest.raises(SwathError, match="No space left"):
        checkpoint.publish(tmp_path, 2, state(), {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_other_tensors_are_refused(tmp_path):
    path = checkpoint.publish(tmp_path, 1, state(), {})
    with pytest.raises(UserError, match="1 missing"):
        checkpoint.restore(path, {**state(), "model.b": torch.ones(2)})
    with pytest.raises(UserError, match="not \\(5, 3\\)"):
        checkpoint.restore(path, {**state(), "model.a": torch.ones(5, 3)})


def test_tied_weights_are_saved(tmp_path):
    w = torch.ones(3)
    path = checkpoint.publish(tmp_path, 1, {"model.a": w, "model.b": w}, {})
    target = {"model.a": torch.zeros(3), "model.b": torch.zeros(3)}
    checkpoint.restore(path, target)
    assert torch.equal(target["model.b"], w)
