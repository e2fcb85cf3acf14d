"""The same facts from any source (tortilla, HDF5, stream), sample by sample, in physical units."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path

import numpy as np

from swath.core.batch import Batch, Label, Layer
from swath.core.contracts import Source
from swath.core.errors import SwathError
from swath.core.grid import Grid
from swath.data.check.expect import declared
from swath.data.check.facts import MOST_CLASSES, Facts, Profile, Tally
from swath.data.check.layout import Layout, Member
from swath.data.check.likeness import signature
from swath.data.check.survey import Progress, Survey

_DAY = dt.date(1970, 1, 1)


def survey_source(source: Source, progress: Progress | None = None) -> Survey:
    """Read every sample once; a sample that cannot be read is a fact as well."""
    split_of = {i: s for s, rows in source.splits().items() for i in rows if s != "all"}
    survey = Survey(Layout(Path(), []), {})
    for i in range(len(source)):
        try:
            batch = source.sample(i)
        except SwathError as error:
            name = f"sample {i}"
            survey.layout.members.append(Member(name, "image", "samples", name, split_of.get(i, "")))
            survey.facts[name] = Facts(name, error="; ".join(error.lines()[:2]))
            continue
        _add(survey, batch, batch.where.names[0] if batch.where.names else str(i), split_of.get(i, ""))
        if progress is not None and (i % 16 == 0 or i + 1 == len(source)):
            progress(i + 1, len(source))
    for sensor in source.sensors:
        survey.expects[sensor.id] = declared(sensor, sensor.names, ("", 1.0, 0.0, None))
    for name, spec in source.labels.items():
        if spec.kind == "mask" and spec.classes and name in survey.layout.groups("label"):
            survey.legend, survey.legend_from = dict(enumerate(spec.classes)), f"the legend of {name}"
    return survey


def _add(survey: Survey, batch: Batch, name: str, split: str) -> None:
    grid = batch.where.grids[0] if batch.where.grids else None
    for id_, layer in batch.layers.items():
        file = f"{name}/{id_}" if len(batch.layers) > 1 else name
        survey.layout.members.append(Member(file, "image", id_, name, split))
        survey.facts[file] = layer_facts(file, layer, grid)
    for id_, label in batch.labels.items():
        if label.kind == "mask":
            file = f"{name}/{id_}"
            survey.layout.members.append(Member(file, "label", id_, name, split))
            survey.facts[file] = label_facts(file, label)


def layer_facts(file: str, layer: Layer, grid: Grid | None) -> Facts:
    """A layer's facts; what is invalid counts as nodata."""
    _, t, c, h, w = layer.shape
    x = layer.x[0].numpy().astype(np.float32)
    valid = layer.valid[0].numpy()
    pixels = np.where(valid, x, np.nan).transpose(1, 0, 2, 3).reshape(c, t * h, w)
    tally = Tally(c, float("nan"))
    tally.add(pixels, (1, 1))
    thin = pixels[:, :: max(1, t * h // 64), :: max(1, w // 64)]
    same = grid is not None and grid.shape == (h, w)
    profile = Profile(
        c, "float32", (h, w), grid.crs if grid is not None and same else "", float("nan"), layer.sensor.names, (), ()
    )
    days: list[str] = []
    if layer.times is not None:
        live = layer.valid[0].any(dim=(1, 2, 3))
        days = [str(_DAY + dt.timedelta(days=int(d))) for d, ok in zip(layer.times[0], live, strict=True) if ok]
    return Facts(
        file, profile=profile, affine=grid.affine if grid is not None and same else (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        stats=tally.table(thin), digest=hashlib.blake2b(pixels.tobytes(), digest_size=12).digest(),
        look=signature(pixels[:, :h]), dates=tuple(days),
    )  # fmt: skip


def label_facts(file: str, label: Label) -> Facts:
    """A mask's histogram over its valid pixels."""
    value, valid = label.value[0].numpy(), label.valid[0].numpy()
    tally = Tally(1, float("nan"))
    pixels = np.where(valid, value, np.nan).astype(np.float32)[None]
    tally.add(pixels, (1, 1))
    found, counts = np.unique(value[valid], return_counts=True)
    classes = {int(v): int(n) for v, n in zip(found, counts, strict=True)}
    profile = Profile(1, "int64", (value.shape[0], value.shape[1]), "", float("nan"), (), (), ())
    return Facts(
        file, profile=profile, affine=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0), stats=tally.table(pixels),
        classes=classes if len(classes) <= MOST_CLASSES else None, continuous=len(classes) > MOST_CLASSES,
    )  # fmt: skip
