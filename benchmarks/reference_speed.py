"""Forward of Prithvi-EO-2.0-300M and TerraMind-B beside the package they were published with, on the same input.

    python benchmarks/reference_speed.py --env TERRATORCH_ENVIRONMENT [--rounds 5] [--models prithvi,terramind]

The reference runs in its own interpreter and waits its turn: rounds alternate, one side at a time, one thread each.
Weights are random (no hub is asked); the whole encoder runs, S2 L2A at 224 px.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

REFERENCE = """
import sys, time, warnings
warnings.filterwarnings("ignore")
import torch
from terratorch.registry import BACKBONE_REGISTRY
torch.set_num_threads(1)
torch.manual_seed(0)
if sys.argv[1] == "prithvi":
    model = BACKBONE_REGISTRY.build("prithvi_eo_v2_300", pretrained=False, num_frames=1)
    x = torch.randn(int(sys.argv[2]), 6, 1, 224, 224)
else:
    model = BACKBONE_REGISTRY.build("terramind_v1_base", pretrained=False, modalities=["S2L2A"])
    x = {"S2L2A": torch.randn(int(sys.argv[2]), 12, 224, 224)}
model.eval()
print("ready", sum(p.numel() for p in model.parameters()), flush=True)
with torch.inference_mode():
    for line in sys.stdin:
        start = time.perf_counter()
        model(x)
        print(time.perf_counter() - start, flush=True)
"""
OURS = {"prithvi": "prithvi/v2-300", "terramind": "terramind/base"}


def batch_of(encoder, n):
    """A batch of the encoder's Sentinel-2 (or HLS) input at 224 px, without anything to convert."""
    import torch

    from swath.core import SENSORS, Batch, Layer, Where

    want = next(i for i in encoder.spec.inputs if i.sensor in ("sentinel2-l2a", "hls-s30"))
    sensor = SENSORS.get(want.sensor).select(want.bands)
    x = torch.rand(n, 1, len(sensor.bands), 224, 224)
    return Batch({sensor.id: Layer.of(sensor, x)}, Where.unknown(n))


def compare(name, env, rounds, n):
    """Alternate the two sides; print medians and the median of the paired ratios."""
    import torch

    from swath.models import build_encoder

    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder = build_encoder(OURS[name]).eval()
    batch = batch_of(encoder, n)
    child = subprocess.Popen(
        [str(Path(env) / "bin/python"), "-c", REFERENCE, name, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None
    ready = next((line for line in child.stdout if line.startswith("ready")), "")
    if not ready:
        raise SystemExit(f"the reference did not start in {env}: is TerraTorch installed there?")

    def theirs():
        child.stdin.write("go\n")
        child.stdin.flush()
        return float(child.stdout.readline())

    def ours():
        start = time.perf_counter()
        encoder(batch)
        return time.perf_counter() - start

    with torch.inference_mode():
        pairs = [(ours(), theirs()) for _ in range(rounds + 1)][1:]
    child.stdin.close()
    child.wait()
    mine, other = (statistics.median(p[k] for p in pairs) for k in (0, 1))
    ratio = statistics.median(b / a for a, b in pairs)
    sys.stdout.write(
        f"{name}: swath {sum(p.numel() for p in encoder.parameters()) / 1e6:.0f} M parameters {mine:.2f} s, "
        f"TerraTorch {int(ready.split()[1]) / 1e6:.0f} M {other:.2f} s, TerraTorch / swath {ratio:.3f} "
        f"(batch {n}, median of {rounds})\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--models", default="prithvi,terramind")
    options = parser.parse_args()
    for name in options.models.split(","):
        compare(name, options.env, options.rounds, options.batch)


if __name__ == "__main__":
    main()
