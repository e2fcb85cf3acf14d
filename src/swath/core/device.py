"""A device by name, tried before any work is done on it."""

from __future__ import annotations

import torch

from swath.core.errors import UserError


def usable(name: str | torch.device, where: str = "--device") -> torch.device:
    """The device, or a named error where this machine has none of it."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as why:
        said = str(why).splitlines()[0].split(". ")[0].rstrip(".") if str(why) else "torch was built without it"
        raise UserError(f"the device '{name}' cannot be used: {said}", where=where, remedy="choose cpu") from why
    return device


__all__ = ["usable"]
