"""A thin adapter to `peft`: inject into named layers, and fold back."""

from __future__ import annotations

from typing import Any

from torch import nn

from swath.adapt import sites
from swath.core.errors import UserError


def targets(encoder: nn.Module, wanted: tuple[str, ...], grouped: bool = True) -> list[str]:
    """Linear layers of the blocks (convolutions where there are none), all or those whose last name is wanted; without
    `grouped` no convolution by groups of channels, whose kernels have no rank to speak of."""
    names = sites.layers(encoder, (nn.Linear,)) or sites.layers(encoder, (nn.Conv2d,))
    parts = dict(encoder.named_modules())
    names = [n for n in names if grouped or getattr(parts[n], "groups", 1) == 1]
    own = names if not wanted else [n for n in names if n.rpartition(".")[2] in wanted]
    if not own:
        leaves = sorted({n.rpartition(".")[2] for n in names})
        raise UserError(f"no layer is called {' or '.join(wanted) or '(any)'}", where="tuning.layers",
                        remedy=f"the blocks have {', '.join(leaves) or 'no linear or convolution layers'}")  # fmt: skip
    return own


def inject(encoder: nn.Module, config: Any) -> nn.Module:
    """Insert adapters; only they may move afterwards."""
    from peft import inject_adapter_in_model

    sites.freeze(encoder)
    inject_adapter_in_model(config, encoder)
    hits = [n for n, _ in encoder.named_parameters() if ".lora_" in n or ".ia3_" in n]
    sites.freeze(encoder)
    if not sites.thaw(encoder, hits):
        raise UserError("nothing was inserted", where="tuning")
    return encoder


def fold(encoder: nn.Module) -> nn.Module:
    """Add every adapter to the weights it stands on, and remove it."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in [(n, m) for n, m in encoder.named_modules() if isinstance(m, BaseTunerLayer)]:
        layer.merge(safe_merge=True)  # type: ignore[operator]
        sites.replace(encoder, name, layer.get_base_layer())
    if hasattr(encoder, "peft_config"):
        del encoder.peft_config
    return encoder
