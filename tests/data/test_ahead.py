"""Reading ahead: batches through shared slots are the batches that were made, in order, and belong to their holder."""

import gc
import os
import time
import weakref

import numpy as np
import pytest
import torch

from swath.core.errors import SwathError, UserError
from swath.data.streams import slots
from swath.data.streams.ahead import ahead


class Counting:
    """Job j: a growing array that holds j, partly from `take`."""

    def __call__(self, job, take):
        if job == "die":
            os._exit(3)
        if job == "refuse":
            raise UserError("no such sample", where="here")
        if job == "break":
            raise KeyError("what")
        x = take((job + 1, 1000), np.float32)
        x[...] = job
        return {
            "job": job,
            "x": torch.from_numpy(x),
            "own": torch.full((3, job + 1), job)[:, ::2],
            "none": torch.zeros(0),
        }


def values(found):
    job = found["job"]
    return found["x"].shape == (job + 1, 1000) and bool((found["x"] == job).all()) and bool((found["own"] == job).all())


@pytest.mark.parametrize(("workers", "start"), [(1, "fork"), (3, "fork"), (2, "spawn")])
def test_in_order_and_kept_as_long_as_wanted(workers, start):
    kept = []
    for want, found in enumerate(ahead(Counting(), range(40), workers, start)):
        assert found["job"] == want and values(found)
        if want % 3 == 0:
            kept.append(found)
        elif want % 3 == 1:
            kept.append({**found, "x": found["x"][1:].contiguous() if want > 20 else found["x"]})
    assert all(values(k) for k in kept[::2]), "a batch that is held is never written over"


def test_a_slot_is_used_again_and_no_file_stays():
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    seen = set()
    for found in ahead(Counting(), [50] * 30, 2, "fork"):
        seen.add(found["x"].data_ptr())
        del found
    assert len(seen) <= 10
    if before:
        assert not {n for n in set(os.listdir("/dev/shm")) - before if n.startswith("swath-slot")}


def test_a_slot_is_free_when_its_last_tensor_is_gone():
    room = slots.Room(None)
    data, handle, room = slots.write({"a": torch.arange(9), "b": torch.ones(2, 3, dtype=torch.bool)}, room)
    memory, freed = slots.map_known(handle), []
    value = slots.read(data, memory, lambda: freed.append(1))
    part = value["b"][1]
    assert value["a"].tolist() == list(range(9)) and bool(part.all())
    del value
    gc.collect()
    assert not freed, "a view of one tensor still looks into the slot"
    del part
    gc.collect()
    assert freed == [1]


@pytest.mark.parametrize(
    ("job", "kind", "word"),
    [("refuse", UserError, "no such sample"), ("break", KeyError, "what"), ("die", SwathError, "3")],
)
def test_what_goes_wrong_in_a_process_is_said(job, kind, word):
    found = ahead(Counting(), [1, 2, job, 3], 2, "fork")
    assert [next(found)["job"], next(found)["job"]] == [1, 2]
    with pytest.raises(kind, match=word):
        next(found)


def test_stopping_early_ends_the_processes():
    found = ahead(Counting(), range(10**6), 2, "fork")
    next(found)
    import multiprocessing

    crew = [weakref.ref(p) for p in multiprocessing.active_children()]
    assert len(crew) >= 2
    found.close()
    end = time.monotonic() + 10
    while any(p().is_alive() for p in crew if p() is not None) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(p().is_alive() for p in crew if p() is not None)
