"""Probes: what frozen features know of a label. k nearest neighbours and a linear map, on pooled vectors and patches.

The linear probe is ridge regression onto one-hot classes, the penalty chosen among five on a third of the training
half, so that it needs no learning rate and no seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swath.core import Batch, Features, Source, UserError, collate

PENALTIES = (1e-4, 1e-2, 1.0, 1e2, 1e4)


@dataclass(frozen=True)
class Probe:
    """`label` of kind class, known from pooled vectors, or of kind mask, known from the map's cells (at most `cells`,
    each the class most of it has). `samples` of the training split, every other one to learn from. When: at the
    start, at every validation (`loop.validate_every`), at the end."""

    label: str
    samples: int = 256
    k: int = 10
    cells: int = 4096


def pooled(encoder: nn.Module, batch: Batch, size: int = 64) -> Tensor:
    """Pooled vectors (B, D) of a batch, in eval mode, on the encoder's device."""
    return torch.cat([f.pooled.float().cpu() for f in _asked(encoder, batch, size)])


def dense(encoder: nn.Module, batch: Batch, size: int = 64) -> Tensor:
    """The last level's map (B, D, h, w)."""
    return torch.cat([f.maps[-1].float().cpu() for f in _asked(encoder, batch, size)])


def _asked(encoder: nn.Module, batch: Batch, size: int) -> Iterator[Features]:
    """An encoder's features of a batch, so many samples at a time, in eval mode and on its device."""
    was, device = encoder.training, next((p.device for p in encoder.parameters()), torch.device("cpu"))
    encoder.eval()
    for i in range(0, len(batch), size):
        with torch.no_grad():
            found: Features = encoder(batch[slice(i, i + size)].to(device))
        yield found
    encoder.train(was)


def standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the training half's mean and width."""
    mean, std = train.mean(0), train.std(0).clamp_min(1e-6)
    return (train - mean) / std, (test - mean) / std


def knn(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], k: int = 10) -> float:
    """Accuracy of a cosine-weighted vote of the k nearest."""
    a, b = (F.normalize(x, dim=1) for x in standardised(train[0], test[0]))
    near = (b @ a.T).topk(min(k, len(a)), dim=1)
    votes = torch.zeros(len(b), int(torch.cat([train[1], test[1]]).max()) + 1)
    votes.scatter_add_(1, train[1][near.indices], (near.values / 0.07).exp())
    return float((votes.argmax(1) == test[1]).float().mean())


def linear(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Accuracy of ridge regression onto the classes."""
    classes = int(torch.cat([train[1], test[1]]).max()) + 1
    held = torch.arange(len(train[0])) % 3 == 0
    inner = [(train[0][~held], train[1][~held]), (train[0][held], train[1][held])]
    best = max(PENALTIES, key=lambda p: (_ridge(inner[0], inner[1], classes, p), p))
    return _ridge(train, test, classes, best)


def _ridge(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int, penalty: float) -> float:
    a, b = standardised(train[0].double(), test[0].double())
    a, b = (F.pad(x, (0, 1), value=1.0) for x in (a, b))
    y = F.one_hot(train[1], classes).double()
    eye = torch.eye(a.shape[1], dtype=torch.float64) * penalty
    w = torch.linalg.solve(a.T @ a + eye, a.T @ y)
    return float(((b @ w).argmax(1) == test[1]).float().mean())


def probe_samples(source: Source, index: Sequence[int], bands: Mapping[str, Sequence[str]], probe: Probe) -> Batch:
    """Labelled samples, evenly spread over the split."""
    kinds = ("class", "mask")
    if probe.label not in source.labels or source.labels[probe.label].kind not in kinds:
        known = [n for n, s in source.labels.items() if s.kind in kinds]
        raise UserError(
            f"a probe needs a label of kind class or mask, and '{probe.label}' is not one",
            where=source.name,
            remedy=f"labels of these kinds: {', '.join(known) or 'none'}",
        )
    step = max(1, len(index) // probe.samples)
    return collate([source.sample(int(i), bands or None) for i in list(index)[::step][: probe.samples]])


def majority(value: Tensor, valid: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The class most pixels of each cell have, (B, h, w), and where a cell has any."""
    classes = int(value.max()) + 1
    share = F.one_hot(torch.where(valid, value, torch.zeros_like(value)), classes) * valid[..., None]
    cells = F.adaptive_avg_pool2d(share.permute(0, 3, 1, 2).float(), grid)
    return cells.argmax(1), cells.sum(1) > 0


def known_of(encoder: nn.Module, batch: Batch, probe: Probe) -> list[tuple[Tensor, Tensor]]:
    """Features and classes of the even samples to learn from, and of the odd ones to judge by."""
    label = batch.labels[probe.label]
    if label.kind == "class":
        x, good = pooled(encoder, batch), label.valid
        return [(x[i::2][good[i::2]], label.value[i::2][good[i::2]]) for i in (0, 1)]
    maps, out = dense(encoder, batch), list[tuple[Tensor, Tensor]]()
    value, good = majority(label.value, label.valid, (maps.shape[2], maps.shape[3]))
    for i in (0, 1):
        x, y, ok = maps[i::2].permute(0, 2, 3, 1).flatten(0, 2), value[i::2].flatten(), good[i::2].flatten()
        at = ok.nonzero()[:, 0]
        at = at[torch.linspace(0, max(0, len(at) - 1), min(len(at), probe.cells // 2)).long()]
        out.append((x[at], y[at]))
    return out


def scores(encoder: nn.Module, batch: Batch, probe: Probe) -> dict[str, float]:
    """kNN and linear accuracy on what was not learnt from, and what naming the commonest class would score."""
    train, test = known_of(encoder, batch, probe)
    most = train[1].bincount().argmax()
    common = float((test[1] == most).float().mean())
    return {"knn": knn(train, test, probe.k), "linear": linear(train, test), "commonest": common}
