"""Features of a frozen encoder, on disk, keyed by (weights, data, preprocessing): the second epoch costs the head only.

One raw file a feature level, each a row-major array written once and read through memory maps; the folder's name is the
key, so another weight, band, sample or setting can never meet old features.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swath.adapt.task import TaskModule
from swath.core.batch import Batch, collate
from swath.core.contracts import Features, Source
from swath.core.sensor import Sensor

_AT_ONCE = 16


class FeatureStore:
    """Reads features by sample key; `__call__` is what `TaskModule.store` wants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        self.strides = tuple(float(s) for s in meta["strides"])
        self.row = {int(k): i for i, k in enumerate(meta["keys"])}
        self.arrays = [
            np.memmap(folder / f"{n}.f32", np.float32, "r", shape=tuple(s)) for n, s in meta["arrays"].items()
        ]

    def __call__(self, batch: Batch) -> Features:
        device = batch.where.key.device
        rows = [self.row[int(k)] for k in batch.where.key]
        *maps, pooled = (torch.from_numpy(np.stack([a[r] for r in rows])).to(device) for a in self.arrays)
        return Features(tuple(maps), pooled, self.strides)


class Labelled:
    """A source that gives keys and labels only: the pixels were read once, for the features."""

    def __init__(self, source: Source, samples: Mapping[int, Batch]) -> None:
        self.name, self.licence, self.labels = source.name, source.licence, source.labels
        self.sensors: tuple[Sensor, ...] = source.sensors
        self._source, self._samples = source, samples

    @property
    def fingerprint(self) -> str:
        return self._source.fingerprint

    def __len__(self) -> int:
        return len(self._source)

    def splits(self) -> Mapping[str, Sequence[int]]:
        return self._source.splits()

    def sample(self, index: int, bands: Mapping[str, Sequence[str]] | None = None) -> Batch:
        return self._samples[index]


def labels_only(batch: Batch, task: TaskModule) -> Batch:
    """Key, place and the label as it is judged."""
    return Batch({}, batch.where, {task.label.name: task.judged(batch).labels[task.label.name]})


@torch.no_grad()
def fill(
    folder: Path, task: TaskModule, source: Source, index: Sequence[int], *, bands: Mapping[str, Sequence[str]]
) -> dict[int, Batch]:
    """Encode these samples once into `folder` (unless it is there), and give their labels."""
    labels: dict[int, Batch] = {}
    ready = (folder / "meta.json").is_file()
    device = next((p.device for p in task.parameters()), torch.device("cpu"))
    tmp = Path(tempfile.mkdtemp(dir=_made(folder.parent), prefix=".features-")) if not ready else folder
    shapes: dict[str, list[int]] = {}
    keys: list[int] = []
    strides: tuple[float, ...] = ()
    task.eval()
    try:
        for at in range(0, len(index), _AT_ONCE):
            chosen = index[at : at + _AT_ONCE]
            part = [source.sample(i, bands) for i in chosen]
            labels |= {i: labels_only(one, task) for i, one in zip(chosen, part, strict=True)}
            if ready:
                continue
            batch = collate(part)
            keys += [int(k) for k in batch.where.key]
            found = task.features(batch.to(device))
            strides = found.strides
            named: dict[str, Tensor] = {f"map{i}": m for i, m in enumerate(found.maps)} | {"pooled": found.pooled}
            for name, value in named.items():
                with open(tmp / f"{name}.f32", "ab") as out:
                    out.write(value.float().cpu().contiguous().numpy().tobytes())
                shapes[name] = [shapes.get(name, [0])[0] + len(value), *value.shape[1:]]
        if not ready:
            body = {"keys": keys, "strides": list(strides), "arrays": shapes}
            (tmp / "meta.json").write_text(json.dumps(body), encoding="utf-8")
            _publish(tmp, folder)
    except BaseException:
        if not ready:
            shutil.rmtree(tmp, ignore_errors=True)
        raise
    return labels


def _publish(made: Path, folder: Path) -> None:
    """Under its name at once; where another process was faster, its features are these and stay."""
    try:
        os.replace(made, folder)
    except OSError:
        if not (folder / "meta.json").is_file():
            raise
        shutil.rmtree(made, ignore_errors=True)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
