"""Optimiser groups and the learning rate: pure functions of names, step and validation history."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from swath.core.errors import UserError
from swath.train.config import LoopConfig


def blocks_of(encoder: nn.Module) -> list[tuple[str, nn.Module]]:
    """The repeated blocks of a network in order of depth, with their names.

    They are the children of the list or sequence of like modules that holds most parameters, and of its brothers that
    differ by number alone (`layer1` to `layer4`); where those hold such lists themselves (stages), the inner ones
    count. Used for layer decay, sharding and compiling.
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
    for first, part in _brothers(encoder, name, trunk):
        for key, child in part.named_children():
            inner = blocks_of(child)
            path = f"{first}.{key}" if first else key
            out += [(f"{path}.{k}", m) for k, m in inner] or [(path, child)]
    return out


def _brothers(encoder: nn.Module, name: str, trunk: nn.Module) -> list[tuple[str, nn.Module]]:
    """The lists beside this one, itself included, with its name but for a number and with blocks of its kind."""
    above, _, own = name.rpartition(".")
    stem = own.rstrip("0123456789")
    if stem in ("", own):
        return [(name, trunk)]
    kind = type(next(trunk.children()))
    return [
        (f"{above}.{n}" if above else n, m)
        for n, m in encoder.get_submodule(above).named_children()
        if n.rstrip("0123456789") == stem and isinstance(m, type(trunk)) and {type(c) for c in m.children()} == {kind}
    ]


def depth_of(encoder: nn.Module, prefix: str = "") -> dict[str, int]:
    """Layer number of every parameter of an encoder: 0 before the blocks, i + 1 in block i and in what stands before it
    and after the block before (a stage's entrance), and n + 1 after them all."""
    blocks = [name for name, _ in blocks_of(encoder)]
    depth: dict[str, int] = {}
    between: list[str] = []
    last = -1
    for name, _ in encoder.named_parameters():
        inside = next((i for i, b in enumerate(blocks) if name == b or name.startswith(b + ".")), None)
        if inside is None:
            between.append(prefix + name)
            continue
        depth |= dict.fromkeys(between, inside + 1 if last >= 0 else 0)
        between, last = [], inside
        depth[prefix + name] = inside + 1
    return depth | dict.fromkeys(between, len(blocks) + 1 if last >= 0 else 0)


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


class Optimizer(ABC):
    """Groups, state and a step. Not torch's class: its constructor imports the compiler, two seconds at the start of
    every run, and these updates are plain tensor operations, the same on plain and sharded parameters."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.param_groups = rows
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}

    @abstractmethod
    def fresh(self, p: nn.Parameter) -> dict[str, Tensor]:
        """The state of a parameter that has not moved yet."""

    @abstractmethod
    def update(self, p: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        """Move one parameter."""

    def prepare(self) -> None:
        """Make the state of every parameter, so that a checkpoint always holds the same tensors."""
        for p in (p for g in self.param_groups for p in g["params"] if p not in self.state):
            self.state[p] = self.fresh(p)

    @torch.no_grad()
    def step(self) -> None:
        self.prepare()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, p.grad, group)

    def zero_grad(self) -> None:
        for p in (p for g in self.param_groups for p in g["params"]):
            p.grad = None


class AdamW(Optimizer):
    """Decoupled weight decay (https://arxiv.org/abs/1711.05101): w -= lr (wd w + m^ / (sqrt(v^) + eps))."""

    def __init__(self, rows: list[dict[str, Any]], betas: tuple[float, float], eps: float = 1e-8) -> None:
        super().__init__(rows)
        self.betas, self.eps = betas, eps

    def fresh(self, p: nn.Parameter) -> dict[str, Tensor]:
        return {"step": torch.zeros(()), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}

    @torch.no_grad()
    def step(self) -> None:
        """Whole tensors move in one fused call a group, a third of the time; shards by their own operations."""
        self.prepare()
        for group in self.param_groups:
            moved = [(p, p.grad) for p in group["params"] if p.grad is not None]
            for p, grad in moved:
                if not _whole(p):
                    self.update(p, grad, group)
            self._fused([(p, grad) for p, grad in moved if _whole(p)], group)

    def _fused(self, moved: list[tuple[nn.Parameter, Tensor]], group: dict[str, Any]) -> None:
        if not moved:
            return
        states = [self.state[p] for p, _ in moved]
        for s in states:
            s["step"] += 1
        torch.ops.aten._fused_adamw_(
            [p for p, _ in moved],
            [g for _, g in moved],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"].to(p.device) for s, (p, _) in zip(states, moved, strict=True)],
            lr=group["lr"],
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=group["weight_decay"],
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    def update(self, p: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        (a, b), lr, s = self.betas, group["lr"], self.state[p]
        s["step"] += 1
        n = float(s["step"])
        p.mul_(1 - lr * group["weight_decay"])
        s["exp_avg"].lerp_(grad, 1 - a)
        s["exp_avg_sq"].mul_(b).addcmul_(grad, grad, value=1 - b)
        size = s["exp_avg_sq"].sqrt().div_(math.sqrt(1 - b**n)).add_(self.eps)
        p.addcdiv_(s["exp_avg"], size, value=-lr / (1 - a**n))


def _whole(p: nn.Parameter) -> bool:
    """Whether a parameter is a plain fp32 tensor and its gradient too, not a shard of one."""
    return type(p.data) is Tensor and p.dtype == torch.float32 and type(p.grad) is Tensor


class Sgd(Optimizer):
    """Momentum: v = m v + (g + wd w); w -= lr v. `layerwise` scales matrices' moves to 0.001 |w| (LARS,
    https://arxiv.org/abs/1708.03888)."""

    def __init__(self, rows: list[dict[str, Any]], momentum: float, layerwise: bool = False) -> None:
        super().__init__(rows)
        self.momentum, self.layerwise = momentum, layerwise

    def fresh(self, p: nn.Parameter) -> dict[str, Tensor]:
        return {"momentum_buffer": torch.zeros_like(p)}

    def update(self, p: nn.Parameter, grad: Tensor, group: dict[str, Any]) -> None:
        move = grad.add(p, alpha=group["weight_decay"]) if group["weight_decay"] else grad
        if self.layerwise and p.ndim > 1:
            size, norm = p.norm(), move.norm()
            move = move * torch.where((size > 0) & (norm > 0), 0.001 * size / norm, torch.ones_like(size))
        p.add_(self.state[p]["momentum_buffer"].mul_(self.momentum).add_(move), alpha=-group["lr"])


def build(module: nn.Module, config: LoopConfig) -> Optimizer:
    """The optimiser over the groups."""
    rows = groups(module, config)
    if config.optimizer == "adamw":
        return AdamW(rows, config.betas)
    return Sgd(rows, config.betas[0], layerwise=config.optimizer == "lars")


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
    """How often the score has failed to improve for more than `patience` validations in a row: the drops of torch's
    `ReduceLROnPlateau` with a threshold of zero."""
    best, bad, count = -math.inf, 0, 0
    for value in history:
        if sign * value > best:
            best, bad = sign * value, 0
        elif (bad := bad + 1) > patience:
            bad, count = 0, count + 1
    return count


def worth_going_on(history: Sequence[float], patience: int | None, sign: int) -> bool:
    """False once the best score is `patience` validations old; what is not a number is no score."""
    if patience is None or not history:
        return True
    known = [-math.inf if math.isnan(v) else sign * v for v in history]
    best = known.index(max(known))
    return len(history) - 1 - best < patience
