"""Where a tuning can take hold: the blocks of a trunk, their attention, MLP, linear, convolution and norm layers.

Everything is found by structure, so a tuning works on any encoder whose trunk is a stack of like blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import nn

from swath.core.errors import UserError

Trunk = Literal["vit", "swin", "resnet"]
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.RMSNorm)  # pyright: ignore[reportPrivateUsage]
ATTENTION = ("attn", "attention", "selfattention", "self_attn", "self_attention")
MLP = ("mlp", "ffn", "feed_forward", "feedforward", "ff")
QUERIES = ("qkv", "to_qkv", "q", "query", "q_proj", "in_proj")


def blocks(encoder: nn.Module) -> list[tuple[str, nn.Module]]:
    """The repeated blocks in order of depth, with their names.

    A block is a child of a list or sequence that has children with parameters of its own; of the classes that
    repeat, the one that holds most parameters; a block that holds blocks (a stage) is none.
    """
    found: dict[type, list[tuple[str, nn.Module]]] = {}
    for name, stack in encoder.named_modules():
        if not isinstance(stack, nn.ModuleList | nn.Sequential):
            continue
        for key, child in stack.named_children():
            parts = [c for c in child.children() if any(True for _ in c.parameters())]
            if len(parts) >= 2:
                found.setdefault(type(child), []).append((f"{name}.{key}" if name else key, child))
    leaves = {kind: rows for kind, rows in found.items() if not _holds(rows, found)}
    if not leaves:
        return []
    return max(leaves.values(), key=lambda rows: sum(p.numel() for _, m in rows for p in m.parameters()))


def _holds(rows: list[tuple[str, nn.Module]], found: dict[type, list[tuple[str, nn.Module]]]) -> bool:
    """Whether these modules are stages: some other repeated class lives inside them, twice or more in one of them."""
    prefix = rows[0][0] + "."
    return any(sum(n.startswith(prefix) for n, _ in other) >= 2 for other in found.values() if other is not rows)


def child(block: nn.Module, names: tuple[str, ...]) -> str | None:
    """The name of a block's first child that is called, or whose class is called, like one of `names`."""
    for name, part in block.named_children():
        words = (name.lower(), type(part).__name__.lower())
        if words[0] in names or any(n.replace("_", "") in words[1] for n in names if len(n) > 2):
            return name
    return None


def flat(block: nn.Module) -> bool:
    """Whether a block holds its projections itself, without parts for attention and MLP."""
    return any(name in QUERIES for name, _ in block.named_children())


def sublayers(block: nn.Module) -> list[str]:
    """The parts whose outputs join the residual stream: attention and MLP, or their last layers in a flat block."""
    if flat(block):
        return [n for n, _ in block.named_children() if n in ("proj", "out_proj", "o_proj", "fc2", "w2", "down_proj")]
    parts = (child(block, ATTENTION), child(block, MLP))
    return [p for p in parts if p is not None]


def trunk(encoder: nn.Module) -> Trunk | None:
    """What kind of trunk this is: a transformer on sequences, one on windows, or a convolutional one."""
    found = blocks(encoder)
    if not found:
        return None
    if child(found[0][1], ATTENTION) is None and not flat(found[0][1]):
        return "resnet" if any(isinstance(m, nn.Conv2d) for _, b in found for m in b.modules()) else None
    kind = type(found[0][1]).__name__.lower() + type(encoder).__name__.lower()
    return (
        "swin" if "swin" in kind or any("window" in type(m).__name__.lower() for m in found[0][1].modules()) else "vit"
    )


def need(encoder: nn.Module, kind: str, on: Iterable[str]) -> Trunk:
    """The trunk, or a named error when the tuning is not declared for it."""
    have, want = trunk(encoder), tuple(on)
    if have is None or have not in want:
        raise UserError(
            f"tuning '{kind}' works on {', '.join(want)} trunks; {type(encoder).__name__} has {have or 'no blocks'}",
            where="tuning",
            remedy="choose full, frozen, partial, bitfit or lora, which every trunk allows"
            if have
            else "choose linear, frozen or full, which need no blocks",
        )
    return have


def layers(encoder: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[str]:
    """Names of the layers of these kinds inside the blocks."""
    return [f"{b}.{n}" for b, block in blocks(encoder) for n, m in block.named_modules() if isinstance(m, kinds)]


def replace(root: nn.Module, name: str, new: nn.Module) -> None:
    """Put a module in the place of the one called `name`."""
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, new)


def freeze(module: nn.Module) -> nn.Module:
    """No parameter may move."""
    return module.requires_grad_(False)


def thaw(module: nn.Module, names: Iterable[str]) -> int:
    """Let these parameters move; returns how many there are."""
    wanted = set(names)
    count = 0
    for name, p in module.named_parameters():
        if name in wanted:
            p.requires_grad_(True)
            count += 1
    return count
