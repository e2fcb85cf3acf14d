"""Counter-based randomness: every draw has an address, so there is no generator state to save.

seed = blake2b(run seed, epoch, sample key, stream name, ...): the number of workers, the order of
samples and a resume change nothing.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Address = int | str


def seed_of(*address: Address) -> int:
    """A 63-bit seed for an address such as `(run_seed, epoch, key, "crop")`."""
    digest = hashlib.blake2b(digest_size=8)
    for part in address:
        tag, text = ("i", str(int(part))) if not isinstance(part, str) else ("s", part)
        digest.update(f"{tag}{len(text)}:{text}".encode())
    return int.from_bytes(digest.digest(), "little") & 0x7FFF_FFFF_FFFF_FFFF


def generator(*address: Address) -> torch.Generator:
    """A torch generator on the CPU for this address."""
    import torch  # NumPy's generators are wanted where torch is not there yet

    return torch.Generator().manual_seed(seed_of(*address))


def numpy_generator(*address: Address) -> np.random.Generator:
    """A NumPy generator (Philox, counter-based) for this address."""
    return np.random.Generator(np.random.Philox(key=seed_of(*address)))


class _Moment:
    seed: int | None = None


def at(*address: Address) -> None:
    """From now on `coins` are drawn at this address; without one, by torch's own generator again."""
    _Moment.seed = seed_of(*address) if address else None


def coins(keys: torch.Tensor, *stream: Address) -> torch.Tensor:
    """A number in 0..1 for each sample, for draws inside a network, at the address (`at`, key, stream): whatever batch,
    part or rank a sample stands in, and when its forward is computed again."""
    import torch

    if _Moment.seed is None:
        return torch.rand(len(keys), device=keys.device)
    z = keys + (seed_of(_Moment.seed, *stream) - 2**62)  # splitmix64 (Steele et al. 2014), in wrapping int64
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        z = (z ^ _shifted(z, shift)) * factor
    return (_shifted(z ^ _shifted(z, 31), 11).double() / 2**53).float()


def _shifted(z: torch.Tensor, n: int) -> torch.Tensor:
    return (z >> n) & ((1 << (64 - n)) - 1)


def per_sample(base: torch.Generator, keys: torch.Tensor, *stream: Address) -> list[torch.Generator]:
    """One generator a sample, at the address (seed of `base`, key, stream): how samples are batched changes no draw."""
    return [generator(base.initial_seed(), int(key), *stream) for key in keys]
