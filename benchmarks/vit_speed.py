"""Forward of ViT-B/16 at 224 px, batch 8: our plain trunk beside timm's, and beside the matmul limit of the machine.

python benchmarks/vit_speed.py [--rounds 5] [--batch 8] [--dtypes fp32,bf16]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import timm
import torch

from swath.models.vit import PlainViT, ViTCard, ViTShape

GFLOPS = 17.58 * 2  # multiply-adds of ViT-B/16 at 224 px, times two


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def matmul_rate(dtype, tokens):
    """GFLOP/s of the block's largest linear map at this number of tokens."""
    a, b = torch.randn(tokens, 768, dtype=dtype), torch.randn(768, 3072, dtype=dtype)
    a @ b
    best = min(seconds(lambda: a @ b) for _ in range(5))
    return 2 * tokens * 768 * 3072 / best / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtypes", default="fp32,bf16")
    options = parser.parse_args()
    torch.manual_seed(0)
    shape = ViTShape()
    ours = PlainViT(shape, ViTCard("bench/base", (), "apache-2.0")).eval()
    theirs = timm.create_model("vit_base_patch16_224", num_classes=0).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k in ours.state_dict()})
    x = torch.randn(options.batch, 3, 224, 224)
    with torch.inference_mode():
        gap = (ours.norm(ours.tokens(x)[-1]) - theirs.forward_features(x)).abs().max()
        sys.stdout.write(f"threads {torch.get_num_threads()}, batch {options.batch}, largest difference {gap:.1e}\n")
        for name in options.dtypes.split(","):
            dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[name]
            a, b, y = ours.to(dtype), theirs.to(dtype), x.to(dtype)
            runs = {
                "swath": lambda a=a, y=y: a.norm(a.tokens(y, (11,))[0]),
                "timm": lambda b=b, y=y: b.forward_features(y),
            }
            for run in runs.values():
                run()
            times = {k: [] for k in runs}
            for i in range(options.rounds):
                # The order alternates, so that a slow spell of the machine does not fall on one side.
                for k in runs if i % 2 else reversed(runs):
                    times[k].append(seconds(runs[k]))
            mid = {k: statistics.median(v) for k, v in times.items()}
            ratio = statistics.median(t / s for s, t in zip(times["swath"], times["timm"], strict=True))
            limit = GFLOPS * options.batch / matmul_rate(dtype, options.batch * 197)
            sys.stdout.write(
                f"{name}: swath {mid['swath']:.2f} s, timm {mid['timm']:.2f} s, timm / swath {ratio:.3f}; "
                f"matmul limit {limit:.2f} s, swath / limit {mid['swath'] / limit:.2f}\n"
            )


if __name__ == "__main__":
    main()
