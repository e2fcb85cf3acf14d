"""From a run file and its data to a module that can learn: everything that is derived is derived here, and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from swath.adapt import delta
from swath.adapt.build import Recipe, assemble, decoder_of
from swath.adapt.detail import Planes
from swath.adapt.evaluate import shapes
from swath.adapt.mix import check_mixing
from swath.adapt.run import TuneRun
from swath.adapt.splits import LOOKS, MOST_LOOKS, Splits, choose_splits, spread
from swath.adapt.task import TaskModule, check_classes, finest, judged
from swath.adapt.tasks import TaskConfig
from swath.adapt.tuning import TuningConfig
from swath.core.batch import Batch, Label, Layer
from swath.core.contracts import EncoderSpec, LabelSpec, Source
from swath.core.errors import UserError
from swath.core.sensor import Sensor
from swath.models import build_encoder
from swath.models.decoders import Decoder
from swath.models.encoder import EncoderModule

DETAIL = 32
"""Channels of the pixel branch of a dense task, where the run does not say."""
SOME = 32
"""So many samples tell how the bands of pixels vary together."""


@dataclass
class Prepared:
    """A run made ready."""

    source: Source
    splits: Splits
    label: LabelSpec
    bands: dict[str, tuple[str, ...]]
    recipe: Recipe
    task: TaskModule
    base_prints: dict[str, str]
    proof: dict[str, Any] | None
    spec: EncoderSpec
    dates: dict[str, tuple[int, int]]
    histogram: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    """Of tags: the share of training samples that bear each."""
    notes: list[str] = field(default_factory=list[str])


def choose_label(source: Source, run: TuneRun) -> LabelSpec:
    """The label that the task takes; several candidates must be told apart by `task.label`."""
    task, labels = run.task, source.labels
    if task.label:
        if task.label not in labels:
            raise UserError(f"the data have no label '{task.label}'", where=source.name,
                            remedy=f"they have: {', '.join(labels) or 'none'}")  # fmt: skip
        found = [labels[task.label]]
    else:
        found = [s for s in labels.values() if s.kind in task.takes]
    if len(found) != 1 or found[0].kind not in task.takes:
        kinds = ", ".join(f"{n} ({s.kind})" for n, s in labels.items()) or "none"
        raise UserError(
            f"the task '{task.kind}' takes one label of kind {' or '.join(task.takes)}; the data have: {kinds}",
            where=source.name,
            remedy="name it: task: {kind: " + task.kind + ", label: NAME}",
        )
    return found[0]


def choose_bands(sensors: Sequence[Sensor], run: TuneRun, spec: EncoderSpec) -> dict[str, tuple[str, ...]]:
    """Sensor id -> bands to read: as the run says, else what the encoder declares, else everything."""
    have = {s.id: s for s in sensors}
    if run.bands:
        for sensor in run.bands:
            if sensor not in have:
                raise UserError(
                    f"the data have no sensor '{sensor}'", where="bands", remedy=f"they have {', '.join(have)}"
                )
        return {k: tuple(have[k].band(b).name for b in v) if v else have[k].names for k, v in run.bands.items()}
    chosen: dict[str, tuple[str, ...]] = {}
    for want in spec.inputs:
        source = run.adaptation.substitute.get(want.sensor, want.sensor)
        if source in have:
            known = [b for b in want.bands if _has(have[source], b)]
            plain = source == want.sensor and len(known) == len(want.bands)
            chosen[source] = tuple(have[source].band(b).name for b in known) if plain else have[source].names
    only = run.adaptation.only
    return chosen or {k: s.names for k, s in have.items() if not only or k in only}


def _has(sensor: Sensor, band: str) -> bool:
    return any(band.lower() in (n.lower() for n in (b.name, *b.aliases)) for b in sensor.bands)


@dataclass
class Look:
    """What a pass over some training samples found."""

    first: Batch
    counts: torch.Tensor
    total: int = 0
    centre: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    statistics: dict[str, dict[str, tuple[float, float]]] = field(
        default_factory=dict[str, dict[str, tuple[float, float]]]
    )
    dates: dict[str, tuple[int, int]] = field(default_factory=dict[str, "tuple[int, int]"])
    some: list[Batch] = field(default_factory=list[Batch])
    sides: list[torch.Tensor] = field(default_factory=list[torch.Tensor])

    @property
    def small(self) -> float:
        """The side (the root of a box's area, in label pixels) that nine of ten objects exceed; 0 without objects."""
        every = torch.cat(self.sides) if self.sides else torch.zeros(0)
        return float(every.quantile(0.1)) if len(every) else 0.0


@contextmanager
def one_thread() -> Generator[None]:
    """Many small sums: threads would wait for each other more than they add, and on a busy machine for others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def look(
    source: Source, index: Sequence[int], label: LabelSpec, bands: Mapping[str, Sequence[str]], run: TuneRun
) -> Look:
    """Class counts, moments of values and of bands over (some of) the training split; labels and sizes are checked on
    the way (mixed sizes are fine when the run crops). What the input hides is not counted."""
    mixed, every = run.augment.crop > 0, bool(getattr(run.task, "every_date", False))
    counts = torch.zeros(max(1, len(label.classes)), dtype=torch.float64)
    sums: torch.Tensor | None = None
    moments: dict[str, torch.Tensor] = {}
    found = Look(source.sample(index[0], bands), counts)
    for i in spread(index, MOST_LOOKS):
        if found.total >= LOOKS and (bool((counts > 0).all()) or label.kind in ("map", "image", "scalar")):
            break
        found.total += 1
        batch = found.first if i == index[0] else source.sample(i, bands)
        if label.name not in batch.labels:
            raise UserError(
                f"the sample has no label '{label.name}'",
                where=f"{source.name}: {_name(batch)}",
                remedy="add it (a row of the table, a file of this name), or take the sample out of the split",
            )
        if not mixed and shapes(batch) != shapes(found.first):
            raise UserError(
                f"samples differ in size: {_sizes(batch)} here, {_sizes(found.first)} in {_name(found.first)}",
                where=f"{source.name}: {_name(batch)}",
                remedy="set augment.crop to cut training samples to one size, or resample the data",
            )
        if label.kind in ("class", "mask"):
            check_classes(batch.labels[label.name], label, batch)
        shown = judged(batch, label.name, every)
        sums = _label_sums(shown.labels[label.name], label, batch, counts, sums)
        found.sides += [
            (o.xyxy[:, 2:] - o.xyxy[:, :2]).prod(1).sqrt().float() for o in batch.labels[label.name].objects
        ]
        if len(found.some) < SOME:
            found.some.append(batch)
        for name, layer in batch.layers.items():
            low, high = found.dates.get(name, (layer.shape[1], layer.shape[1]))
            found.dates[name] = (min(low, layer.shape[1]), max(high, layer.shape[1]))
            row = _moments(layer)
            moments[name] = moments[name] + row if name in moments else row
    for name, (n, s, s2) in moments.items():
        mean = s / n.clamp_min(1)
        std = (s2 / n.clamp_min(1) - mean**2).clamp_min(1e-12).sqrt()
        names = found.first.layers[name].sensor.names if name in found.first.layers else tuple(bands.get(name, ()))
        found.statistics[name] = {b: (float(m), float(d)) for b, m, d in zip(names, mean, std, strict=True)}
    if sums is not None:
        n, s, s2 = sums
        if not bool((n > 0).all()):
            raise UserError(f"the label '{label.name}' has no valid value in the training split", where=source.name)
        mean = s / n
        found.centre = tuple(mean.tolist())
        found.scale = tuple((s2 / n - mean**2).clamp_min(1e-12).sqrt().tolist())
    return found


def _moments(layer: Layer) -> torch.Tensor:
    """How many pixels of a layer are valid, and the sums of their values and squares by band (3, C), in float64."""
    whole = bool(layer.valid.all())
    x = (layer.x if whole else torch.where(layer.valid, layer.x, 0.0)).double()
    n = layer.valid.sum().double().expand(x.shape[2])
    return torch.stack([n, x.sum((0, 1, 3, 4)), x.mul_(x).sum((0, 1, 3, 4))])


def _label_sums(label: Label, spec: LabelSpec, batch: Batch, counts: torch.Tensor, sums: Any) -> Any:
    if label.kind in ("class", "mask"):
        told = label.value.flatten() if bool(label.valid.all()) else label.value[label.valid]
        counts += torch.bincount(told, minlength=len(counts)).double()
    elif label.kind == "tags":
        counts += (label.value.double() * label.valid).sum(0)
    elif label.kind in ("map", "image", "scalar"):
        value = label.value.double()
        value = value[:, None] if value.ndim == 1 else value
        valid = label.valid.view(len(value), 1, *value.shape[2:]).expand_as(value)
        if bool((~torch.isfinite(value) & valid).any()):
            raise UserError(f"label '{spec.name}' holds values that are not finite", where=f"sample {_name(batch)}")
        dims = (0, *range(2, value.ndim))
        value = torch.where(valid, value, 0.0)
        row = torch.stack([valid.double().sum(dims), value.sum(dims), (value**2).sum(dims)])
        return row if sums is None else sums + row
    elif label.kind == "boxes":
        for o in label.objects:
            if len(o.classes) and (int(o.classes.min()) < 0 or int(o.classes.max()) >= len(counts)):
                raise UserError(f"an object of class {int(o.classes.max())}, outside {len(counts)} classes",
                                where=f"sample {_name(batch)}")  # fmt: skip
            _check_boxes(o.xyxy, label.value[0].tolist(), batch)
            counts += torch.bincount(o.classes, minlength=len(counts)).double()
    return sums


def _check_boxes(xyxy: torch.Tensor, size: Sequence[float], batch: Batch) -> None:
    """A box must have an area, some of it inside its image."""
    if not len(xyxy):
        return
    h, w = size
    low, high = xyxy[:, :2], xyxy[:, 2:]
    inside = ((high > low) & (high > 0) & (low < low.new_tensor([w, h]))).all(1)
    if not bool(inside.all()):
        box = ", ".join(f"{v:g}" for v in xyxy[~inside][0].tolist())
        raise UserError(
            f"the box ({box}) has no area inside its image of {h:.0f} x {w:.0f} pixels (x0, y0, x1, y1)",
            where=f"sample {_name(batch)}",
            remedy="take it out of the annotations; COCO's own boxes are x, y, width, height",
        )


def _sizes(batch: Batch) -> str:
    return ", ".join(f"{k} {' x '.join(map(str, v))}" for k, v in shapes(batch).items())


def _name(batch: Batch) -> str:
    return batch.where.names[0] if batch.where.names else str(int(batch.where.key[0]))


def balance(counts: torch.Tensor) -> tuple[float, ...]:
    """Weights by inverse root frequency with mean one; a class that never occurs weighs as the rarest one."""
    share = counts / counts.sum().clamp_min(1)
    known = share[share > 0]
    w = share.clamp_min(float(known.min()) if len(known) else 1.0) ** -0.5
    return tuple((w / w.mean()).tolist())


def label_ratio(batch: Batch, label: Label) -> float:
    """Label pixels per pixel of the finest layer."""
    fine = finest(batch)
    if label.kind == "boxes" and fine[1]:
        return float(label.value[0, 1]) / fine[1]
    return label.value.shape[-1] / fine[1] if label.value.ndim >= 3 and fine[1] else 1.0


def prepare(run: TuneRun, source: Source | None = None) -> Prepared:
    """Open the data, choose, look, build."""
    source = source if source is not None else run.data.build()
    splits = choose_splits(source, run.splits, run.loop.seed)
    label = choose_label(source, run)
    check_mixing(run.augment.mixing, run.task.kind, getattr(run.task, "losses", ()))
    torch.manual_seed(run.loop.seed)
    encoder = build_encoder(
        run.encoder, weights=run.weights or None, adaptation=run.adaptation, exceptions=run.exceptions
    )
    bands = choose_bands(source.sensors, run, encoder.spec)
    with ThreadPoolExecutor(1) as beside:  # hashing waits for nothing, and nothing else for it
        hashed = beside.submit(delta.fingerprints, encoder.state_dict())
        with one_thread():
            seen = look(source, splits.train, label, bands, run)
        prints = hashed.result()
    first = seen.first
    balanced = bool(getattr(run.task, "balanced", False))
    if label.classes and label.kind in ("class", "mask"):
        told = [c for c, n in zip(label.classes, seen.counts, strict=True) if n > 0]
        if not told:
            raise UserError(
                f"no labelled item of the training split can be seen: the label '{label.name}' is ignored, or the "
                "input has no data, everywhere",
                where=source.name,
                remedy="look at both with `swath check`: nodata and ignore values are the usual cause",
            )
        if len(told) < 2:
            raise UserError(
                f"the training split shows only the class {told}", where=source.name, remedy="check the split"
            )
    if label.kind == "boxes" and not float(seen.counts.sum()) and seen.total == len(splits.train):
        raise UserError(f"the training split holds no object of '{label.name}'", where=source.name,
                        remedy="check that the annotations name these images")  # fmt: skip
    steps = max((n[1] for n in seen.dates.values()), default=1)
    task = detailed(run.task, run.tuning, run.decoder)
    recipe = Recipe(
        encoder=run.encoder, task=task, tuning=run.tuning, label=label,
        decoder=decoder_of(task, run.tuning, run.decoder), adaptation=run.adaptation, fusion=run.fusion,
        dates=steps, size=finest(first), ratio=label_ratio(first, first.labels[label.name]),
        weights=balance(seen.counts) if balanced else (), centre=seen.centre, scale=seen.scale,
        statistics=seen.statistics, guide=_guide(label, first), small=seen.small,
        wide=True,
    )  # fmt: skip
    torch.manual_seed(run.loop.seed)
    module = assemble(recipe, encoder)
    for part in module.modules():
        if isinstance(part, Planes):
            part.whiten(seen.some)
    module.eval()
    share = (seen.counts / seen.counts.sum().clamp_min(1)).tolist() if label.classes else []
    tags = (seen.counts / max(seen.total, 1)).tolist() if label.kind == "tags" else ()
    proof = encoder.proof.plain() if encoder.proof is not None else None
    return Prepared(source, splits, label, bands, recipe, module, prints, proof, encoder.spec, seen.dates,
                    tuple(share), tuple(tags),
                    [*splits.notes, *getattr(source, "notes", ()), *_start(run, encoder)])  # fmt: skip


def _start(run: TuneRun, encoder: EncoderModule) -> list[str]:
    """A note where a network that others train is asked for without what they learnt."""
    if run.weights or not any(True for _ in encoder.parameters()):
        return []
    return [f"the encoder {encoder.spec.name} starts at random: the run names no weights"]


def detailed(task: TaskConfig, tuning: TuningConfig, decoder: Decoder | None) -> TaskConfig:
    """The task with its `detail` decided: pixels beside tokens, unless the run is a probe (which judges the encoder,
    and whose cached features have no pixels)."""
    if getattr(task, "detail", 0) is not None:
        return task
    probe = tuning.kind in ("frozen", "linear", "knn") or (decoder is not None and decoder.kind == "linear")
    chosen: Any = task
    return replace(chosen, detail=0 if probe else DETAIL)


def _guide(label: LabelSpec, batch: Batch) -> tuple[str, tuple[int, ...]] | None:
    """For images: the sensor whose bands the label's classes (its channel names) are, in their order."""
    if label.kind != "image":
        return None
    for name, layer in batch.layers.items():
        if label.classes and all(_has(layer.sensor, c) for c in label.classes):
            return name, tuple(layer.sensor.index(c) for c in label.classes)
        if not label.classes and batch.labels[label.name].value.shape[1] == layer.shape[2]:
            return name, tuple(range(layer.shape[2]))
    return None


def fingerprint_of(*parts: str) -> str:
    """One hash for what cached features depend on."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
