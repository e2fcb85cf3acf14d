"""Pixels to tokens and back."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """A patch as one token: `proj` is a convolution whose stride is its kernel."""

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


def patchify(x: Tensor, patch: int, order: Literal["pqc", "cpq"] = "pqc") -> Tensor:
    """(B, C, H, W) as (B, h*w, p*p*C); `pqc` puts the band last inside a token, `cpq` first."""
    b, c, height, width = x.shape
    h, w = height // patch, width // patch
    y = x.view(b, c, h, patch, w, patch)
    y = y.permute(0, 2, 4, 3, 5, 1) if order == "pqc" else y.permute(0, 2, 4, 1, 3, 5)
    return y.reshape(b, h * w, patch * patch * c)


def unpatchify(tokens: Tensor, patch: int, grid: tuple[int, int], order: Literal["pqc", "cpq"] = "pqc") -> Tensor:
    """The inverse of `patchify`."""
    b, _, d = tokens.shape
    h, w = grid
    c = d // (patch * patch)
    if order == "pqc":
        y = tokens.view(b, h, w, patch, patch, c).permute(0, 5, 1, 3, 2, 4)
    else:
        y = tokens.view(b, h, w, c, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return y.reshape(b, c, h * patch, w * patch)
