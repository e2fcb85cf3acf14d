"""The record of a pretraining and its page: compute, probes, pictures, stages; and FLOPs against a hand count."""

import json
import re
import subprocess
import sys

import pytest
import torch
from cases import CASES, make
from tiny_tokens import S2, make_batch
from torch import nn

from swath.core import SENSORS, generator
from swath.core.config import parse
from swath.data.picture import MISSING
from swath.models import build_encoder
from swath.objectives.pretraining import PretrainRun, pretrain
from swath.objectives.pretraining.pictures import HIDDEN, as_colours, effective_rank, row_of_dates
from swath.objectives.pretraining.probe import majority
from swath.report.pretrain import write
from swath.train import LoopConfig, compute
from swath.train.compute import Compute

RUN = {
    "name": "hills",
    "data": {"kind": "world", "sensors": {"sentinel2-l2a": ["green", "red", "nir"]}, "size": 16, "clouds": 0.0,
             "chips": {"train": 8, "val": 3, "test": 2}, "dates": ["04-20", "07-20"], "labels": ["land_cover"]},
    "encoder": {"kind": "swath-vit", "size": "nano", "patch": 4},
    "objective": {"kind": "mae", "mask": {"kind": "random", "ratio": 0.75}, "width": 32, "depth": 1, "heads": 2},
    "loop": {"steps": 4, "batch_size": 4, "validate_every": 2, "progress": False},
    "probe": {"label": "land_cover", "k": 3},
    "pictures": 2,
}  # fmt: skip
PAINTERS = ("mae", "simmim", "fgmae", "multimae", "mpmae", "croma", "sum", "inpaint")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("record")
    return out, pretrain(parse({**RUN, "out": str(out)}, PretrainRun), command=["swath", "pretrain", "run.yaml"])


def test_the_record_tells_data_architecture_and_algorithm_apart(done):
    out, found = done
    record = json.loads((out / "record.json").read_text())
    card = record["card"]
    assert card == json.loads((out / "card.json").read_text())
    assert card["data"]["source"] == "world"
    assert re.fullmatch("[0-9a-f]{64}", card["data"]["fingerprint"])
    assert card["data"]["recipe"]["dates"] == ["04-20", "07-20"]
    assert card["data"]["diversity"]["samples"] == 8
    assert card["data"]["diversity"]["entropy"]["land_cover"] > 0
    encoder = found.objective.encoder
    assert card["architecture"]["parameters"] == sum(p.numel() for p in encoder.parameters())
    assert card["algorithm"]["parameters"] > card["architecture"]["parameters"], "the decoder learns too"
    compute = card["compute"]
    ((shape, bucket),) = compute["flops_by_shape"].items()
    assert (shape, bucket["passes"], bucket["tokens"]) == ("4 x sentinel2-l2a 2x3x16x16", 4, 4 * 2 * 16)
    assert compute["flops"] == 4 * bucket["flops"]
    assert compute["tokens"] == 4 * 4 * 2 * 16
    assert 0 < compute["mfu"] < 1
    assert 0 <= compute["data_wait"] < 1
    assert card["joules_per_sample"] == pytest.approx(card["energy"]["kwh"] * 3.6e6 / 16)


def test_probes_tell_the_way_from_the_start(done):
    record = json.loads((done[0] / "record.json").read_text())
    rows = [r for r in record["curves"] if "linear" in r]
    assert [r["step"] for r in rows] == [2, 4]
    assert {"knn", "linear", "commonest"} <= record["probe_start"].keys()
    assert all(0 <= r[k] <= 1 for r in [record["probe_start"], *rows] for k in ("knn", "linear", "commonest"))


def test_the_page_holds_every_picture(done):
    out, _ = done
    html = write(out).read_text()
    pictures = json.loads((out / "record.json").read_text())["pictures"]
    files = [c[k] for c in pictures["features"]["chips"] for k in ("input", "start", "end")]
    files += [r[k] for r in pictures["reconstructions"] for k in ("input", "masked", "made")]
    assert len(files) == 12
    assert all((out / "pictures" / f).is_file() for f in files)
    assert len(re.findall("<img", html)) == len(files)
    for words in ("Reconstructions", "Features as colours", "What the features know", "FLOPs of the run", "Diversity"):
        assert words in html
    assert "http://" not in html.replace("http://www.w3.org", "")


def test_stages_go_on_from_each_other(tmp_path):
    loop = {"steps": 2, "batch_size": 4, "progress": False, "lr": 0.0}
    stages = [{"name": "paint"}, {"name": "squares", "objective": {"kind": "simmim"}, "loop": loop}]
    run = parse({**RUN, "out": str(tmp_path), "stages": stages, "probe": None, "pictures": 0}, PretrainRun)
    found = pretrain(run)
    assert [c["objective"]["kind"] for c in found.card["stages"]] == ["mae", "simmim"]
    assert found.card["stages"][1]["weights_from"] == str(tmp_path / "paint/encoder.safetensors")
    first, whole = (build_encoder(RUN["encoder"], weights=tmp_path / p / "encoder.safetensors") for p in ("paint", "."))
    # the second stage's rate is zero: its weights are the first stage's
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), whole.parameters(), strict=True))
    again = pretrain(run)
    assert [again.report.resumed_from, again.card["sha256"]] == [2, found.card["sha256"]]


class Two(nn.Module):
    """Two linear maps: 2 x B x (3 x 5 + 5 x 7) operations forward; backward, twice the second and once the first."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 5, bias=False), nn.Linear(5, 7, bias=False)


def test_flops_are_those_of_a_hand_count():
    module, batch = Two(), make_batch(2, sensors=(S2,))
    counter = Compute(module, LoopConfig(steps=1), {})
    for _ in range(3):
        with counter.batch(batch):
            module.b(module.a(torch.ones(4, 3))).sum().backward()
    (bucket,) = counter.sums["buckets"].values()
    assert bucket["passes"] == 3
    assert bucket["flops"] == 2 * 4 * (3 * 5 + 5 * 7) + 2 * 4 * (2 * 5 * 7 + 3 * 5)
    counter.step(2.0, 0.5)
    found = counter.record(torch.device("cpu"))
    assert found["data_wait"] == 0.25
    assert found["mfu"] == pytest.approx(3 * bucket["flops"] / (1.5 * found["peak_flops_per_s"]))


def test_a_first_step_asks_for_no_formulas():
    """They take torch a tenth of a second to import; what it computed is counted all the same."""
    program = """
import sys
import torch
from torch import nn
from swath.core.batch import Batch, Where
from swath.train.compute import Compute
from swath.train.config import LoopConfig
layer, late = nn.Linear(3, 5, bias=False), "torch.utils.flop_counter"
counter = Compute(layer, LoopConfig(steps=2), {})
batch = Batch({}, Where.unknown(1))
with counter.batch(batch):
    layer(torch.ones(4, 3)).sum().backward()
counter.step(1.0, 0.0)
assert late not in sys.modules, "imported before the first step was done"
assert [b["flops"] for b in counter.sums["buckets"].values()] == [2 * 2 * 4 * 3 * 5]
assert late in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_peak_is_the_better_library_s(monkeypatch):
    """By a clock that each product moves: one that the networks do not use must not lower what they are held to."""
    clock = [0.0]
    takes = {"mm": 2.0, "linear": 1.0}
    for place, name in ((torch, "mm"), (compute, "linear")):
        monkeypatch.setattr(place, name, lambda a, b, name=name: clock.__setitem__(0, clock[0] + takes[name]))
    monkeypatch.setattr(compute.time, "perf_counter", lambda: clock[0])
    peak = compute._peak.__wrapped__
    assert peak(torch.device("cpu"), "fp32", 1) == 2 * 1024**3
    takes["mm"] = 0.5
    assert peak(torch.device("cpu"), "fp32", 1) == 4 * 1024**3


@pytest.mark.parametrize("name", sorted(CASES))
def test_reconstruction_objectives_give_pictures(name):
    module, how = make(name)
    batch = make_batch(3, **how)
    module.eval()
    found = module.pictures(batch, generator(1))
    assert bool(found) == (name in PAINTERS)
    for key, x in found.items():
        given, shown, made = x.unbind(1)
        assert x.shape[0] == 3, key
        assert torch.isfinite(made).all()
        hidden = shown != given
        assert hidden.any()
        assert torch.equal(made[~hidden & (given != 0)], given[~hidden & (given != 0)])
        assert not torch.equal(made[hidden], given[hidden])


def test_colours_and_rank_know_a_collapsed_encoder():
    g = torch.Generator().manual_seed(0)
    rich, poor = torch.randn(400, 16, generator=g), torch.randn(400, 1, generator=g) @ torch.randn(1, 16, generator=g)
    assert effective_rank(rich) > 14
    assert effective_rank(poor) == pytest.approx(1, abs=0.01)
    _, share = as_colours(poor.T.reshape(1, 16, 20, 20))
    assert share == pytest.approx(1)
    pictures, share = as_colours(rich.T.reshape(1, 16, 20, 20))
    assert share < 0.5
    assert pictures[0].shape == (20, 20, 3)


def test_what_is_hidden_is_drawn_pale():
    x = torch.rand(3, 2, 4, 8, 8) + 0.1
    x[1, :, :, 4:] = 0
    x[1, :, :, :4] = x[0, :, :, :4]
    _, masked, made = row_of_dates(x, None)
    assert masked.shape == made.shape == (8, 18, 3)
    assert (masked[4:, :8] == 235).all()
    assert not (masked[:4, :8] == 235).all()


def test_a_cell_has_the_class_of_most_of_it():
    value = torch.tensor([[[0, 0, 1, 1], [0, 2, 1, 1], [2, 2, 0, 0], [2, 2, 0, 1]]])
    valid = torch.ones_like(value, dtype=torch.bool)
    valid[0, 2:, 2:] = False
    found, known = majority(value, valid, (2, 2))
    assert found[0].tolist() == [[0, 1], [2, 0]]
    assert known[0].tolist() == [[True, True], [True, False]]


def test_what_was_never_measured_is_neither_ground_nor_mask():
    """A bright hole does not decide the stretch, and it has a colour of its own; a grey ground stays grey."""
    sensor = SENSORS.get("sentinel2-l2a").select(["blue", "green", "red"])
    x = torch.linspace(0, 1, 64).view(1, 1, 8, 8).expand(1, 3, 8, 8).clone()
    valid = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    valid[..., :2, :] = False
    x[..., :2, :] = 99
    shown = x.clone()
    shown[..., 6:, :] = 0
    given, masked, made = row_of_dates(torch.stack([x, shown, x]), sensor, valid)
    assert (given[:2] == MISSING).all()
    assert (masked[6:] == HIDDEN).all()
    assert (masked[:2] == MISSING).all()
    assert (made[2:, :, 0] == made[2:, :, 2]).all()
    assert given[2:].max() > 200
    assert given[2:].min() < 50


def test_what_patches_add_to_a_grid_is_no_ground():
    """Elevation of 11 x 11 cells in patches of 4: the twelfth row and column are nothing's."""
    sensor = SENSORS.get("copdem")
    x = torch.zeros(3, 1, 1, 12, 12)
    x[..., :11, :11] = torch.linspace(500, 600, 121).view(11, 11)
    x[1, ..., :4, :4] = 0
    given, masked, _ = row_of_dates(x, sensor, torch.ones(1, 1, 11, 11, dtype=torch.bool))
    assert given.shape == (11, 11, 3)
    assert given[0, 0, 0] < 10, "the lowest ground is dark, not half-way up from the padding's zero"
    assert given[10, 10, 0] > 245
    assert (masked[:4, :4] == HIDDEN).all()
