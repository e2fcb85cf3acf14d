"""Shipped cards are sound; a card from anything is a card or a named error; the catalogue answers."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.data.chips import write

from swath.core import UnknownName, UserError
from swath.data.card import Card, read_card
from swath.data.cards import CARDS
from swath.data.catalogue import TASKS, Wish, find, row, verify
from swath.data.open import open_source
from swath.data.sources import SOURCES

GEOBENCH2 = {
    "benv2", "treesatai", "so2sat", "forestnet", "biomassters", "caffe", "cloudsen12", "burn-scars",
    "dynamic-earthnet", "flair2", "fotw", "kuro-siwo", "pastis", "spacenet2", "spacenet7", "substation", "everwatch",
    "nzcattle", "pastis-r",
}  # fmt: skip
CORE = {
    "kuro-siwo", "pastis", "burn-scars", "cloudsen12", "flair2", "spacenet7", "benv2", "treesatai", "biomassters",
    "fotw", "substation", "everwatch",
}  # fmt: skip
OTHERS = {
    "bigearthnet-v2", "eurosat", "so2sat-lcz42", "sen1floods11", "hls-burn-scars", "pastis", "multi-temporal-crop",
    "biomassters", "ftw", "spacenet2", "spacenet7", "oscd", "levir-cd", "uc-merced", "resisc45", "sen12ms",
    "ssl4eo-s12", "ssl4eo-l", "mmearth", "satlaspretrain", "majortom-core", "cropharvest", "landslide4sense", "flair",
    "xview2", "dynamic-earthnet", "cloudsen12", "openearthmap", "fmow-sentinel", "forestnet", "marida",
}  # fmt: skip


def test_the_families_of_cards_are_complete():
    names = set(CARDS.names())
    groups = {n: set(CARDS.get(n).groups) for n in names}
    assert {n.removeprefix("geobench2-") for n in names if "geobench2" in groups[n]} == GEOBENCH2
    assert {n.removeprefix("geobench2-") for n in names if "geobench2-core" in groups[n]} == CORE
    assert len([n for n in names if "geobench1" in groups[n]]) == 12
    assert names >= OTHERS and len(OTHERS) >= 30


@pytest.mark.parametrize("name", CARDS.names())
def test_a_shipped_card_is_sound(name):
    card = CARDS.get(name)
    assert card.title and card.citation and card.year and card.url and card.tasks
    assert set(card.tasks) <= set(TASKS)
    assert all(len(h) == 64 and set(h) <= set("0123456789abcdef") for h in card.files.values())
    assert card.layers
    for layer in card.layers:
        sensor = card.stored(layer)
        if sensor.id.startswith("sentinel2") and sensor.bands[0].unit == "reflectance" and name != "majortom-core":
            assert layer.scale is not None and layer.offset is not None, "the offset of 2022 must be said"
        if sensor.kind == "sar" and sensor.bands[0].unit == "db":
            assert layer.unit in ("db", "linear") or name == "majortom-core"
    for label in card.labels:
        assert not set(label.legend) & {int(v) for v in label.ignore}
        assert len(set(label.classes)) == len(label.classes)
    if card.layout:
        assert card.layout["kind"] in SOURCES
    row(card)


def test_the_catalogue_answers_by_what_people_choose_by():
    assert {c.name for c in find(Wish(group="geobench2"))} == {f"geobench2-{n}" for n in GEOBENCH2}
    radar = find(Wish(task="segment", sensor="sentinel1-*"))
    assert radar and all(any(x.sensor.startswith("sentinel1") for x in c.layers) for c in radar)
    assert all(c.size_gb is not None and c.size_gb <= 5 for c in find(Wish(max_gb=5.0)))
    assert {"uc-merced", "marida"} <= {c.name for c in find(Wish(max_gb=5.0))}
    with pytest.raises(UnknownName, match="unknown task 'segmentt'"):
        find(Wish(task="segmentt"))
    with pytest.raises(UnknownName, match="unknown sensor"):
        find(Wish(sensor="sentinel9"))


def test_files_are_proved_by_the_cards_sha256(tmp_path):
    import hashlib

    text = f'name = "x"\n[files]\n"a.bin" = "{hashlib.sha256(b"a").hexdigest()}"\n"b.bin" = "{"0" * 64}"\n"c" = "1"\n'
    card = read_card(text, "here.toml")
    (tmp_path / "a.bin").write_bytes(b"a")
    (tmp_path / "b.bin").write_bytes(b"b")
    assert [r["state"] for r in verify(card, tmp_path)] == ["right", "wrong", "absent"]
    with pytest.raises(UserError, match="gives no sha256"):
        verify(CARDS.get("eurosat"), tmp_path)


def test_the_verb_gives_every_attribute():
    command = [
        sys.executable,
        "-m",
        "swath.cli",
        "data",
        "list",
        "--task",
        "segment",
        "--sensor",
        "sentinel2-*",
        "--json",
    ]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    keys = {"name", "task", "classes", "sensors", "gsd", "size_gb", "coverage", "licence", "samples", "year"}
    assert rows and all(set(r) == keys for r in rows)


def test_an_unknown_key_or_band_names_the_nearest():
    with pytest.raises(UserError, match="unknown key 'licens'") as caught:
        read_card('name = "x"\nlicens = "MIT"\n', "my/card.toml")
    assert "my/card.toml" in caught.value.where and "licence" in caught.value.remedy
    with pytest.raises(UserError, match="unknown band 'bleu'") as caught:
        read_card('name = "x"\n[[layer]]\nsensor = "sentinel2-l2a"\nbands = ["bleu"]\n', "my/card.toml")
    assert "blue" in caught.value.remedy


@given(st.binary(max_size=120) | st.text(max_size=120))
def test_any_bytes_are_a_card_or_a_named_error(data):
    try:
        assert isinstance(read_card(data, "here.toml", "x"), Card)
    except UserError as error:
        assert "here.toml" in error.where


VALUES = st.recursive(
    st.booleans() | st.integers(-5, 5) | st.text(max_size=6) | st.floats(),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text("abkind", max_size=6), x, max_size=3),
    max_leaves=6,
)
KEYS = ["name", "layer", "label", "sensor", "layout", "splits", "files", "gsd", "tasks", "year", "place", "zzz"]


def toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + " }"
    return repr(value)


LAYER = st.fixed_dictionaries(
    {"sensor": st.sampled_from(["sentinel2-l2a", "nope"]) | VALUES, "bands": st.just(["red"]) | VALUES},
    optional={"scale": VALUES, "steps": VALUES, "path": VALUES, "unit": VALUES, "dates": VALUES},
)
LABEL = st.fixed_dictionaries({"kind": st.just("mask") | VALUES}, optional={"classes": VALUES, "ignore": VALUES})


@given(
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4),
    st.lists(LAYER, max_size=2),
    st.lists(LABEL, max_size=2),
)
def test_any_toml_is_a_card_or_a_named_error(top, layers, labels):
    held = {"layer": layers, "label": labels, **top}
    text = "\n".join(f"{k} = {toml(v)}" for k, v in held.items())
    try:
        assert isinstance(read_card(text, "here.toml", "x"), Card)
    except UserError as error:
        assert "here.toml" in error.where


FOLDERS = {
    "levir-cd": (["train/A/7.png", "train/B/7.png"], "train/label/7.png", 255, "train", 2),
    "xview2": (
        ["tier3/images/woolsey-fire_00000001_pre_disaster.png", "tier3/images/woolsey-fire_00000001_post_disaster.png"],
        "tier3/targets/woolsey-fire_00000001_post_disaster_target.png", 4, "train", 2,
    ),
    "loveda": (["Val/Rural/images_png/2522.png"], "Val/Rural/masks_png/2522.png", 3, "val", 1),
    "openearthmap": (["aachen/images/aachen_1.tif"], "aachen/labels/aachen_1.tif", 8, "val", 1),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_card_reads_the_folder_as_published(tmp_path, name):
    images, label, value, split, steps = FOLDERS[name]
    rng = np.random.default_rng(0)
    for path in [*images, label]:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        array = np.full((8, 8), value, "uint8") if path == label else rng.integers(0, 255, (3, 8, 8)).astype("uint8")
        if file.suffix == ".png":
            Image.fromarray(array if array.ndim == 2 else array.transpose(1, 2, 0)).save(file)
        else:
            write(file, array if array.ndim == 3 else array[None])
    (tmp_path / "val.txt").write_text("aachen_1.tif\n")
    source = open_source({"kind": "folder", "path": str(tmp_path), "card": name})
    assert len(source) == 1 and dict(source.splits()) == {split: [0]}
    sample = source.sample(0)
    assert sample.layers["rgb-aerial"].shape == (1, steps, 3, 8, 8)
    card = CARDS.get(name).labels[0]
    assert sample.labels["label"].value.unique().tolist() == [card.legend[value]]
