"""swath-vit against timm's ViT: forward of the same width, depth, patch and tokens, side by side; medians.

Prints ratios (timm / ours, above 1 is faster than timm) for fp32 and bf16, and ours against the bare matrix products.
"""

import argparse
import statistics
import time

import timm
import torch

from swath.core import SENSORS, Batch, Layer, Where
from swath.models import build_encoder


def seconds(run, repeats):
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def matmul_seconds(width, depth, tokens, dtype, repeats):
    """Time of the linear layers' matrix products alone (attention's own products left out)."""
    x = torch.rand(tokens, width, dtype=dtype)
    weights = [torch.rand(width, n, dtype=dtype) for n in (3 * width, width, 4 * width)]
    wide, back = torch.rand(tokens, 4 * width, dtype=dtype), torch.rand(4 * width, width, dtype=dtype)

    def run():
        for _ in range(depth):
            for w in weights:
                x @ w
            wide @ back

    return statistics.median(seconds(run, repeats))


def main():
    ask = argparse.ArgumentParser()
    ask.add_argument("--size", default="base", choices=["tiny", "small", "base"])
    ask.add_argument("--batch", type=int, default=8)
    ask.add_argument("--repeats", type=int, default=5)
    args = ask.parse_args()
    sensor = SENSORS.get("sentinel2-l2a").select(["red", "green", "blue"])
    x = torch.rand(args.batch, 3, 224, 224)
    batch = Batch({sensor.id: Layer.of(sensor, x[:, None])}, Where.unknown(args.batch))
    for dtype in (torch.float32, torch.bfloat16):
        ours = build_encoder({"kind": "swath-vit", "size": args.size, "patch": 16}).eval().to(dtype)
        theirs = timm.create_model(f"vit_{args.size}_patch16_224", num_classes=0).eval().to(dtype)
        own, other = [], []
        with torch.inference_mode():
            for _ in range(args.repeats):
                own += seconds(lambda ours=ours: ours.encode(ours.tokenize(batch)), 1)
                other += seconds(lambda theirs=theirs, dtype=dtype: theirs(x.to(dtype)), 1)
            width, tokens = ours.width, args.batch * (196 + ours.config.registers)
            limit = matmul_seconds(width, len(ours.blocks), tokens, dtype, args.repeats)
        a, b = statistics.median(own), statistics.median(other)
        name = str(dtype).removeprefix("torch.")
        print(f"{name:>9}: swath-vit {a:.3f} s, timm {b:.3f} s, ratio {b / a:.2f}", end="; ")
        print(f"linear matrix products alone {limit:.3f} s, {a / limit:.2f} x that")


if __name__ == "__main__":
    main()
