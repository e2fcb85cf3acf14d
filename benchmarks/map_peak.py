"""The forward of a map's model against the matrix products it is made of: ViT-B/16 at 224 pixels, one thread.

    python benchmarks/map_peak.py [--trunk vit_base_patch16_224] [--batch 0] [--rounds 7]

The peak is the time of the model's own products alone, at its own shapes: four linear maps a block, the two of
attention, the patches. It is taken twice, with torch.matmul (what everybody gets) and with weights laid out by oneDNN
as `swath.deploy.packed` lays them; the faster of the two is the processor's. Batches are what a map takes in each
precision (or `--batch` in both), times are CPU time per image. Rounds are interleaved, medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from copy import deepcopy
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from map_net import DIMS, _plain


def products(dim: int, heads: int, batch: int, dtype: torch.dtype, packed: bool):
    """A function that multiplies everything that one forward multiplies, and the GFLOP of it."""
    rows, tokens, side = batch * 197, 197, dim // heads
    maps = [(dim, 3 * dim), (dim, dim), (dim, 4 * dim), (4 * dim, dim)]
    patches = (6 * 256, dim)
    x = {k: torch.randn(rows, k, dtype=dtype) for k in {m[0] for m in [*maps, patches]}}
    weights = {m: torch.randn(m[1], m[0], dtype=dtype) for m in [*maps, patches]}
    if packed:
        ready = {m: torch.ops.mkldnn._reorder_linear_weight(w, rows) for m, w in weights.items()}
    q, k, v = (torch.randn(batch * heads, tokens, side, dtype=dtype) for _ in range(3))
    kt = k.transpose(1, 2).contiguous()

    def one(shape):
        if packed:
            return torch.ops.mkldnn._linear_pointwise(x[shape[0]], ready[shape], None, "none", [], "none")
        return x[shape[0]] @ weights[shape].t()

    def run():
        one(patches)
        for _ in range(12):
            for shape in maps:
                one(shape)
            torch.bmm(torch.bmm(q, kt), v)

    linear = 12 * sum(2 * rows * a * b for a, b in maps) + 2 * rows * patches[0] * patches[1]
    return run, (linear + 12 * 4 * batch * heads * tokens * tokens * side) / 1e9


def main() -> None:
    from swath.core.heap import keep_freed
    from swath.deploy.packed import pack, supported
    from swath.deploy.plan import BATCH

    parser = argparse.ArgumentParser()
    parser.add_argument("--trunk", default="vit_base_patch16_224")
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    keep_freed()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dim, heads = DIMS[given.trunk.split("_")[1]]
    plain = _plain(given.trunk).eval()
    batch = {p: given.batch or n for p, n in BATCH.items()}
    x = torch.randn(max(batch.values()), 6, 224, 224)

    def forward(net, bf16=False):
        def run():
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                return net.norm(net.tokens(x[: batch["bf16" if bf16 else "fp32"]], (11,))[0])

        return run

    nets = {"plain fp32": forward(plain), "plain bf16": forward(plain, True)}
    for precision in ("fp32", "bf16"):
        if supported(precision):
            net = deepcopy(plain)
            pack(net, precision, torch.nn.Identity())
            nets[f"packed {precision}"] = forward(net, precision == "bf16")
    gflop: dict[str, float] = {}
    jobs = dict(nets)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        for packed in (False, True):
            job = f"{'oneDNN' if packed else 'matmul'} {name}"
            jobs[job], gflop[job] = products(dim, heads, batch[name], dtype, packed)
    times: dict[str, list[float]] = {k: [] for k in jobs}
    with torch.inference_mode():
        truth = nets["plain fp32"]()
        for name, run in nets.items():
            gap = float((run()[: len(truth)].float() - truth).norm() / truth.norm())
            print(f"{name}: relative difference from plain fp32 {gap:.1e}")
        for run in jobs.values():
            run()
        for n in range(given.rounds):
            for name in jobs if n % 2 else reversed(jobs):
                begin = time.thread_time()
                jobs[name]()
                times[name].append((time.thread_time() - begin) / batch[name[-4:]])
    mid = {k: statistics.median(v) for k, v in times.items()}
    for name, seconds in mid.items():
        done = gflop[f"matmul {name[-4:]}"] / batch[name[-4:]]
        print(f"{name}: {1000 * seconds:.0f} ms an image, {done / seconds:.0f} GFLOP/s")

    def ratio(a: str, b: str) -> float:
        return statistics.median(s / t for s, t in zip(times[a], times[b], strict=True))

    print(
        f"fp32 forward: {ratio('matmul fp32', 'packed fp32'):.3f} of torch's matmul peak (goal >= 0.95), "
        f"{ratio('oneDNN fp32', 'packed fp32'):.3f} of oneDNN's; unpacked {ratio('matmul fp32', 'plain fp32'):.3f}"
    )
    print(
        f"bf16 forward: {ratio('packed fp32', 'packed bf16'):.2f} times the fp32 forward (goal >= 1.9), "
        f"{ratio('plain fp32', 'packed bf16'):.2f} times the plain one; the products alone "
        f"{ratio('oneDNN fp32', 'oneDNN bf16'):.2f}"
    )


if __name__ == "__main__":
    main()
