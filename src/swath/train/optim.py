"""Optimiser groups and the learning rate: pure functions of names, step and validation history."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from swath.core.errors import UserError
from swath.train.config import LoopConfig


def blocks_of(encoder: nn.Module) -> list[tuple[str, nn.Module]]:
    """The repeated blocks of a network in order of depth, with their names.

    They are the children of the list or sequence of like modules that holds most parameters; where those hold
    such lists themselves (stages), the inner ones count. Used for layer decay, sharding and compiling.
    """
    found: list[tuple[int, str, nn.Module]] = []
    for name, m in encoder.named_modules():
        kinds = {type(c) for c in m.children()}
        if isinstance(m, nn.ModuleList | nn.Sequential) and len(m) >= 2 and len(kinds) == 1 and any(m[0].children()):
            found.append((sum(p.numel() for p in m.parameters()), name, m))
    if not found:
        return []
    _, name, trunk = max(found, key=lambda f: (f[0], -len(f[1])))
    out: list[tuple[str, nn.Module]] = []
    for key, child in trunk.named_children():
        inner = blocks_of(child)
        path = f"{name}.{key}" if name else key
        out += [(f"{path}.{k}", m) for k, m in inner] or [(path, child)]
    return out


def depth_of(encoder: nn.Module, prefix: str = "") -> dict[str, int]:
    """Layer number of every parameter of an encoder: 0 before the blocks, i + 1 in block i, and after them n + 1."""
    blocks = [name for name, _ in blocks_of(encoder)]
    depth: dict[str, int] = {}
    seen = False
    for name, _ in encoder.named_parameters():
        inside = next((i for i, b in enumerate(blocks) if name == b or name.startswith(b + ".")), None)
        seen = seen or inside is not None
        depth[prefix + name] = inside + 1 if inside is not None else (len(blocks) + 1 if seen else 0)
    return depth


def groups(module: nn.Module, config: LoopConfig) -> list[dict[str, Any]]:
    """Parameter groups: no weight decay on vectors and on names that say so, layer-wise learning rates.

    A module may hold `lr_scale: dict[prefix, float]`. The encoder's layer i of n learns at decay^(n + 1 - i).
    """
    encoder = getattr(module, "encoder", None)
    depth: dict[str, int] = {}
    if config.layer_decay != 1.0:
        if not isinstance(encoder, nn.Module) or not blocks_of(encoder):
            raise UserError(
                "layer_decay needs an encoder with repeated blocks; none was found",
                where="loop.layer_decay",
                remedy="set layer_decay to 1",
            )
        depth = depth_of(encoder, "encoder.")
    top = max(depth.values(), default=0)
    scales: dict[str, float] = getattr(module, "lr_scale", {})
    bare = {f"{n}." if n else "" for n, m in module.named_modules() if getattr(m, "no_weight_decay", None) is True}
    table: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = {}
    for name, p in module.named_parameters():
        if not p.requires_grad:
            continue
        decays = p.ndim > 1 and not re.search(r"(bias|token|embed|pos\w*|scale)$", name)
        decays = decays and not any(b and name.startswith(b) for b in bare)
        scale = config.layer_decay ** (top - depth[name]) if name in depth else 1.0
        scale *= next((s for k, s in scales.items() if name == k or name.startswith(k + ".")), 1.0)
        table.setdefault((scale, config.weight_decay if decays else 0.0), []).append((name, p))
    if not table:
        raise UserError("no parameter may learn: everything is frozen", where="loop")
    return [
        {"params": [p for _, p in rows], "names": [n for n, _ in rows], "scale": s, "weight_decay": wd, "lr": 0.0}
        for (s, wd), rows in table.items()
    ]


def build(module: nn.Module, config: LoopConfig) -> torch.optim.Optimizer:
    """The optimiser over the groups; fused nowhere, so that CPU runs are bitwise repeatable."""
    rows = groups(module, config)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(rows, lr=0.0, betas=config.betas)
    if config.optimizer == "sgd":
        return torch.optim.SGD(rows, lr=0.0, momentum=config.betas[0])
    return Lars(rows, config.betas[0])


class Lars(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (https://arxiv.org/abs/1708.03888): matrices move by 0.001 |w| / |g| g."""

    def __init__(self, rows: Iterable[dict[str, Any]], momentum: float) -> None:
        super().__init__(rows, {"lr": 0.0, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                move: Tensor = p.grad
                if p.ndim > 1:
                    move = move.add(p, alpha=group["weight_decay"])
                    size, norm = p.norm(), move.norm()
                    ratio = torch.where((size > 0) & (norm > 0), 0.001 * size / norm, torch.ones_like(size))
                    move = move * ratio
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                state["momentum_buffer"].mul_(group["momentum"]).add_(move)
                p.add_(state["momentum_buffer"], alpha=-group["lr"])


def lr_factor(config: LoopConfig, step: int, total: int, history: Sequence[float] = (), sign: int = 1) -> float:
    """The multiple of `lr` at a step; `history` holds the watched score of past validations (sign -1: lower wins)."""
    warm = config.warmup * total if config.warmup < 1 else config.warmup
    if step < warm:
        return (step + 1) / (warm + 1)
    done = min(1.0, (step - warm) / max(1.0, total - warm))
    match config.schedule:
        case "cosine":
            shape = 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            shape = 1 - done
        case "multistep":
            shape = config.gamma ** sum(step >= (m * total if m < 1 else m) for m in config.milestones)
        case "plateau":
            shape = config.gamma ** drops(history, config.plateau_patience, sign)
        case "constant":
            shape = 1.0
    return config.floor + (1 - config.floor) * shape


def drops(history: Sequence[float], patience: int, sign: int) -> int:
    """How often the score has failed to improve for `patience` validations in a row."""
    best, bad, count = -math.inf, 0, 0
    for value in history:
        if sign * value > best:
            best, bad = sign * value, 0
        elif (bad := bad + 1) >= patience:
            bad, count = 0, count + 1
    return count


def worth_going_on(history: Sequence[float], patience: int | None, sign: int) -> bool:
    """False once the best score is `patience` validations old."""
    if patience is None or not history:
        return True
    best = max(range(len(history)), key=lambda i: (sign * history[i], -i))
    return len(history) - 1 - best < patience
