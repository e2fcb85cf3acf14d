"""PretrainRun: what a pretraining `run.yaml` says, and the straight line from it to weights.

load run -> open source -> build encoder -> objective(encoder) -> fit -> save weights + card

```yaml
name: hills
data: {kind: folder, path: rasters/}
encoder: {kind: swath-vit, size: tiny}
objective: {kind: mae, mask: {kind: random, ratio: 0.75}}
loop: {steps: 2000, batch_size: 32, lr: 0.0015}
```
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn

from swath.core import Batch, Source, UserError, collate
from swath.core.config import plain
from swath.core.contracts import Transform
from swath.core.records import write_whole
from swath.data.sources import SOURCES, SourceConfig
from swath.models import ENCODERS, EncoderConfig, build_encoder
from swath.models.inputs import Adaptation
from swath.objectives import OBJECTIVES, Kit, ObjectiveConfig
from swath.objectives._objective import ObjectiveModule
from swath.objectives.pretraining.example import Complete, example_of, having
from swath.objectives.pretraining.pictures import draw_all
from swath.objectives.pretraining.probe import Probe, dense, probe_samples, scores
from swath.objectives.pretraining.record import card_of, curves, diversity, lead
from swath.objectives.pretraining.snapshots import HELD, Keeper, Snapshots, held_out
from swath.train import Feed, FitReport, LoopConfig, Validation, fit
from swath.train.ranks import whole_state


@dataclass(frozen=True)
class Teacher:
    """A frozen encoder to learn from, with its weights."""

    encoder: Annotated[EncoderConfig, ENCODERS]
    weights: str
    adaptation: Adaptation = field(default_factory=Adaptation)


@dataclass(frozen=True)
class Stage:
    """One part of a progressive pretraining: what it says takes the place of the run's own."""

    name: str
    data: Annotated[SourceConfig | None, SOURCES] = None
    objective: Annotated[ObjectiveConfig | None, OBJECTIVES] = None
    loop: LoopConfig | None = None
    bands: dict[str, tuple[str, ...]] | None = None
    teacher: Teacher | None = None
    probe: Probe | None = None


@dataclass(frozen=True)
class PretrainRun:
    """One pretraining. `weights` to start from (continual pretraining) are a file or a record's name.

    `snapshots` keep the encoder along the way with its held-out loss, to choose from when runs are merged.

    What is learnt from is the source's `train` split, or all but its val and test splits where it has no train.
    `stages`: progressive pretraining, each stage from the weights of the one before. `pictures`: chips in the report.
    """

    name: str
    data: Annotated[SourceConfig, SOURCES]
    encoder: Annotated[EncoderConfig, ENCODERS]
    objective: Annotated[ObjectiveConfig, OBJECTIVES]
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=2000, lr=1.5e-4, betas=(0.9, 0.95), warmup=0.05))
    weights: str = ""
    exceptions: tuple[str, ...] = ()
    adaptation: Adaptation = field(default_factory=Adaptation)
    bands: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    teacher: Teacher | None = None
    probe: Probe | None = None
    snapshots: Snapshots | None = None
    stages: tuple[Stage, ...] = ()
    pictures: int = 4
    out: str = ""


@dataclass(frozen=True)
class Pretrained:
    """What came out: where the weights are, the objective's module, and the run's record."""

    weights: Path
    card: dict[str, Any]
    objective: ObjectiveModule
    report: FitReport


def pretrain(
    run: PretrainRun,
    *,
    source: Source | None = None,
    transform: Transform | None = None,
    resume: Any = "auto",
    command: Sequence[str] = (),
) -> Pretrained:
    """Learn from unlabelled samples. `source` replaces the run's own, for data that are already open."""
    out = Path(run.out or f"runs/{run.name}")
    if run.stages:
        return _in_stages(run, out, {"transform": transform, "resume": resume, "command": command}, source)
    source = having(source if source is not None else run.data.build(), run.bands)
    index = unlabelled(source)
    torch.manual_seed(run.loop.seed)
    encoder = build_encoder(
        run.encoder, weights=run.weights or None, adaptation=run.adaptation, exceptions=run.exceptions
    )
    teacher = None
    if run.teacher is not None:
        teacher = build_encoder(run.teacher.encoder, weights=run.teacher.weights, adaptation=run.teacher.adaptation)
    feed = Feed(source, index, run.bands or None, transform)
    complete = Complete(example_of(feed, index))
    chips = _shown(run, source, index)
    chips = None if chips is None else complete(chips)
    start: dict[str, Any] = {"maps": dense(encoder, chips) if chips is not None else None, "probe": {}}
    torch.manual_seed(run.loop.seed + 1)
    objective = run.objective.build(Kit(encoder, complete.example, teacher))
    objective.register_forward_pre_hook(complete.before)
    validate = None
    if run.probe is not None:
        labelled = probe_samples(source, index, run.bands, run.probe)
        start["probe"] = scores(encoder, labelled, run.probe)
        validate = _probing(run.probe, labelled)
    settings: dict[str, Any] = plain(run)
    if run.snapshots is not None:
        keeper = Keeper(objective, held_out(source, run.bands, run.snapshots), out / "snapshots", settings)
        if resume == "never" or not (out / "snapshots/curve.json").is_file():
            keeper.keep(0)
        validate = replace(validate or Validation(_nothing, None), after=keeper.keep)
    report = fit(objective, feed, run.loop, out=out, validate=validate, resume=resume, run=_identity(settings))
    card = save(objective, out, card_of(objective, settings, source, report, diversity(source, index)))
    if lead():
        drawn = draw_all(objective, start["maps"], chips, out / "pictures") if chips is not None else {}
        record = {"kind": "pretrain", "schema": 1, "name": run.name, "card": card, "curves": curves(out)}
        record |= {"probe": settings["probe"], "probe_start": start["probe"], "pictures": drawn}
        write_whole(out / "record.json", record | {"run": settings, "command": list(command)})
    return Pretrained(out / "encoder.safetensors", card, objective, report)


def _shown(run: PretrainRun, source: Source, index: Sequence[int]) -> Batch | None:
    """Chips to draw: of a held-out split where there is one, else the first that are learnt from."""
    if not run.pictures:
        return None
    splits = source.splits()
    held = next((splits[k] for k in HELD if k in splits and len(splits[k])), index)
    step = max(1, len(held) // run.pictures)
    return collate([source.sample(int(i), run.bands or None) for i in list(held)[::step][: run.pictures]])


def _in_stages(run: PretrainRun, out: Path, how: dict[str, Any], source: Source | None) -> Pretrained:
    """One stage after the other, each from the weights of the one before; the last one's are the run's."""
    names = [s.name for s in run.stages]
    if len(set(names)) < len(names):
        raise UserError(f"two stages have one name: {', '.join(names)}", where="stages")
    done, weights, cards = None, run.weights, list[dict[str, Any]]()
    for stage in run.stages:
        told = {k: v for k in ("data", "objective", "loop", "bands", "teacher", "probe")
                if (v := getattr(stage, k)) is not None}  # fmt: skip
        part = replace(
            run, stages=(), name=f"{run.name}/{stage.name}", out=str(out / stage.name), weights=weights, **told
        )
        given = source if stage.data is None else None
        done = pretrain(part, source=given, **how)
        weights = str(done.weights)
        cards.append(done.card)
    assert done is not None
    card = {**done.card, "name": run.name, "weights_from": run.weights or "random", "stages": cards}
    return replace(done, weights=out / "encoder.safetensors", card=save(done.objective, out, card))


def _identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the weights; the loop states its own part."""
    return {
        k: v
        for k, v in settings.items()
        if k not in ("name", "out", "loop", "probe", "snapshots", "stages", "pictures")
    }


def _nothing(module: nn.Module) -> dict[str, float]:
    return {}


def _probing(probe: Probe, batch: Any) -> Validation:
    def run(module: nn.Module) -> dict[str, float]:
        encoder: Any = module.get_submodule("encoder")
        return scores(encoder, batch, probe)

    return Validation(run, None)


def unlabelled(source: Source) -> list[int]:
    """What may be learnt from: the training split; never the validation and test samples."""
    splits = {k: [int(i) for i in v] for k, v in source.splits().items()}
    held = {i for k, v in splits.items() if k in ("val", "valid", "validation", "dev", "test") for i in v}
    index = splits.get("train") or [i for i in range(len(source)) if i not in held]
    if not index:
        raise UserError("there is nothing to learn from: every sample is held out", where=source.name)
    return index


def save(objective: ObjectiveModule, out: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Write `encoder.safetensors` and `card.json`, each in one move; every rank calls this, rank 0 writes."""
    from safetensors.torch import save_file

    from swath.models.loading import file_sha256

    state = whole_state(objective.encoder)
    if not lead():
        return card
    path, part = out / "encoder.safetensors", out / ".encoder.safetensors.part"
    save_file({k: v.clone() for k, v in state.items()}, part)
    os.replace(part, path)
    card = {**card, "sha256": file_sha256(path)}
    write_whole(out / "card.json", card)
    return card
