"""Networks whose weights are set after they are built: from a file, or by another law than torch's own.

torch draws every layer's weights as it is built: of a ViT-S for a tenth of a second, of a ViT-L for two.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_DRAWS = frozenset({nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_, torch.Tensor.uniform_,
                    torch.Tensor.normal_})  # fmt: skip
"""What torch tells a mode of; its other laws end in these."""


class undrawn(TorchFunctionMode):  # noqa: N801  (used as a context, as torch's no_grad)
    """Inside, parameters are zero where they would be drawn; whoever builds sets every one of them afterwards."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func in _DRAWS:
            target = args[0] if args else given.get("tensor")
            if isinstance(target, nn.Parameter):
                with torch.no_grad():
                    return target.zero_()
        return func(*args, **given)


__all__ = ["undrawn"]
