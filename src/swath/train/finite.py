"""What was in a batch whose loss or gradient is not finite: keys, bands and values."""

from __future__ import annotations

import torch
from torch import nn

from swath.core.batch import Batch
from swath.core.contracts import Step
from swath.core.rng import generator
from swath.train.config import LoopConfig


@torch.no_grad()
def explain(module: nn.Module, done: list[tuple[Batch, Step]], config: LoopConfig, at: tuple[int, int]) -> list[str]:
    """One line a suspicious sample: those that hold a value that is not finite, else those whose own loss is not, else
    all of the micro-batches concerned."""
    step, epoch = at
    bad = [(b, s) for b, s in done if not torch.isfinite(s.loss)] or done
    rows: list[str] = []
    for batch, out in bad:
        wrong = [k for k, v in out.terms.items() if not bool(torch.isfinite(v).all())]
        if wrong:
            rows.append(f"terms not finite: {', '.join(wrong)}")
        alone = [i for i in range(len(batch)) if _unsound(batch[i])]
        # On several ranks a forward of one rank alone would wait for the others for ever.
        lone = not torch.distributed.is_initialized() and not getattr(module, "batch_coupled", False)
        if lone and not alone and not torch.isfinite(out.loss):
            for i in range(len(batch)):
                one = module(batch[i], generator(config.seed, epoch, "step", step))
                if not torch.isfinite(one.loss):
                    alone.append(i)
        rows += [describe(batch[i]) for i in (alone or range(len(batch)))][:8]
    return rows


def _unsound(sample: Batch) -> bool:
    """Whether a valid pixel or a label of a sample is no number."""
    pixels = (layer.x[layer.valid.expand_as(layer.x)] for layer in sample.layers.values())
    told = (v.value[v.valid.expand_as(v.value)] for v in sample.labels.values() if v.value.is_floating_point())
    return any(not bool(torch.isfinite(x).all()) for x in (*pixels, *told))


def describe(sample: Batch) -> str:
    """Key, name, and per band the range of the valid values and how many are not finite."""
    head = f"key {int(sample.where.key[0])}"
    if sample.where.names and sample.where.names[0]:
        head += f" ({sample.where.names[0]})"
    parts = [head]
    for name, layer in sample.layers.items():
        valid = layer.valid.expand_as(layer.x)
        for c, band in enumerate(layer.sensor.names):
            x = layer.x[:, :, c][valid[:, :, c]]
            good = x[torch.isfinite(x)]
            span = f"{float(good.min()):g}..{float(good.max()):g}" if len(good) else "no finite value"
            lost = len(x) - len(good)
            parts.append(f"{name}.{band} {span}" + (f", {lost} not finite" if lost else ""))
    for name, label in sample.labels.items():
        value = label.value.float()
        lost = int((~torch.isfinite(value)).sum())
        parts.append(f"label {name} {float(value.nan_to_num().min()):g}..{float(value.nan_to_num().max()):g}"
                     + (f", {lost} not finite" if lost else ""))  # fmt: skip
    return "; ".join(parts)
