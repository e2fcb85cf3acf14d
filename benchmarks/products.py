"""Linear maps by oneDNN beside torch's own road (MKL), at the shapes of ViT-S and ViT-B: one table, side by side.

    python benchmarks/products.py [--rounds 9] [--threads 1]

Float32, 8 images of 197 tokens. `forward`, `input gradient` and both with the weight's gradient ("step"); `gelu` is a
linear map and its GELU without gradients; `pixel` rows are `Point` beside a 1 x 1 convolution, 8 images of 224 x 224.
Ratios are ours / torch's medians of CPU seconds (both cores' where there are two threads).
"""

import argparse
import statistics
import time

import torch
from torch.nn import functional as F

from swath.models.layers.products import Point, linear, linear_gelu

SHAPES = {"S qkv": (384, 1152), "S proj": (384, 384), "S fc1": (384, 1536), "S fc2": (1536, 384),
          "B qkv": (768, 2304), "B fc1": (768, 3072), "B fc2": (3072, 768)}  # fmt: skip

PIXELS = {"pixel 2": (2, 2), "pixel 11": (32, 11)}


def times(calls: list, rounds: int) -> list[float]:
    """The median CPU seconds of each, taking turns."""
    took: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds + 1):
        for i, call in enumerate(calls):
            began = time.process_time()
            call()
            if turn:
                took[i].append(time.process_time() - began)
    return [statistics.median(t) for t in took]


def step(run, x, w, b, up) -> None:
    x.grad = w.grad = b.grad = None
    run(x, w, b).backward(up)


def row(inside: int, outside: int, rounds: int) -> str:
    """The ratios of one shape."""
    x, w = torch.randn(1576, inside, requires_grad=True), torch.randn(outside, inside, requires_grad=True)
    b, up = torch.randn(outside, requires_grad=True), torch.randn(1576, outside)
    with torch.no_grad():
        ours, theirs = times([lambda: linear(x, w, b), lambda: F.linear(x, w, b)], rounds)
        one, two = times([lambda: linear_gelu(x, w, b), lambda: F.gelu(F.linear(x, w, b))], rounds)
    back = times([lambda: step(linear, x, w, b, up), lambda: step(F.linear, x, w, b, up)], rounds)
    rate = 2 * 1576 * inside * outside / ours / 1e9
    return f"{ours / theirs:10.3f}{back[0] / back[1]:10.3f}{one / two:10.3f}{rate:13.0f}"


def pixel_row(inside: int, outside: int, rounds: int) -> str:
    """The ratios of a last layer."""
    ours, theirs = Point(inside, outside), torch.nn.Conv2d(inside, outside, 1)
    x, up = torch.randn(8, inside, 224, 224, requires_grad=True), torch.randn(8, outside, 224, 224)
    with torch.no_grad():
        told = times([lambda: ours(x), lambda: theirs(x)], rounds)
    back = times([lambda: ours(x).backward(up), lambda: theirs(x).backward(up)], rounds)
    return f"{told[0] / told[1]:10.3f}{back[0] / back[1]:10.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    rounds = given.rounds
    torch.set_num_threads(given.threads)
    print(f"{'':8s}{'forward':>10s}{'step':>10s}{'gelu':>10s}   GFLOP/s of ours forward")
    for name, (inside, outside) in SHAPES.items():
        print(f"{name:8s}{row(inside, outside, rounds)}", flush=True)
    for name, (inside, outside) in PIXELS.items():
        print(f"{name:8s}{pixel_row(inside, outside, rounds)}", flush=True)


if __name__ == "__main__":
    main()
