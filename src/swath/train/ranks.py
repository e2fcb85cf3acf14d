"""Ranks: how a module lives on one process or on many (DDP, or FSDP2 per block), and what they agree on."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from swath.core.device import usable
from swath.train.config import LoopConfig
from swath.train.optim import blocks_of


@dataclass(frozen=True)
class Ranks:
    """Who I am among how many, and on which device."""

    rank: int
    world: int
    device: torch.device

    @property
    def lead(self) -> bool:
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums of some numbers over all ranks."""
        if self.world == 1:
            return list(values)
        t = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        dist.all_reduce(t)
        return [float(v) for v in t]

    def same(self, value: float) -> float:
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        t = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(t, 0)
        return float(t)


def join(config: LoopConfig) -> Ranks:
    """Find the ranks torchrun started; a lone process is its own world."""
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    name = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    device = usable(f"cuda:{local}" if name == "cuda" else name, "loop.device")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if not dist.is_initialized():
        return Ranks(0, 1, device)
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def wrap(module: nn.Module, config: LoopConfig, ranks: Ranks) -> nn.Module:
    """The module to call in training: itself, DDP around it, or itself sharded in place per block."""
    blocks = [b for _, b in blocks_of(module)]
    if config.compile:
        for block in blocks:
            block.compile()
    if ranks.world == 1:
        return module
    if config.parallel == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh(ranks.device.type, (ranks.world,), mesh_dim_names=("shard",))
        # Inputs are never cast: a float year or wavelength would be rounded away. Autocast does the bf16 maths, so
        # norms keep fp32 weights (a bf16 LayerNorm weight with an fp32 input is refused on the CPU).
        policy = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
        for part in (*blocks, module):
            fully_shard(part, mesh=mesh, mp_policy=policy)
        return module
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(module, find_unused_parameters=True)


@contextmanager
def hold(wrapped: nn.Module, last: bool) -> Generator[None]:
    """Gradients travel between ranks only in the last micro-batch of a step."""
    from torch.nn.parallel import DistributedDataParallel

    if isinstance(wrapped, DistributedDataParallel):
        if last:
            yield
        else:
            with wrapped.no_sync():
                yield
        return
    sync: Any = getattr(wrapped, "set_requires_gradient_sync", None)
    if sync is not None:
        sync(last)
    yield


@torch.no_grad()
def grad_norm(params: Sequence[nn.Parameter]) -> Tensor:
    """The 2-norm of all gradients, the same number on every rank, shards included."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
    whole: Any = getattr(norm, "full_tensor", None)
    return norm if whole is None else whole()


@torch.no_grad()
def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """The module's tensors on the CPU, gathered from their shards; every rank must call this."""
    out: dict[str, Tensor] = {}
    for name, t in module.state_dict().items():
        if isinstance(t, Tensor):
            gather: Any = getattr(t, "full_tensor", None)
            out[name] = (t if gather is None else gather()).detach().cpu().contiguous()
    return out
