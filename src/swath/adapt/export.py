"""Export: the bundle as one graph of plain tensors, for ONNX runtimes or `torch.export`, proven equal to the bundle.

Inputs are one tensor a sensor `(B, T, C, H, W)` in physical units, with its name; everything is taken to be valid, of
unknown place and date. The output is the main array: `probabilities` or `values`.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from swath.adapt.bundle import Bundle
from swath.adapt.task import TaskModule
from swath.core.batch import Batch, Layer, Where
from swath.core.errors import SwathError, UserError
from swath.core.sensor import Sensor
from swath.core.sensors import SENSORS

TARGETS = {"onnx": ".onnx", "torch-export": ".pt2"}
TOLERANCE = 1e-4


class Plain(nn.Module):
    """Tensors in, tensor out."""

    def __init__(self, task: TaskModule, sensors: tuple[Sensor, ...], main: str) -> None:
        super().__init__()
        self.task, self.sensors, self.main = task, sensors, main

    def forward(self, *planes: Tensor) -> Tensor:
        layers: dict[str, Layer] = {}
        for sensor, x in zip(self.sensors, planes, strict=True):
            valid = torch.ones_like(x[:, :, :1], dtype=torch.bool)
            layers[sensor.id] = Layer(sensor, x, valid)
        where = Where.unknown(planes[0].shape[0])
        return self.task.plain(Batch(layers, where))[self.main]


def sensors_of(bundle: Bundle) -> tuple[Sensor, ...]:
    """The bundle's inputs as sensors."""
    return tuple(SENSORS.get(i.sensor).select([b.name for b in i.bands]) for i in bundle.card.inputs)


def example(bundle: Bundle, size: int, batch: int = 1) -> tuple[Tensor, ...]:
    """Inputs of ordinary magnitude: each band around its mean."""
    out: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)
    for card, sensor in zip(bundle.card.inputs, sensors_of(bundle), strict=True):
        fine = min(b.gsd for i in bundle.card.inputs for b in i.bands)
        side = max(1, round(size * fine / sensor.gsd))
        x = torch.randn(batch, card.dates[1], len(card.bands), side, side, generator=generator)
        mean = torch.tensor([0.2 if b.mean is None else b.mean for b in card.bands]).view(-1, 1, 1)
        std = torch.tensor([0.1 if b.std is None else b.std for b in card.bands]).view(-1, 1, 1)
        out.append(x * std + mean)
    return tuple(out)


def export(bundle: Bundle, to: str, out: Path | None = None, size: int = 0) -> dict[str, Any]:
    """Write the file and say how far its answers are from the bundle's on two inputs."""
    if to not in TARGETS:
        raise UserError(f"unknown target '{to}'", where="--to", remedy=f"known: {', '.join(TARGETS)}")
    target = out or Path(bundle.name + TARGETS[to])
    _check(target, size)
    side = size or bundle.card.tiling.tile
    main = _main(bundle)
    plain = Plain(bundle.task.cpu().eval(), sensors_of(bundle), main).eval()
    first, other = example(bundle, side), tuple(x + 0.01 for x in example(bundle, side))
    part = target.with_name(f".{target.stem}.part{target.suffix}")
    with torch.no_grad():
        want = [plain(*first), plain(*other)]
        program = torch.export.export(plain, first, strict=False)
    try:
        got = _onnx(bundle, program, part, (first, other)) if to == "onnx" else _saved(program, part, (first, other))
        gap = max(float((a - b).abs().max()) for a, b in zip(want, got, strict=True))
        if not gap <= TOLERANCE:
            raise SwathError(f"the exported model differs from the bundle by {gap:.2g}", where=str(target))
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    shapes = {s.id: list(x.shape) for s, x in zip(plain.sensors, first, strict=True)}
    return {"file": str(target), "to": to, "inputs": shapes, "output": main, "largest_difference": gap}


def _check(target: Path, size: int) -> None:
    """Said before a minute of tracing, not after."""
    if size < 0:
        raise UserError(f"an input of {size} pixels", where="--size", remedy="0 takes the bundle's tile")
    if target.is_dir() or target.suffix == ".swath":
        raise UserError("a bundle or a folder is not written over", where=str(target),
                        remedy=f"a name that ends in {' or '.join(TARGETS.values())}")  # fmt: skip
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise UserError("there is no such folder, or it cannot be written", where=str(target.parent))


def _main(bundle: Bundle) -> str:
    """The array that the graph gives."""
    if bundle.label.kind == "boxes":
        raise UserError(
            f"'{bundle.card.task}' answers with objects, any number of them, which a graph of tensors does not give",
            where=f"bundle {bundle.name}",
            remedy="swath map, predict and serve give them",
        )
    return "probabilities" if bundle.label.kind in ("mask", "class", "tags") else "values"


def _saved(program: Any, part: Path, inputs: tuple[tuple[Tensor, ...], ...]) -> list[Tensor]:
    torch.export.save(program, part)
    loaded = torch.export.load(part).module()
    with torch.no_grad():
        return [loaded(*x) for x in inputs]


def _onnx(bundle: Bundle, program: Any, part: Path, inputs: tuple[tuple[Tensor, ...], ...]) -> list[Tensor]:
    import onnxruntime

    names = [i.sensor for i in bundle.card.inputs]
    with warnings.catch_warnings():  # torch writes the ends of float64 into float32 where a value is only bounded below
        warnings.filterwarnings("ignore", "overflow encountered in cast", RuntimeWarning)
        made: Any = torch.onnx.export(
            program, dynamo=True, input_names=names, output_names=["answer"], external_data=False, verbose=False
        )
    made.model.metadata_props["swath"] = json.dumps({"digest": bundle.digest, "label": bundle.label.name})
    made.save(str(part), external_data=False)
    session = onnxruntime.InferenceSession(str(part), providers=["CPUExecutionProvider"])
    feeds = [dict(zip(names, (x.numpy() for x in row), strict=True)) for row in inputs]
    return [torch.from_numpy(session.run(None, feed)[0]) for feed in feeds]
