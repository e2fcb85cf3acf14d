"""The feature cache is shared by processes: who comes second throws the own copy away."""

from dataclasses import replace

import pytest
import tiny_adapt as tiny
from test_tune import make

from swath.adapt.cache import _publish as publish
from swath.adapt.tune import tune


def made(folder, text):
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(text)
    return folder


def test_the_first_copy_stays_and_the_second_goes(tmp_path):
    first, second, place = made(tmp_path / "a", "1"), made(tmp_path / "b", "2"), tmp_path / "features"
    publish(first, place)
    publish(second, place)
    assert (place / "meta.json").read_text() == "1" and [p.name for p in tmp_path.iterdir()] == ["features"]


def test_a_folder_that_is_no_cache_is_not_taken_for_one(tmp_path):
    (tmp_path / "features").mkdir()
    (tmp_path / "features/notes.txt").write_text("mine")
    with pytest.raises(OSError):
        publish(made(tmp_path / "a", "1"), tmp_path / "features")
    assert (tmp_path / "features/notes.txt").read_text() == "mine"


def test_what_decides_features_decides_their_folder(tmp_path):
    """The same tensors asked in another way, other statistics or bands: nothing old is met in a shared folder."""
    held = tmp_path / "features"
    source = tiny.TinySource("class", n=16)

    def folders(name, source=source, **changed):
        run = make(
            tmp_path / name, task="classify", tuning="linear", features=str(held),
            loop={"steps": 2, "batch_size": 4, "progress": False}, trust={"chips": 0}, **changed,
        )  # fmt: skip
        tune(run, source)
        return {p.name for p in held.iterdir()}

    first = folders("a")
    assert len(first) == 1 and folders("b") == first
    nano = {"kind": "swath-vit", "size": "nano", "patch": 8}
    second = folders("c", encoder={**nano, "alibi": True})
    assert len(second) == 2
    third = folders("d", bands={tiny.SENSOR.id: ["red", "nir"]})
    assert len(third) == 3
    assert len(folders("e", replace(source, fingerprint="other pixels"))) == 4
