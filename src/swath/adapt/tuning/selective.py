"""Selective: the parameters whose names match one of the patterns (shell style, such as `blocks.1?.*norm*`)."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from typing import ClassVar

from torch import nn

from swath.adapt import sites
from swath.core.errors import UserError

NORMS = "*norm*"


@dataclass(frozen=True)
class Selective:
    """A pattern that matches nothing is an error, not a smaller run; the default finds norms that are called otherwise
    (`bn1`) by what they are."""

    kind: ClassVar[str] = "selective"
    on: ClassVar[tuple[str, ...]] = ("vit", "swin", "resnet")
    exact: ClassVar[bool] = True
    patterns: tuple[str, ...] = (NORMS,)

    def apply(self, encoder: nn.Module) -> nn.Module:
        sites.freeze(encoder)
        names = [n for n, _ in encoder.named_parameters()]
        if not names:
            raise UserError("the encoder has no parameters to select from", where="tuning", remedy="choose linear")
        for pattern in self.patterns:
            hits = [n for n in names if fnmatch(n, pattern)] or (_norms(encoder) if pattern == NORMS else [])
            if not hits:
                raise UserError(
                    f"the pattern '{pattern}' matches no parameter",
                    where="tuning.patterns",
                    remedy=f"names look like {', '.join(names[:3])} ... {names[-1]}",
                )
            sites.thaw(encoder, hits)
        return encoder

    def merge(self, encoder: nn.Module) -> nn.Module:
        return encoder


def _norms(encoder: nn.Module) -> list[str]:
    """The parameters of norm layers."""
    layers = [(n, m) for n, m in encoder.named_modules() if isinstance(m, sites.NORMS)]
    return [f"{n}.{p}" for n, m in layers for p, _ in m.named_parameters(recurse=False)]


MEMBER = Selective
