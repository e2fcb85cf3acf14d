"""Deltas: what a tuning changed, saved alone, loaded onto the base by its hash.

A tensor belongs to the delta when the base has none of its name or another value under it. Names are the base's own:
`base_layer`, which wrappers put between, is dropped before comparing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from swath.core.errors import UserError


def base_name(name: str) -> str:
    """A tensor's name in the encoder before anything was inserted."""
    return name.replace(".base_layer.", ".").removeprefix("base_layer.")


def fingerprint(tensor: Tensor) -> str:
    """sha256 of a tensor's dtype, shape and bytes."""
    plain = tensor.detach().cpu().contiguous()
    head = hashlib.sha256(f"{plain.dtype}{tuple(plain.shape)}".encode())
    if plain.numel():
        head.update(plain.flatten().view(torch.uint8).numpy().data)
    return head.hexdigest()


def fingerprints(module: nn.Module | Mapping[str, Tensor]) -> dict[str, str]:
    """Name to sha256 for every tensor of a state."""
    state = module.state_dict() if isinstance(module, nn.Module) else module
    return {name: fingerprint(t) for name, t in state.items()}


def hash_of(prints: Mapping[str, str]) -> str:
    """One sha256 over all tensors of a state, whatever their order."""
    text = "\n".join(f"{k} {v}" for k, v in sorted(prints.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def changes(module: nn.Module, base: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of a tuned encoder that the base has not."""
    state = module.state_dict()
    return {n: t.detach().cpu().contiguous() for n, t in state.items() if base.get(base_name(n)) != fingerprint(t)}


def load(module: nn.Module, delta: Mapping[str, Tensor], *, where: str = "delta") -> None:
    """Put a delta onto a base to which the same tuning was applied; every tensor must find its place."""
    state = module.state_dict()
    for name, value in delta.items():
        if name not in state:
            raise UserError(f"the delta holds '{name}', which this encoder has not", where=where,
                            remedy="the tuning or the encoder differs from the one that was saved")  # fmt: skip
        if state[name].shape != value.shape:
            raise UserError(
                f"'{name}' is {tuple(value.shape)} in the delta, {tuple(state[name].shape)} here", where=where
            )
    module.load_state_dict({**state, **delta})


def share(module: nn.Module, base: nn.Module) -> int:
    """Let a module use the very tensors of a base wherever the values are the base's; returns the bytes shared.

    Several tuned encoders in one process then cost one base and their deltas.
    """
    own = {base_name(n): (n, t) for n, t in module.state_dict().items()}
    shared: dict[str, Tensor] = {}
    flags = {n: p.requires_grad for n, p in module.named_parameters()}
    for name, t in base.state_dict().items():
        if name in own and own[name][1].shape == t.shape and torch.equal(own[name][1], t):
            shared[own[name][0]] = t
    module.load_state_dict({**module.state_dict(), **shared}, strict=True, assign=True)
    for name, p in module.named_parameters():
        p.requires_grad_(flags[name])
    return sum(t.numel() * t.element_size() for t in shared.values())


def weigh(module: nn.Module) -> dict[str, int]:
    """What a tuning costs: parameters that move, all parameters, Adam's memory and the adapter file, in bytes."""
    moving = [p for p in module.parameters() if p.requires_grad]
    return {
        "trainable": sum(p.numel() for p in moving),
        "parameters": sum(p.numel() for p in module.parameters()),
        "optimizer_bytes": sum(2 * p.numel() * 4 for p in moving),
        "delta_bytes": sum(p.numel() * p.element_size() for p in moving),
    }
