"""How to run a reference's fixture, one family a file: `MEMBER = Oracle(...)`. Chosen by what meta.json says.

A folder holds `meta.json`, `weights.safetensors`, `inputs.safetensors`, `outputs.safetensors` and maybe `modules.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from swath.core.family import Family
from swath.models.loading import Layout

Meta = Mapping[str, Any]
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Oracle:
    """One reference: which fixtures are its own, how to build the module, and how inputs become named outputs.

    `build(meta, weights)` gets the official state for its shapes; `run(module, meta, inputs)` gives every output.
    `full` names published full-size models: each makes a state (keys and shapes) and is called on the meta device.
    `names` maps a module path in modules.json to ours where they differ.
    """

    matches: Callable[[Meta], bool]
    build: Callable[[Meta, Tensors], nn.Module]
    run: Callable[[nn.Module, Meta, Tensors], dict[str, Tensor]]
    layout: Callable[[Meta], Layout] = lambda meta: Layout()
    full: Mapping[str, Callable[[], Mapping[str, Tensor]]] = field(default_factory=dict[str, Any])
    names: Callable[[str], str] = lambda name: name


ORACLES: Family[Oracle] = Family("oracle", "swath.models.oracle")


def count_blocks(state: Tensors, prefix: str) -> int:
    """How many numbered blocks stand under a prefix such as `blocks.`."""
    numbers = {int(k.removeprefix(prefix).split(".")[0]) for k in state if k.startswith(prefix)}
    return max(numbers, default=-1) + 1


def says(meta: Meta, *words: str) -> bool:
    """Whether the reference string holds one of these words, in any case."""
    text = str(meta.get("reference", "")).lower()
    return any(w.lower() in text for w in words)


def wanted(meta: Meta) -> list[str]:
    """The names of the outputs that the fixture expects."""
    return list(meta.get("output_stats", {}))


def only(outputs: Mapping[str, Tensor], meta: Meta) -> dict[str, Tensor]:
    """What the fixture expects of what we have; all of it when the fixture does not say."""
    names = wanted(meta)
    return {k: v for k, v in outputs.items() if not names or k in names}
