"""Contrastive losses. InfoNCE: CE(q k^T / tau, own row). Patch discrimination: the same among tokens of one sample."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


@contextmanager
def exact(x: Tensor) -> Generator[None]:
    """No autocast inside: similarities and sums stay in fp32."""
    with torch.autocast(x.device.type, enabled=False):
        yield


def gather(x: Tensor) -> tuple[Tensor, int]:
    """The rows of all ranks in the order of the batch, with gradient to every rank, and where mine begin."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return x, 0
    mine, rows = dist.get_rank(), [x.new_zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, x.new_full((1,), len(x), dtype=torch.int64))
    counts = [int(n) for n in rows]
    every: Tensor = _Gather.apply(x, counts)
    return every, sum(counts[:mine])


class _Gather(torch.autograd.Function):
    """torch's own all_gather reads a transposed gradient by its memory (torch 2.15, gloo): row i would get what belongs
    to others. Here gradients are added up over ranks as they are indexed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int]) -> Tensor:
        ctx.span = sum(counts[: dist.get_rank()]), len(x)
        wide = x.new_zeros(max(counts), *x.shape[1:])
        wide[: len(x)] = x
        every = [torch.empty_like(wide) for _ in counts]
        dist.all_gather(every, wide)
        return torch.cat([part[:n] for part, n in zip(every, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor, None]:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        start, n = ctx.span
        return total[start : start + n], None


def info_nce(q: Tensor, k: Tensor, tau: float | Tensor, start: int = 0, there: Tensor | None = None) -> Tensor:
    """Mean over rows i of -log softmax(q_i k^T / tau)[start + i]; q and k are made unit length here.

    `there` (rows of k,) bool: others are no partners and are not in the mean, which is then over all ranks' rows."""
    with exact(q):
        q, k = F.normalize(q.float(), dim=-1), F.normalize(k.float(), dim=-1)
        logits, own = q @ k.T / tau, torch.arange(len(q), device=q.device) + start
        if there is None or bool(there.all()):
            return F.cross_entropy(logits, own)
        alone = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, own[:, None], True)  # keeps every row finite
        each = F.cross_entropy(logits.masked_fill(~there & ~alone, -torch.inf), own, reduction="none")
        return (each * there[own]).sum() / there.sum().clamp_min(1) * (len(k) / len(q))


def info_nce_queue(q: Tensor, k: Tensor, negatives: Tensor, tau: float) -> Tensor:
    """MoCo v2: the positive of row i is k_i, its negatives the (K, D) or (B, K, D) rows of `negatives`."""
    with exact(q):
        q, k, negatives = (F.normalize(v.float(), dim=-1) for v in (q, k, negatives))
        positive = (q * k).sum(-1, keepdim=True)
        others = q @ negatives.T if negatives.ndim == 2 else torch.einsum("bd,bkd->bk", q, negatives)
        logits = torch.cat([positive, others], 1) / tau
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))


def patch_discrimination(pred: Tensor, target: Tensor, hidden: Tensor, tau: float = 0.1) -> tuple[Tensor, Tensor]:
    """Per sample the mean over its hidden tokens of 2 tau CE(pred target^T / tau, own token), among its own hidden
    tokens only: (B,), and the number of hidden tokens (B,). Vectorised; nothing leaves the device."""
    with exact(pred):
        p, t = F.normalize(pred.float(), dim=-1), F.normalize(target.float(), dim=-1)
        logits = torch.einsum("bnd,bmd->bnm", p, t) / tau
        own, count = logits.diagonal(dim1=1, dim2=2), hidden.sum(1)
        # A sample with nothing hidden keeps its logits, so that no row is empty and no gradient is NaN; it counts zero.
        shut = ~hidden[:, None] & (count > 0)[:, None, None]
        each = (logits.masked_fill(shut, float("-inf")).logsumexp(2) - own) * hidden
        return each.sum(1) / count.clamp_min(1) * 2 * tau, count
