"""tune: from a run and its data to a trusted bundle and a record that the report is made from.

prepare -> fit (early stopping on the task's own score) -> calibrate on validation -> test with intervals and the
        coverage reached -> bundle, record.json, results.jsonl
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

import swath
from swath.adapt import delta, opening
from swath.adapt.build import trunk_of
from swath.adapt.bundle import BandCard, Bundle, Calibration, Card, InputCard, Root, Tiling
from swath.adapt.cache import FeatureStore, Labelled, fill
from swath.adapt.doubt import fit_laplace
from swath.adapt.evaluate import Evidence, baseline, batches, evaluate, read_items
from swath.adapt.heads import Classes, Tags, Values
from swath.adapt.mix import Partners
from swath.adapt.neighbours import Neighbours, votes_of
from swath.adapt.pictures import draw_chips
from swath.adapt.prepare import Prepared, fingerprint_of, prepare
from swath.adapt.run import TuneRun
from swath.adapt.uncertainty import calibration, conformal
from swath.adapt.uncertainty.strange import Mahalanobis
from swath.core import records
from swath.core.config import digest, plain
from swath.core.contracts import Source
from swath.core.errors import UserError
from swath.core.heap import keep_freed
from swath.core.records import Protocol, Result
from swath.train import Feed, FitReport, Resume, Validation, fit
from swath.train.ranks import join

AT_ONCE = 16
FEW = 5
"""With fewer test samples a run says that its scores say little."""


@dataclass(frozen=True)
class TuneResult:
    """Where everything lies, and the scores that matter; `lead` is false on all ranks but the one that wrote it."""

    out: Path
    bundle: Path
    packed: Path
    scores: dict[str, float]
    baseline: dict[str, float]
    primary: str
    record: dict[str, Any]
    lead: bool = True


def tune(
    run: TuneRun, source: Source | None = None, command: Sequence[str] = (), *, resume: Resume = "auto"
) -> TuneResult:
    """Fit, judge, pack. `source` replaces the run's own data (tests, notebooks); `resume` "never" begins anew."""
    out = Path(run.out or f"runs/{run.name}")
    began = time.monotonic()
    if run.loop.parallel == "fsdp" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a tuned model is judged and packed whole, and fsdp keeps it in shards", where="loop.parallel",
                        remedy="set it to ddp; fsdp is for `swath pretrain`")  # fmt: skip
    keep_freed()
    _writable(out)
    if source is None:
        opening.begin(plain(run))
    try:
        ready = prepare(run, source)
        learned = _fit(run, ready, out, resume)
    finally:
        opening.end()
    trusted, extra, reliability = _trust(run, ready)
    evidence = evaluate(ready.task, batches(ready.source, ready.splits.test, ready.bands, AT_ONCE), trust=True)
    _say(ready, evidence)
    trusted = _reached(ready, trusted, evidence)
    scores = evidence.scores.compute()
    bundle = _bundle(run, ready, trusted, scores, extra)
    folder, packed = out / "bundle", out / f"{run.name}.swath"
    ranks, small = join(run.loop), bool(run.weights) and run.tuning.kind != "full"
    record = _record(run, ready, evidence, bundle, learned)
    record |= {"reliability": reliability, "command": list(command), "chips": list[Any]()}
    record["seconds"] = time.monotonic() - began
    if ranks.lead:  # every rank judged the same weights on the same samples
        bundle.save(folder, ready.base_prints if small and not (ready.proof or {}).get("excepted") else None)
        bundle.pack(packed, folder)
        if run.trust.chips:
            record["chips"] = draw_chips(ready, evidence.scores, out / "chips", run.trust.chips)
        records.write_whole(out / "record.json", record)
        records.append(out / "results.jsonl", _result(run, ready, record))
    ranks.same(0.0)  # the others go on when everything is written
    return TuneResult(out, folder, packed, scores, record["baseline"], evidence.scores.primary, record, ranks.lead)


def _writable(out: Path) -> None:
    """Said before anything is learnt, not after."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as why:
        raise UserError(f"nothing can be written here: {why.strerror}", where=str(out),
                        remedy="choose another folder with --out")  from why  # fmt: skip


# --- learning


def _fit(run: TuneRun, ready: Prepared, out: Path, resume: Resume = "auto") -> FitReport | None:
    """Train; a frozen encoder without augmentation is asked once for each sample, then only the head learns."""
    task, source = ready.task, ready.source
    head = getattr(task, "head", None)
    if isinstance(head, Neighbours):
        _remember(ready, head)
        return None
    partners = Partners(source, ready.splits.train, ready.bands, ready.label)
    transform = run.augment.transform(run.loop.seed, partners)
    cached = run.cache and task.frozen and transform is None and not task.needs_pixels
    if cached:
        index = [*ready.splits.train, *ready.splits.val]
        source = _cache(run, ready, out, index)
    feed = Feed(source, ready.splits.train, ready.bands, transform)
    config = run.loop
    if config.batch_size > len(feed):
        ready.notes.append(f"batch_size {config.batch_size} > {len(feed)} training samples: one batch an epoch")
    watch = evaluate(task, iter(())).scores

    def judge(module: nn.Module) -> Mapping[str, float]:
        del module
        return evaluate(task, batches(source, ready.splits.val, ready.bands, AT_ONCE)).scores.compute()

    validation = Validation(judge, watch.primary, watch.direction)
    report = fit(task, feed, config, out=out / "train", validate=validation, resume=resume, run=_identity(run))
    task.store = None
    return report


def _identity(run: TuneRun) -> dict[str, Any]:
    """The run without what does not decide its weights."""
    return {k: v for k, v in plain(run).items() if k not in ("out", "loop", "trust", "name", "features")}


def _cache(run: TuneRun, ready: Prepared, out: Path, index: Sequence[int]) -> Source:
    key = fingerprint_of(
        delta.hash_of(delta.fingerprints(ready.task.encoder)), ready.source.fingerprint,
        json.dumps([ready.bands, plain(run.adaptation), ready.recipe.statistics, list(index), ready.recipe.fusion]),
        json.dumps(plain(run.encoder)),  # the same tensors may be asked in several ways
    )  # fmt: skip
    if run.loop.device != "cpu" and torch.cuda.is_available():
        ready.task.cuda()
    folder = Path(run.features or out / "features") / key[:24]
    samples = fill(folder, ready.task, ready.source, index, bands=ready.bands)
    ready.task.store = FeatureStore(folder)
    return Labelled(ready.source, samples)


@torch.no_grad()
def _remember(ready: Prepared, head: Neighbours) -> None:
    task = ready.task.eval()
    rows: list[tuple[Tensor, Tensor]] = []
    for batch in batches(ready.source, ready.splits.train, ready.bands, AT_ONCE):
        votes, keep = votes_of(task, batch)
        rows.append((task.features(batch).pooled[keep].float(), votes[keep]))
    head.remember(torch.cat([f for f, _ in rows]), torch.cat([v for _, v in rows]))


# --- trust


def _trust(run: TuneRun, ready: Prepared) -> tuple[Calibration, dict[str, Tensor], dict[str, Any]]:
    """Temperature and conformal threshold from validation outputs, and a model of the training features."""
    task, extra, curves = ready.task, dict[str, Tensor](), dict[str, Any]()
    if run.trust.ood:
        index = ready.splits.train[:256]
        seen = evaluate(task, batches(ready.source, index, ready.bands, AT_ONCE), trust=True)
        if seen.features:
            extra |= Mahalanobis.fit(torch.cat(seen.features)).tensors()
    if run.trust.laplace:
        train = batches(ready.source, ready.splits.train[:256], ready.bands, AT_ONCE)
        extra |= fit_laplace(task, train).tensors()
    if not run.trust.calibrate:
        return Calibration(), extra, curves
    held = evaluate(task, batches(ready.source, ready.splits.val, ready.bands, AT_ONCE), trust=True)
    if not held.out:
        return Calibration(), extra, curves
    out, target = held.tensors()
    if not len(target):
        return Calibration(), extra, curves
    if isinstance(task, Classes | Tags):
        tags = isinstance(task, Tags)
        t = calibration.fit_temperature(out, target, tags)
        before = calibration.reliability(calibration.probabilities(out, 1.0, tags), target)
        p = calibration.probabilities(out, t, tags)
        after = calibration.reliability(p, target)
        cast("Tensor", task.temperature).fill_(t)
        curves = {"before": plain(before), "after": plain(after), "split": "val"}
        q = None if tags else conformal.class_threshold(p, target, run.trust.alpha)
        return Calibration(t, before.ece, after.ece, None if tags else run.trust.alpha, q), extra, curves
    if isinstance(task, Values):
        read = read_items(task, out)
        scores = conformal.value_scores(target, read["values"], read.get("std"), read.get("low"), read.get("high"))
        q = conformal.threshold(scores, run.trust.alpha)
        known = q if q != float("inf") else None
        return Calibration(alpha=run.trust.alpha, conformal=known), extra, curves
    return Calibration(), extra, curves


def _say(ready: Prepared, evidence: Evidence) -> None:
    """Notes where the input does not show what the label describes, or the splits do not hold the same classes."""
    if not evidence.labelled:
        ready.notes.append("the test split holds no label that counts: nothing is scored")
    if (n := len(ready.splits.test)) < FEW:
        ready.notes.append(f"the test split holds {n} sample{'s' if n > 1 else ''}: scores of so few say little")
    confusion: Any = getattr(evidence.scores, "confusion", None)
    if confusion is not None and len(confusion) == len(ready.histogram):
        rows = zip(ready.label.classes, confusion.sum(1), ready.histogram, strict=True)
        new = [name for name, here, learnt in rows if here and not learnt]
        if new:
            ready.notes.append(f"the test split holds {', '.join(new)}, which no training sample looked at shows")
    hidden = evidence.labelled - evidence.judged
    if hidden:
        which = "one of the dates does not show" if ready.task.every_date else "no date shows"
        share = f"{100 * hidden / evidence.labelled:.1f} %"
        ready.notes.append(f"{share} of the test split's labelled pixels are not scored: {which} them")


def _reached(ready: Prepared, trusted: Calibration, evidence: Evidence) -> Calibration:
    """The coverage that the conformal threshold reaches on the test split, and the test ECE."""
    task = ready.task
    if not evidence.out:
        return trusted
    out, target = evidence.tensors()
    if not len(target):
        return trusted
    if isinstance(task, Classes | Tags):
        tags = isinstance(task, Tags)
        p = calibration.probabilities(out, trusted.temperature, tags)
        before = calibration.reliability(calibration.probabilities(out, 1.0, tags), target).ece
        trusted = replace(trusted, ece_before=before, ece=calibration.reliability(p, target).ece)
        if trusted.conformal is not None:
            hit, size = conformal.class_coverage(p, target, trusted.conformal)
            trusted = replace(trusted, coverage=hit, set_size=size)
    elif isinstance(task, Values) and trusted.conformal is not None:
        read = read_items(task, out)
        low, high = conformal.interval(
            read["values"], trusted.conformal, read.get("std"), read.get("low"), read.get("high")
        )
        hit = ((target >= low) & (target <= high)).double().mean()
        trusted = replace(trusted, coverage=float(hit), set_size=float((high - low).mean()))
    return trusted


# --- what is written


def _bundle(
    run: TuneRun, ready: Prepared, trusted: Calibration, scores: Mapping[str, float], extra: Mapping[str, Tensor]
) -> Bundle:
    sensors = {s.id: s for s in ready.source.sensors}
    inputs = tuple(
        InputCard(
            k,
            sensors[k].kind,
            tuple(
                BandCard(b.name, b.unit, b.nm, b.gsd, *ready.recipe.statistics.get(k, {}).get(b.name, (b.mean, b.std)))
                for b in sensors[k].select(v).bands
            ),
            ready.dates.get(k, (1, 1)),
        )
        for k, v in ready.bands.items()
    )
    spec = ready.spec
    multiple = max(1, spec.patch, round(max(spec.strides, default=1)))
    tile = max(multiple, min(ready.recipe.size) // multiple * multiple)
    card = Card(
        name=run.name, task=run.task.kind, label=ready.label, inputs=inputs, tuning=run.tuning.kind,
        encoder=spec.name,
        base=Root(delta.hash_of(ready.base_prints), run.weights, spec.licence),
        tiling=Tiling(tile, multiple, min(tile // 8, 4 * multiple) // multiple * multiple),
        calibration=trusted,
        metrics={k: (v if v == v else None) for k, v in scores.items()},
        cost=_cost(ready),
        provenance={
            "swath": swath.__version__, "run": digest(run), "data": ready.source.fingerprint,
            "data_name": ready.source.name, "data_licence": ready.source.licence, "seed": run.loop.seed,
            "test_samples": len(ready.splits.test), "weights_proof": (ready.proof or {}).get("sha256", ""),
        },
        licence=spec.licence,
    )  # fmt: skip
    return Bundle(card, ready.recipe, ready.task.cpu(), extra)


def _cost(ready: Prepared) -> dict[str, float]:
    """What the tuning of the trunk costs, and the parameters of all that is new."""
    trunk = delta.weigh(trunk_of(ready.task))
    whole = delta.weigh(ready.task)
    return {k: float(v) for k, v in trunk.items()} | {"head": float(whole["trainable"] - trunk["trainable"])}


def _record(
    run: TuneRun, ready: Prepared, evidence: Evidence, bundle: Bundle, learned: FitReport | None
) -> dict[str, Any]:
    """Everything the report shows."""
    scores: Any = evidence.scores
    confusion = scores.confusion.tolist() if hasattr(scores, "confusion") else None
    several = len(ready.splits.test) > 1  # of one sample there is nothing to draw again
    spans = scores.intervals(run.loop.seed, run.trust.bootstrap) if several and hasattr(scores, "intervals") else {}
    fitted: dict[str, Any] = {}
    if learned is not None:
        fitted = {
            "steps": learned.steps, "stopped": learned.stopped, "best": learned.best, "best_step": learned.best_step,
            "history": list(learned.history), "seconds": learned.seconds, "skipped": learned.skipped,
            "energy": learned.energy.record(),
        }  # fmt: skip
    return {
        "schema": 1, "kind": "tune", "name": run.name, "run": plain(run), "card": plain(bundle.card),
        "primary": scores.primary, "direction": scores.direction,
        "scores": bundle.card.metrics, "intervals": spans, "confusion": confusion,
        "baseline": evidence.guide.compute() if evidence.guide is not None
        else baseline(ready.task, scores, ready.histogram, ready.shares), "histogram": list(ready.histogram),
        "splits": {k: len(getattr(ready.splits, k)) for k in ("train", "val", "test")},
        "notes": ready.notes, "fit": fitted, "curves": _curves(run, ready),
        "constraints": evidence.broken_rules(), "proof": ready.proof,
        "hardware": f"{platform.machine()} {os.cpu_count()} cpus"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
    }  # fmt: skip


def _curves(run: TuneRun, ready: Prepared) -> list[dict[str, Any]]:
    """The loop's metrics file, as it was logged."""
    del ready
    path = Path(run.out or f"runs/{run.name}") / "train" / "metrics.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _result(run: TuneRun, ready: Prepared, record: Mapping[str, Any]) -> Result:
    """One line for the bench."""
    rules = Protocol(
        "tune", {"task": plain(ready.recipe.task), "loop": run.loop.identity(), "decoder": plain(ready.recipe.decoder)}
    )
    low, high = record["intervals"].get(record["primary"], (None, None))
    value = record["scores"].get(record["primary"])
    energy = record["fit"].get("energy", {})
    return Result(
        protocol=rules.digest, dataset=ready.source.name, encoder=ready.spec.name, tuning=run.tuning.kind,
        seed=run.loop.seed, metric=record["primary"], value=float("nan") if value is None else value, origin="rerun",
        direction=record["direction"], decoder=ready.recipe.decoder.kind if ready.recipe.decoder else "",
        hashes={"data": ready.source.fingerprint, "base": delta.hash_of(ready.base_prints), "run": digest(run)},
        licences={"weights": ready.spec.licence, "data": ready.source.licence}, low=low, high=high,
        seconds=record["fit"].get("seconds"), kwh=energy.get("kwh"), kgco2e=energy.get("kgco2e"),
        hardware=record["hardware"], code=swath.__version__,
    )  # fmt: skip
