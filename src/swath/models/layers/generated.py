"""Kernels generated from what a band is: a small transformer reads one vector per band and writes its kernel.

Neural Plasticity-Inspired Foundation Model (DOFA), https://arxiv.org/abs/2403.15356. Clay and Copernicus-FM use the
same idea; their bands' codes, scales and kernel orders differ, and are arguments here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu


class KernelWriter(nn.Module):
    """Band vectors (C, D) to kernels (C, `out`) and one bias (`bias`,): learned tokens, bands and a bias token meet.

    `trunk` is the official name of the inner transformer.
    """

    def __init__(self, dim: int, out: int, bias: int | None, *, trunk: str = "transformer_encoder") -> None:
        super().__init__()
        self.trunk, self.tokens = trunk, 128
        layer = nn.TransformerEncoderLayer(dim, 4, 2048, dropout=0.0, activation=gelu, norm_first=False)
        self.add_module(trunk, nn.TransformerEncoder(layer, 1, enable_nested_tensor=False))
        self.fc_weight = nn.Linear(dim, out)
        self.fc_bias = None if bias is None else nn.Linear(dim, bias)
        self.weight_tokens = nn.Parameter(torch.randn(self.tokens, dim) * 0.02)
        self.bias_token = nn.Parameter(torch.randn(1, dim) * 0.02)

    def forward(self, bands: Tensor) -> tuple[Tensor, Tensor | None]:
        sequence = torch.cat([self.weight_tokens, bands, self.bias_token])
        written = self.get_submodule(self.trunk)(sequence)
        kernels = self.fc_weight(written[self.tokens : -1] + bands)
        return kernels, None if self.fc_bias is None else self.fc_bias(written[-1])


class BandResidual(nn.Module):
    """x + f(f(x)): the two-layer residual that every band's code passes first; `names` are the official ones."""

    def __init__(self, dim: int, names: tuple[str, str], activation: nn.Module) -> None:
        super().__init__()
        self.names = names
        for name in names:
            self.add_module(name, nn.Linear(dim, dim))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for name in self.names:
            y = self.activation(self.get_submodule(name)(y))
        return x + y


def kernel_resize(kernel: Tensor, size: int) -> Tensor:
    """(D, C, k, k) kernels for another patch so that resized images give the same tokens (FlexiViT's pseudo-inverse).

    https://arxiv.org/abs/2212.08013
    """
    k = kernel.shape[-1]
    if k == size:
        return kernel
    basis = torch.eye(k * k, dtype=torch.float32, device=kernel.device).view(k * k, 1, k, k)
    up = nn.functional.interpolate(basis, size=(size, size), mode="bicubic", antialias=True).view(k * k, -1)
    inverse = torch.linalg.pinv(up)
    flat = kernel.float().reshape(*kernel.shape[:2], k * k)
    return (flat @ inverse.T).view(*kernel.shape[:2], size, size).to(kernel.dtype)
