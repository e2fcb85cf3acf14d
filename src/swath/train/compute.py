"""Compute of a run: FLOPs counted once per shape of batch, tokens, the time of steps and of waiting for data.

What the first step computes is noted, and counted after it: torch's formulas take a tenth of a second to import.

MFU = counted FLOPs / (seconds in steps x peak), where the peak is the best of a few matrix products in the run's own
precision on the run's own device and threads. What is recomputed in a backward pass counts, as it was carried out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from swath.core.batch import Batch
from swath.models.layers.products import linear
from swath.train.config import LoopConfig


class Compute:
    """Adds up; `buckets` travels as JSON with the checkpoints."""

    def __init__(self, module: nn.Module, config: LoopConfig, before: dict[str, Any]) -> None:
        self.module, self.config = module, config
        self._sums: dict[str, Any] = before or {"seconds": 0.0, "waited": 0.0, "steps": 0, "buckets": {}}
        self._noted: list[tuple[dict[str, Any], Operations]] = []

    @property
    def sums(self) -> dict[str, Any]:
        """Everything so far, as JSON."""
        for bucket, operations in self._noted:
            bucket["flops"] = operations.flops()
        self._noted.clear()
        return self._sums

    @contextmanager
    def batch(self, batch: Batch) -> Generator[None]:
        """Around one forward and backward pass: the first of a shape is counted, later ones have its numbers."""
        key, buckets = _shape(batch), self._sums["buckets"]
        if key not in buckets:
            tokens: Any = getattr(self.module, "tokens_of", None)
            buckets[key] = {"passes": 0, "samples": 0, "flops": None, "tokens": tokens(batch) if tokens else 0}
        known: dict[str, Any] = buckets[key]
        known["passes"] += 1
        known["samples"] += len(batch)
        if known["flops"] is None and not self.config.compile and all(known is not b for b, _ in self._noted):
            with Operations() as operations:
                yield
            self._noted.append((known, operations))
        else:
            yield

    def step(self, seconds: float, waited: float) -> None:
        """One optimiser step took this long, and of that waited for its data."""
        sums = self.sums if self._sums["steps"] else self._sums
        sums["steps"] += 1
        sums["seconds"] += seconds
        sums["waited"] += waited

    def record(self, device: torch.device, world: int = 1) -> dict[str, Any]:
        """Totals of the run; FLOPs and tokens are this rank's times the ranks."""
        sums, buckets = self.sums, self.sums["buckets"]
        busy = sums["seconds"] - sums["waited"]
        known = all(b["flops"] is not None for b in buckets.values())
        flops = world * sum((b["flops"] or 0) * b["passes"] for b in buckets.values()) if known else None
        tokens = world * sum(b["tokens"] * b["passes"] for b in buckets.values())
        peak = matmul_peak(device, self.config.precision) * world
        return {
            "flops": flops,
            "flops_by_shape": buckets,
            "tokens": tokens,
            "tokens_per_s": tokens / sums["seconds"] if sums["seconds"] else None,
            "step_seconds": sums["seconds"],
            "data_wait": sums["waited"] / sums["seconds"] if sums["seconds"] else None,
            "peak_flops_per_s": peak,
            "mfu": flops / (busy * peak) if flops is not None and busy > 0 else None,
            "threads": torch.get_num_threads(),
            "ranks": world,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        }


class Operations(TorchDispatchMode):
    """Notes every operation that may have a formula, with its arguments and outcome but not their values: forward,
    backward and recomputed."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, two seconds, to keep it away from here

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if _counts(func):
            self.calls.append((func._overloadpacket, _bare(args), _bare(kwargs or {}), _bare(out)))
        return out

    def flops(self) -> int:
        """By torch's own formulas."""
        total, formulas = 0, _formulas()
        for func, args, kwargs, out in self.calls:
            formula = formulas.get(func)
            if formula is not None:
                total += int(formula(*args, **kwargs, out_val=out))
        return total


@lru_cache(maxsize=1024)
def _counts(func: Any) -> bool:
    """Views cost nothing, and torch counts no work done element by element."""
    return not func.is_view and torch.Tag.pointwise not in func.tags


def _bare(value: Any) -> Any:
    """The same with tensors that hold no values."""
    if isinstance(value, Tensor):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    if type(value) in (tuple, list):
        return type(value)(_bare(v) for v in value)
    return {k: _bare(v) for k, v in value.items()} if isinstance(value, dict) else value


@lru_cache(maxsize=1)
def _formulas() -> Mapping[Any, Callable[..., int]]:
    """Torch's own, and one for the linear maps of `models.layers.products`, for which it has none."""
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):

        @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
        def _linear_flops(x: Any, weight: Any, *_: Any, out_shape: Any) -> int:
            return 2 * math.prod(out_shape) * x[-1]

        assert _linear_flops
    return flop_registry


def _shape(batch: Batch) -> str:
    """A batch's shape in words: `8 x sentinel2-l2a 1x6x64x64`."""
    parts = [f"{n} {'x'.join(str(v) for v in layer.shape[1:])}" for n, layer in batch.layers.items()]
    return f"{len(batch)} x " + " + ".join(parts)


def matmul_peak(device: torch.device, precision: str) -> float:
    """FLOP/s of the best of a few square matrix products: what this machine can do on these threads."""
    return _peak(device, precision, torch.get_num_threads())


@lru_cache(maxsize=8)
@torch.no_grad()
def _peak(device: torch.device, precision: str, threads: int, rounds: int = 3) -> float:
    n = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.ones(n, n, dtype=dtype, device=device) for _ in range(2))
    best = float("inf")
    for product in (torch.mm, linear):  # by either library: the networks take the second where it is there
        for _ in range(rounds + 1):  # the first one also warms up
            began = time.perf_counter()
            product(a, b)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best = min(best, time.perf_counter() - began)
    return 2 * n**3 / best


__all__ = ["Compute", "Operations", "matmul_peak"]
