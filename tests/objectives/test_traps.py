"""The fifteen traps of public pretraining code, and the tests that would fall into them.

 1 FSDP2 casts inputs to bf16: years and wavelengths merge
 2 a backward pass across ranks that reads a transposed gradient by its memory
 3 sums over ranks of local means: gradients as many times too large as there are ranks
 4 each rank clips by its own norm: replicas drift apart
 5 the state of generators is not saved; the old checkpoint goes before the new one is there; no other number of ranks
 6 a structured mask whose condition is always true: everything is ignored
 7 DeCUR's two projectors are one; four processes are taken for granted
 8 MMEarth's decoder blocks are one for all modalities
 9 CROMA's gathered keys get no gradient; its grid and bands are written into the code
10 workers' randomness is remade on resume, depends on their number and repeats between epochs
11 DOFA's patches are shifted by a padding, which weights were trained with
12 merging loads into a fresh random model by whatever names agree, and drops whole numbers
13 Presto's default mask fails its own assertion; SatMAE takes three dates only, SimMIM three bands only
14 SeCo draws dates with replacement: two views may be one
15 4M's mean counts modalities that had nothing to predict
"""

import ast
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import make
from tiny_tokens import S1, Tiny, make_batch

from swath.core import SENSORS, generator, seed_of
from swath.core.config import parse_member
from swath.objectives import OBJECTIVES, Kit
from swath.objectives.losses.contrast import gather

ROOT = Path(__file__).parents[1]
TRAPS = {
    1: ["train/test_ranks.py::test_trap_1_fsdp_casts_no_input"],
    2: ["objectives/test_traps.py::test_2_and_9_a_gathered_gradient_is_that_of_one_process"],
    3: ["train/test_ranks.py::test_two_ranks_are_the_same_run", "train/test_loop.py::test_accumulation_counts_truly"],
    4: ["train/test_ranks.py::test_two_ranks_are_the_same_run"],
    5: [
        "train/test_loop.py::test_kill_9_and_resume_gives_the_same_weights_bitwise",
        "objectives/test_guarantees.py::test_4_a_full_disk_and_a_damaged_file",
        "train/test_ranks.py::test_two_ranks_resume_what_one_began_and_back",
    ],
    6: ["objectives/test_masks.py::test_trap_6_a_structured_mask_is_never_all_ignored"],
    7: [
        "objectives/test_others.py::test_trap_7_projectors_are_tied_only_when_asked",
        "objectives/test_oracles.py::test_decur",
    ],
    8: ["objectives/test_others.py::test_multimae_adds_sensors_and_keeps_decoders_apart"],
    9: [
        "objectives/test_traps.py::test_2_and_9_a_gathered_gradient_is_that_of_one_process",
        "objectives/test_traps.py::test_9_and_13_any_grid_bands_and_dates",
    ],
    10: [
        "objectives/test_guarantees.py::test_2_workers",
        "objectives/test_masks.py::test_a_sample_is_masked_alike_in_any_batch",
        "objectives/test_traps.py::test_10_no_two_samples_or_epochs_share_their_draws",
    ],
    11: ["objectives/test_traps.py::test_11_a_dofa_patch_is_shifted_as_it_was_trained"],
    12: [
        "adapt/test_merge.py::test_models_that_differ_are_refused",
        "adapt/test_merge.py::test_no_step_is_the_base",
        "adapt/test_merge.py::test_losses_of_other_objectives_are_refused",
    ],
    13: [
        "objectives/test_masks.py::test_trap_13_the_default_mixture_is_valid",
        "objectives/test_traps.py::test_9_and_13_any_grid_bands_and_dates",
    ],
    14: ["objectives/test_views.py::test_trap_14_dates_are_drawn_without_replacement"],
    15: ["objectives/test_mae.py::test_a_sensor_without_hidden_tokens_does_not_count"],
}


def test_every_trap_has_its_tests():
    assert sorted(TRAPS) == list(range(1, 16))
    for number, tests in TRAPS.items():
        assert f"\n{number:2d} " in __doc__
        for test in tests:
            path, name = test.split("::")
            names = {n.name for n in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(n, ast.FunctionDef)}
            assert name in names, test


GATHERED = """
import os, sys, torch, torch.distributed as dist
from swath.objectives.losses.contrast import gather
dist.init_process_group("gloo")
rank = dist.get_rank()
whole = torch.arange(12.0).view(4, 3)
x = whole[:3].clone() if rank == 0 else whole[3:].clone()  # the last batch of an epoch may not divide evenly
every, start = gather(x.requires_grad_())
assert start == 3 * rank and torch.equal(every, whole)
weight = torch.arange(12.0).view(3, 4) + 100 * rank
(every.t() * weight).sum().backward()  # the gradient that reaches `every` is a transposed view
torch.save(x.grad, sys.argv[1] + f"/{rank}.pt")
dist.barrier()
os._exit(0)
"""


def test_2_and_9_a_gathered_gradient_is_that_of_one_process(tmp_path):
    """Row i gets what every rank's loss says of it, its own and the others'. torch's own all_gather does fall into
    trap 2: its backward pass reads a transposed gradient by its memory."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    procs = []
    for rank in range(2):
        env = {**os.environ, "PYTHONPATH": str(ROOT.parent / "src"), "OMP_NUM_THREADS": "1", "RANK": str(rank),
               "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
        command = [sys.executable, "-W", "ignore", "-c", GATHERED, str(tmp_path)]
        procs.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    errors = [p.communicate(timeout=100)[1] for p in procs]
    assert [p.returncode for p in procs] == [0, 0], errors
    found = torch.cat([torch.load(tmp_path / f"{r}.pt") for r in range(2)])
    wanted = 2 * torch.arange(12.0).view(3, 4).t() + 100
    assert torch.equal(found, wanted)
    assert gather(found)[0] is found, "one process gathers nothing"


@pytest.mark.parametrize("name", ["mae", "simmim", "croma", "multimae", "fgmae"])
def test_9_and_13_any_grid_bands_and_dates(name):
    for size, bands, t in (((8, 20), ["red"], 1), ((16, 8), ["blue", "red", "nir", "swir16", "swir22"], 4)):
        optical = SENSORS.get("sentinel2-l2a").select(bands)
        batch = make_batch(3, t=t, size=20, sensors=(optical, S1))
        layers = {
            k: replace(v, x=v.x[..., : size[0], : size[1]], valid=v.valid[..., : size[0], : size[1]])
            for k, v in batch.layers.items()
        }
        batch = replace(batch, layers=layers)
        given = {k: v for k, v in vars(make(name)[0].config).items() if k in ("width", "depth", "heads", "dim")}
        module = parse_member({"kind": name, **given}, OBJECTIVES).build(Kit(Tiny((optical, S1)), batch[0]))
        step = module(batch, generator(0))
        assert torch.isfinite(step.loss)
        step.loss.backward()


def test_10_no_two_samples_or_epochs_share_their_draws():
    """An address is hashed whole: (epoch, worker i + 1) is not (epoch + 1, worker i)."""
    seeds = {seed_of(0, epoch, "mask", key) for epoch in range(50) for key in range(200)}
    assert len(seeds) == 50 * 200
    assert seed_of(0, 1, 2) != seed_of(0, 2, 1)
    assert seed_of(0, 12) != seed_of(0, 1, 2)


def test_11_a_dofa_patch_is_shifted_as_it_was_trained():
    """A pixel of padding comes first, so the sixteenth column of an image is the second patch's first."""
    from swath.models.encoders.dofa import DofaShape, WaveEmbed

    torch.manual_seed(0)
    embed = WaveEmbed(DofaShape(dim=16, heads=2, waves=128))
    x, um = torch.randn(1, 2, 32, 64), torch.tensor([0.66, 0.84])
    other = x.clone()
    other[..., 15] += 1
    a, b = (embed(v, um)[0].unflatten(1, (2, 4)) for v in (x, other))
    moved = (a - b).abs().amax((0, 1, 3)) > 0
    assert moved.tolist() == [False, True, False, False]
