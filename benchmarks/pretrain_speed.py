"""MAE ViT-S, 224 px, 6 bands, mask 0.75, bf16 on a CPU: a training step of ours beside a timm-style one, in one run.

    python benchmarks/pretrain_speed.py --batch 16 --rounds 5

The reference is a plain MAE written here from timm's own blocks (patch embedding as a convolution, encoder on visible
tokens, decoder 512 wide and 8 deep, per-patch normalised targets), with torch's AdamW. Both see the same pixels.
Each side has a process of its own, as in life (ours keeps freed memory, as Swath's loop does); rounds alternate and
count CPU seconds; the ratio is the median over rounds of ours / theirs. MFU compares the counted FLOPs of a step with a
bf16 matrix product measured in the same run.
"""

import argparse
import json
import multiprocessing
import statistics
import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from swath.core import SENSORS, Batch, Layer, Where, generator
from swath.core.heap import keep_freed
from swath.models import build_encoder
from swath.models.layers import patchify, sincos_2d
from swath.objectives import Kit
from swath.objectives.mae import MAE
from swath.train import LoopConfig
from swath.train.optim import build

BANDS = ["blue", "green", "red", "nir08", "swir16", "swir22"]


class TimmStyle(nn.Module):
    def __init__(self, size=224, patch=16, bands=6, width=384, depth=12, heads=6):
        super().__init__()
        from timm.models.vision_transformer import Block

        n = (size // patch) ** 2
        self.patch = patch
        self.embed = nn.Conv2d(bands, width, patch, patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("pos", sincos_2d(size // patch, size // patch, width)[None])
        self.register_buffer("pos_d", sincos_2d(size // patch, size // patch, 512)[None])
        self.blocks = nn.ModuleList(Block(width, heads, qkv_bias=True) for _ in range(depth))
        self.norm, self.narrow = nn.LayerNorm(width), nn.Linear(width, 512)
        self.mask = nn.Parameter(torch.zeros(1, 1, 512))
        self.decoder = nn.ModuleList(Block(512, 16, qkv_bias=True) for _ in range(8))
        self.norm_d, self.head = nn.LayerNorm(512), nn.Linear(512, patch * patch * bands)
        self.n = n

    def forward(self, x):
        b, keep = len(x), self.n // 4
        order = torch.rand(b, self.n).argsort(1)
        back = order.argsort(1)
        t = self.embed(x).flatten(2).transpose(1, 2) + self.pos
        t = t.gather(1, order[:, :keep, None].expand(-1, -1, t.shape[2]))
        t = torch.cat([self.cls.expand(b, -1, -1), t], 1)
        for block in self.blocks:
            t = block(t)
        t = self.narrow(self.norm(t))
        whole = torch.cat([t[:, 1:], self.mask.expand(b, self.n - keep, -1).to(t.dtype)], 1)
        whole = whole.gather(1, back[..., None].expand(-1, -1, 512)) + self.pos_d
        whole = torch.cat([t[:, :1], whole], 1)
        for block in self.decoder:
            whole = block(whole)
        pred = self.head(self.norm_d(whole))[:, 1:].float()
        target = patchify(x, self.patch)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        hidden = torch.ones(b, self.n)
        hidden[:, :keep] = 0
        hidden = hidden.gather(1, back)
        return ((pred - target).square().mean(-1) * hidden).sum() / hidden.sum()


def peak(rounds=5, n=2048):
    a, b = torch.randn(n, n).bfloat16(), torch.randn(n, n).bfloat16()
    a @ b
    rates = []
    for _ in range(rounds):
        began = time.process_time()
        a @ b
        rates.append(2 * n**3 / (time.process_time() - began))
    return max(rates)


def ours(batch: int):
    """One step of Swath's `mae`, as a function of its number."""
    keep_freed()
    sensor = SENSORS.get("hls-s30").select(BANDS)
    x = torch.rand(batch, 1, 6, 224, 224) * 0.3
    layer = Layer.of(sensor, x, times=torch.full((batch, 1), 19000))
    data = Batch({sensor.id: layer}, Where.unknown(batch))
    torch.manual_seed(0)
    encoder = build_encoder({"kind": "swath-vit", "size": "small", "patch": 16})
    module = MAE().build(Kit(encoder, data[0]))
    optimizer = build(module, LoopConfig(steps=1))
    for g in optimizer.param_groups:
        g["lr"] = 1e-4
    return lambda i: step(optimizer, lambda: module(data, generator(i)).loss)


def theirs(batch: int):
    """One step of the timm-style MAE."""
    module, x = TimmStyle(), torch.rand(batch, 6, 224, 224) * 0.3
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    return lambda i: step(optimizer, lambda: module(x))


def step(optimizer, loss) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = loss()
    optimizer.zero_grad()
    found.backward()
    optimizer.step()


def child(make, batch: int, pipe) -> None:
    """Count FLOPs once, then a step and its CPU seconds for every number that comes."""
    torch.set_num_threads(1)
    run = make(batch)
    with FlopCounterMode(display=False) as counter:
        run(0)
    pipe.send(counter.get_total_flops())
    while (i := pipe.recv()) is not None:
        began = time.process_time()
        run(i)
        pipe.send(time.process_time() - began)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", default="")
    args = parser.parse_args()
    torch.set_num_threads(1)
    spawn = multiprocessing.get_context("spawn")
    pipes, flops = {}, {}
    for name, make in (("ours", ours), ("theirs", theirs)):
        pipes[name], end = spawn.Pipe()
        spawn.Process(target=child, args=(make, args.batch, end), daemon=True).start()
        flops[name] = pipes[name].recv()
    seconds = {name: [] for name in pipes}
    for i in range(args.rounds + 1):
        for name, pipe in pipes.items():
            pipe.send(i + 1)
            took = pipe.recv()
            if i:  # the first warms up
                seconds[name].append(took)
    for pipe in pipes.values():
        pipe.send(None)
    top = peak()
    ratio = statistics.median(a / b for a, b in zip(seconds["ours"], seconds["theirs"], strict=True))
    found = {
        "ratio": round(ratio, 3),
        "cpu_s": {k: round(statistics.median(v), 2) for k, v in seconds.items()},
        "gflop": {k: round(v / 1e9, 1) for k, v in flops.items()},
        "mfu": {k: round(flops[k] / statistics.median(v) / top, 3) for k, v in seconds.items()},
        "peak_gflops": round(top / 1e9, 1),
        "samples_per_cpu_s": round(args.batch / statistics.median(seconds["ours"]), 2),
    }
    print(json.dumps(found, indent=1))
    if args.json:
        with open(args.json, "w") as file:
            json.dump(found, file)


if __name__ == "__main__":
    main()
