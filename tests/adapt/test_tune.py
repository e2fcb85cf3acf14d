"""From a run to a bundle: every task learns more than its baseline, and the bundle says what the run said."""

import hashlib
import json
import re
import shutil
import zipfile
from dataclasses import replace

import pytest
import tiny_adapt as tiny
import torch
from safetensors.torch import load_file, save_file

from swath.adapt.bundle import Bundle, open_card, seal_of
from swath.adapt.prepare import prepare
from swath.adapt.run import TuneRun
from swath.adapt.tune import tune
from swath.core import config
from swath.core.batch import Batch, collate
from swath.core.errors import SwathWarning, UserError
from swath.models import build_encoder

VIT = {"kind": "swath-vit", "size": "nano", "patch": 8}


def make(tmp_path, **given):
    plan = {
        "name": "tiny", "data": {"kind": "folder", "path": "unused"}, "encoder": VIT, "out": str(tmp_path / "run"),
        "loop": {"epochs": 6, "batch_size": 8, "progress": False}, "trust": {"bootstrap": 100, "chips": 2},
    }  # fmt: skip
    return config.parse({**plan, **given}, TuneRun)


@pytest.fixture(scope="module")
def scars(tmp_path_factory):
    source = tiny.TinySource("mask", n=40)
    return source, tune(make(tmp_path_factory.mktemp("tune"), task="segment"), source)


def test_segment_beats_the_majority(scars):
    _, found = scars
    assert found.scores["iou_macro"] > 0.6 > 3 * found.baseline["iou_macro"]
    low, high = found.record["intervals"]["iou_macro"]
    assert low <= found.scores["iou_macro"] <= high


def test_bundle_says_what_the_run_said(scars):
    source, found = scars
    batch = collate([source.sample(i) for i in source.splits()["test"]])
    one, other = Bundle.load(found.bundle), Bundle.load(found.packed)
    a, b = one.predict(batch), other.predict(batch)
    assert torch.equal(a["probabilities"], b["probabilities"])
    scores = one.task.scores()
    scores.update(a, batch)
    assert scores.compute()["iou_macro"] == pytest.approx(found.scores["iou_macro"], abs=1e-6)
    torch.testing.assert_close(a["probabilities"].sum(1), torch.ones(10, 32, 32))


def rewritten(folder, to, change, drop=""):
    """The bundle as another Swath might have written it."""
    shutil.copytree(folder, to)
    body = json.loads((to / "bundle.json").read_text())
    if drop:
        kept = {k: v for k, v in load_file(to / "weights.safetensors").items() if drop not in k}
        save_file(kept, to / "weights.safetensors")
        body["weights_sha256"] = hashlib.sha256((to / "weights.safetensors").read_bytes()).hexdigest()
    change(body)
    body["seal"] = seal_of(body)
    (to / "bundle.json").write_text(json.dumps(body))
    return to


def test_a_bundle_of_another_time_says_so(scars, tmp_path):
    folder = scars[1].bundle
    old = rewritten(folder, tmp_path / "old", lambda b: b.pop("format"), drop="planes.")
    with pytest.raises(UserError, match="a bundle of format 1, and 'segment' of this Swath is of format 2") as why:
        Bundle.load(old)
    assert "tune it again" in why.value.remedy and "tensors missing" in why.value.what
    with pytest.raises(UserError, match="format 1"):  # a key of its recipe that is gone
        Bundle.load(rewritten(folder, tmp_path / "key", lambda b: (b.pop("format"), b["recipe"].update(gone=1))))
    with pytest.raises(UserError, match="newer Swath"):
        Bundle.load(rewritten(folder, tmp_path / "new", lambda b: b.update(format=99)))
    with pytest.raises(UserError, match="changed after it was written"):
        Bundle.load(rewritten(folder, tmp_path / "cut", lambda b: None, drop="planes."))
    with pytest.raises(UserError, match="has no 'recipe'"):
        Bundle.load(rewritten(folder, tmp_path / "bare", lambda b: b.pop("recipe")))
    with pytest.warns(SwathWarning, match="is of format 1"):
        Bundle.load(rewritten(folder, tmp_path / "fits", lambda b: b.pop("format")))


def test_card_is_plain(scars):
    _, found = scars
    card = open_card(found.packed)
    assert [b["name"] for b in card["inputs"][0]["bands"]] == ["blue", "green", "red", "nir"]
    assert card["inputs"][0]["bands"][0]["unit"] == "reflectance"
    assert list(card["label"]["classes"]) == ["a", "b", "c"]
    assert card["tuning"] == "full" and card["metrics"]["iou_macro"] and len(card["base"]["sha256"]) == 64
    json.dumps(card, allow_nan=False)


def test_bundle_wants_its_bands_in_any_order(scars):
    source, found = scars
    bundle, batch = Bundle.load(found.bundle), source.sample(0)
    layer = batch.layers[tiny.SENSOR.id]
    turned = Batch({tiny.SENSOR.id: layer.select(["nir", "red", "blue", "green"])}, batch.where)
    assert torch.equal(bundle.predict(turned)["probabilities"], bundle.predict(batch)["probabilities"])
    with pytest.raises(UserError, match="unknown band 'nir'"):
        bundle.predict(Batch({tiny.SENSOR.id: layer.select(["red", "blue", "green"])}, batch.where))
    more = replace(layer, x=layer.x.repeat(1, 3, 1, 1, 1), valid=layer.valid.repeat(1, 3, 1, 1, 1), times=None)
    with pytest.raises(UserError, match="3 dates"):
        bundle.predict(Batch({tiny.SENSOR.id: more}, batch.where))
    percent = replace(layer.sensor, bands=tuple(replace(b, unit="percent") for b in layer.sensor.bands))
    with pytest.raises(UserError, match="no conversion from 'percent' to 'reflectance'"):
        bundle.predict(Batch({tiny.SENSOR.id: replace(layer, sensor=percent)}, batch.where))


def test_a_number_changed_in_the_card_is_noticed(scars, tmp_path):
    def edited(name, change):
        to = tmp_path / name
        shutil.copytree(scars[1].bundle, to)
        body = json.loads((to / "bundle.json").read_text())
        change(body)
        (to / "bundle.json").write_text(json.dumps(body))
        return to

    assert Bundle.load(edited("same", lambda b: None)).digest == Bundle.load(scars[1].packed).digest
    for name, change in {
        "statistics": lambda b: b["recipe"]["statistics"]["sentinel2-l2a"].update(red=[9.0, 1.0]),
        "bands": lambda b: b["card"]["inputs"][0]["bands"].reverse(),
        "classes": lambda b: b["card"]["label"]["classes"].reverse(),
        "threshold": lambda b: b["card"]["calibration"].update(conformal=0.1),
    }.items():
        for read in (Bundle.load, open_card):
            with pytest.raises(UserError, match="changed after it was written"):
                read(edited(f"{name}-{read.__name__}", change))


def packed(to, folder, *, swap=(), compress=zipfile.ZIP_STORED):
    with zipfile.ZipFile(to, "w", compress) as out:
        for name in ("bundle.json", "weights.safetensors", "README.md"):
            out.writestr(name, dict(swap).get(name, (folder / name).read_bytes()))
    return to


def test_hostile_archives_are_refused_in_words(scars, tmp_path):
    folder = scars[1].bundle
    again = Bundle.load(packed(tmp_path / "again.swath", folder, compress=zipfile.ZIP_DEFLATED))
    assert again.digest == Bundle.load(folder).digest  # one that somebody zipped
    swollen = {"weights.safetensors": bytes(2**25)}
    bad = {
        "many times its size": packed(tmp_path / "a.swath", folder, swap=swollen, compress=zipfile.ZIP_DEFLATED),
        "maximum recursion": packed(tmp_path / "b.swath", folder, swap={"bundle.json": b"[" * 200000}),
    }
    locked = bytearray(packed(tmp_path / "c.swath", folder).read_bytes())
    odd = bytearray(locked)
    for sign, flag, method in ((b"PK\x03\x04", 6, 8), (b"PK\x01\x02", 8, 10)):
        for at in [m.start() for m in re.finditer(re.escape(sign), bytes(locked))]:
            locked[at + flag] |= 1
            odd[at + method] = 99
    for name, text, blob in (("c", "encrypted", locked), ("d", "not supported", odd)):
        (tmp_path / f"{name}.swath").write_bytes(blob)
        bad[text] = tmp_path / f"{name}.swath"
    no_tensors = rewritten(folder, tmp_path / "pickled", lambda b: b.update(weights_sha256=sha256(b"pickle")))
    (no_tensors / "weights.safetensors").write_bytes(b"pickle")
    for text, path in {**bad, "holds no tensors": no_tensors}.items():
        with pytest.raises(UserError, match=text):
            Bundle.load(path)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def test_damaged_bundles_are_named(scars, tmp_path):
    _, found = scars
    body = found.packed.read_bytes()
    broken = tmp_path / "broken.swath"
    broken.write_bytes(body[: len(body) // 2])
    with pytest.raises(UserError, match="no bundle"):
        Bundle.load(broken)
    with pytest.raises(UserError, match="no such bundle"):
        Bundle.load(tmp_path / "absent.swath")


CASES = [
    ("class", "classify", "full", 1), ("class", "classify", "knn", 1), ("tags", "multilabel", "full", 1),
    ("map", "regress", "frozen", 1), ("scalar", "scalar", "full", 1), ("class", "series", "full", 3),
    ("mask", "segment", "lora", 2),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "task", "tuning", "dates"), CASES)
def test_tasks_beat_their_baselines(kind, task, tuning, dates, tmp_path):
    source = tiny.TinySource(kind, n=40, dates=dates)
    # a frozen encoder's features are cached: many epochs of its head cost what few of a whole encoder do
    loop = {"epochs": 30 if tuning == "frozen" or kind == "tags" else 6, "batch_size": 8, "progress": False}
    found = tune(make(tmp_path, task=task, tuning=tuning, loop=loop), source)
    score, base = found.scores[found.primary], found.baseline.get(found.primary)
    if found.record["direction"] == "min":
        assert score < 0.8 * base
    elif kind == "tags":
        assert score > base + 0.1  # always saying the two usual tags is right in most of these
    else:
        assert score > 1.5 * (base or 0.5) or score > 0.95
    batch = collate([source.sample(i) for i in source.splits()["test"]])
    loaded = Bundle.load(found.bundle)
    scores = loaded.task.scores()
    scores.update(loaded.predict(batch), batch)
    assert scores.compute()[found.primary] == pytest.approx(score, abs=1e-5)


def test_delta_loads_onto_its_base_only(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(3)
    base = build_encoder(VIT)
    file = tmp_path / "base.safetensors"
    save_file(base.state_dict(), str(file))
    source = tiny.TinySource("mask", n=24)
    found = tune(make(tmp_path, task="segment", tuning="lora", decoder="linear", weights=str(file)), source)
    card = open_card(found.bundle)
    assert not card["base"]["whole"]
    size = (found.bundle / "weights.safetensors").stat().st_size
    assert size < 0.15 * file.stat().st_size
    batch = source.sample(0)
    want = Bundle.load(found.bundle).predict(batch)["probabilities"]
    shared = Bundle.load(found.bundle, base=base)
    assert torch.equal(shared.predict(batch)["probabilities"], want)
    own = {p.data_ptr() for p in shared.task.encoder.parameters()}
    assert sum(p.data_ptr() in own for p in base.parameters()) > 0.9 * len(list(base.parameters()))
    merged = Bundle.load(found.bundle).merge()
    torch.testing.assert_close(merged.predict(batch)["probabilities"], want, atol=1e-5, rtol=1e-5)
    merged.save(tmp_path / "merged")
    torch.testing.assert_close(
        Bundle.load(tmp_path / "merged").predict(batch)["probabilities"], want, atol=1e-5, rtol=1e-5
    )
    torch.manual_seed(4)
    with pytest.raises(UserError, match="the delta was made on"):
        Bundle.load(found.bundle, base=build_encoder(VIT))


def test_frozen_run_reads_pixels_once(tmp_path):
    source = tiny.TinySource("mask", n=24)
    reads = []
    inner = source.sample
    source.sample = lambda i, bands=None: reads.append(i) or inner(i, bands)
    a = tune(make(tmp_path / "a", task="segment", tuning="frozen", trust={"bootstrap": 10, "chips": 0}), source)
    cached = len(reads)
    reads.clear()
    b = tune(
        make(tmp_path / "b", task="segment", tuning="frozen", trust={"bootstrap": 10, "chips": 0}, cache=False), source
    )
    assert cached < len(reads) / 2
    assert a.scores["iou_macro"] == pytest.approx(b.scores["iou_macro"], abs=0.02)


def test_a_run_begins_anew_where_it_is_told_to(tmp_path, monkeypatch):
    from swath.train.loop import _Fit

    source, trust, taken = tiny.TinySource("class", n=24), {"bootstrap": 0, "chips": 0}, []
    step = _Fit._step
    monkeypatch.setattr(_Fit, "_step", lambda self, at, *rest: taken.append(at) or step(self, at, *rest))

    def steps_of(steps, **how):
        taken.clear()
        loop = {"steps": steps, "batch_size": 4, "progress": False}
        done = tune(make(tmp_path, task="classify", loop=loop, trust=trust), source, **how)
        return repr(done.scores), list(taken)  # a precision may be NaN, which equals nothing

    first = steps_of(2)
    assert first[1] == [0, 1]
    assert steps_of(2) == (first[0], []), "it was done"
    with pytest.raises(UserError, match=r"loop\.steps") as caught:
        steps_of(3)
    assert "--fresh" in caught.value.remedy
    assert steps_of(2, resume="never") == first
    assert steps_of(3, resume="never")[1] == [0, 1, 2]


@pytest.mark.parametrize(("task", "decoder"), [("segment", "upernet"), ("segment", "unet"), ("classify", "")])
def test_a_batch_of_one_value_a_channel_trains(task, decoder, tmp_path):
    """A batch norm sees one value a channel where a chip of 32 pixels stands alone at stride 32, and under pooling."""
    source = tiny.TinySource({"segment": "mask", "classify": "class"}[task], n=12)
    encoder = {"kind": "timm", "model": "test_resnet", "sensor": tiny.SENSOR.id, "bands": list(tiny.SENSOR.names)}
    more = {"decoder": {"kind": decoder}} if decoder else {}
    loop = {"steps": 3, "batch_size": 1, "progress": False}
    found = tune(make(tmp_path, task=task, encoder=encoder, loop=loop, **more), source)
    assert found.scores[found.primary] == found.scores[found.primary]
    norm = torch.nn.BatchNorm2d(4)
    ready = prepare(make(tmp_path, task="segment"), source if task == "segment" else tiny.TinySource()).task
    ready.norm = norm
    ready.train()
    before = norm.running_mean.clone()
    with pytest.warns(SwathWarning, match="normalised by the running statistics"):
        out = norm(torch.full((1, 4, 1, 1), 3.0))
    assert torch.allclose(out, torch.full((1, 4, 1, 1), 3.0), atol=1e-4) and torch.equal(norm.running_mean, before)
    norm(torch.randn(2, 4, 3, 3))
    assert norm.training and not torch.equal(norm.running_mean, before)


def test_chips_are_drawn_with_their_key(tmp_path):
    """Colours of the classes that are shown; the span of a map's known values, and white where it is not known."""
    trust = {"bootstrap": 10, "chips": 1}
    loop = {"steps": 2, "batch_size": 8, "progress": False}
    found = tune(make(tmp_path / "a", task="segment", trust=trust, loop=loop), tiny.TinySource("mask"))
    for chip in found.record["chips"]:
        assert set(chip["colours"].items()) <= {("a", "#000000"), ("b", "#ff0000"), ("c", "#00ff00")}
        assert chip["colours"] and "measure" not in chip
    source = tiny.TinySource("map")
    found = tune(make(tmp_path / "b", task="regress", trust=trust, loop=loop), source)
    for chip in found.record["chips"]:
        low, high, unit = chip["span"]
        assert unit == "m" and low < high and chip["measure"] == f"rmse {-chip['score']:.3g}"
    found = tune(make(tmp_path / "c", task="change", trust=trust, loop=loop), tiny.ChangeSource())
    for chip in found.record["chips"]:
        assert {"image", "after", "truth", "told"} <= set(chip)
        pictures = [(tmp_path / "c" / "run" / "chips" / chip[k]).read_bytes() for k in ("image", "after")]
        assert pictures[0] != pictures[1]
