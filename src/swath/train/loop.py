"""fit: the one loop, for an objective and for a task alike.

Every random draw has an address (seed, step), so a run killed anywhere and resumed is bitwise the same run on a CPU.
A step's gradient is sum_i w_i grad(loss_i) / sum_i w_i over its micro-batches on all ranks, where w is the true
count (Step.weight): masked tokens, valid pixels or samples, never a mean of means.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from swath.core.batch import Batch, collate
from swath.core.config import plain
from swath.core.contracts import Step
from swath.core.errors import UserError
from swath.core.heap import keep_freed
from swath.core.rng import at, generator, seed_of
from swath.train import checkpoint, optim
from swath.train.cached import batch_statistics, in_parts
from swath.train.compute import Compute
from swath.train.config import LoopConfig, Validation
from swath.train.energy import Energy, Meter
from swath.train.feed import Feed
from swath.train.finite import explain
from swath.train.progress import Progress
from swath.train.ranks import Ranks, grad_norm, hold, join, wrap

Resume = Literal["auto", "never", "must"]


@dataclass
class Journey:
    """Where a run stands; travels as JSON with its checkpoints."""

    step: int = 0
    history: list[float] = field(default_factory=list[float])
    best: float | None = None
    best_step: int = 0
    skipped: int = 0
    seconds: float = 0.0
    energy: dict[str, Any] = field(default_factory=dict[str, Any])
    losses: list[float] = field(default_factory=list[float])
    compute: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class FitReport:
    """What a run came to. The module holds the best weights where a validation chose them, else EMA or last ones."""

    steps: int
    total: int
    stopped: Literal["done", "early"]
    resumed_from: int
    loss: float
    best: float | None
    best_step: int
    history: tuple[float, ...]
    skipped: int
    seconds: float
    energy: Energy
    fingerprints: Mapping[str, Any]
    compute: Mapping[str, Any]


def fit(
    module: nn.Module,
    feed: Feed,
    config: LoopConfig,
    *,
    out: Path,
    validate: Validation | None = None,
    resume: Resume = "auto",
    run: Any = None,
) -> FitReport:
    """Train `module(batch, generator) -> Step` on a feed; checkpoints and metrics go to `out`.

    `module.after_step(step, total)` runs after each optimiser step where it exists. `run` is the resolved
    run config: it joins the fingerprint, so that a resume under other settings is refused.
    """
    keep_freed()
    return _Fit(module, feed, config, Path(out), validate).go(resume, run)


class _Fit:
    def __init__(
        self, module: nn.Module, feed: Feed, config: LoopConfig, out: Path, validate: Validation | None
    ) -> None:
        self.config, self.feed, self.out, self.validate = config, feed, out, validate
        self.ranks: Ranks = join(config)
        self.cached = self._cached(module)
        self.module = module.to(self.ranks.device)
        self.wrapped = wrap(module, config, self.ranks)
        self.optimizer = optim.build(module, config)
        self.params = [p for g in self.optimizer.param_groups for p in g["params"]]
        checkpoint.optimizer_state(self.optimizer)
        self.per_epoch = feed.steps_per_epoch(config, self.ranks.world)
        self.total = config.total(self.per_epoch)
        self.journey = Journey()
        self.ema: checkpoint.State = {}
        if config.ema is not None:
            self.ema = {k: v.detach().clone() for k, v in module.named_parameters() if v.requires_grad}

    @cached_property
    def best(self) -> checkpoint.State:
        """Room for the best weights so far; nobody asks before a validation or a checkpoint."""
        if self.validate is None or self.validate.metric is None:
            return {}
        return {k: v.detach().clone() for k, v in checkpoint.split_constant(self.module)[0].items()}

    def _cached(self, module: nn.Module) -> bool:
        """Whether a step's parts are joined before the loss, whose gradient then reaches each part's encoding."""
        coupled = getattr(module, "batch_coupled", False)
        if not coupled or self.config.accumulate == 1 or self.config.microbatch_negatives:
            return False
        encoder = getattr(module, "encoder", None)
        mixing = batch_statistics(encoder) if isinstance(encoder, nn.Module) else "missing encoder"
        if mixing is not None:
            raise UserError(
                "samples of a batch meet in this loss; cutting a batch into parts would change it, as its gradient "
                f"cannot be cached (the encoder's {mixing})",
                where="loop.accumulate",
                remedy="set accumulate to 1, or microbatch_negatives to true to accept fewer partners a step",
            )
        return True

    @property
    def sign(self) -> int:
        return -1 if self.validate is not None and self.validate.direction == "min" else 1

    def go(self, resume: str, run: Any) -> FitReport:
        config, folder = self.config, self.out / "checkpoints"
        self.out.mkdir(parents=True, exist_ok=True)
        prints = checkpoint.fingerprints({"loop": config.identity(), "run": run}, self.feed.fingerprint)
        fixed = checkpoint.split_constant(self.module)[1]
        prints["frozen"] = checkpoint.digest_of(fixed) if fixed else None
        first = self._resume(folder, resume, prints)
        self.meter = Meter(config.energy, Energy.of(self.journey.energy or None), self.ranks.device)
        self.compute = Compute(self.module, config, self.journey.compute)
        self.progress = Progress(self.out, config, self.total, first) if self.ranks.lead else None
        self.clock = time.monotonic() - self.journey.seconds
        stopped: Literal["done", "early"] = "done"
        try:
            stopped = self._train(first, folder, prints)
        finally:
            at()
            self.meter.stop()
            if self.progress is not None:
                self.progress.close()
        self._settle()
        j = self.journey
        loss = sum(j.losses[-10:]) / max(1, len(j.losses[-10:])) if j.losses else math.nan
        return FitReport(j.step, self.total, stopped, first, loss, j.best, j.best_step, tuple(j.history), j.skipped,
                         j.seconds, Energy.of(j.energy or None), prints,
                         self.compute.record(self.ranks.device, self.ranks.world))  # fmt: skip

    def _resume(self, folder: Path, resume: str, prints: Mapping[str, Any]) -> int:
        if resume == "never":
            if self.ranks.lead:
                shutil.rmtree(folder, ignore_errors=True)
            return 0
        last = checkpoint.latest(folder)
        if last is None:
            if resume == "must":
                raise UserError("there is no checkpoint to resume", where=str(folder))
            return 0
        record = checkpoint.record_of(last)
        checkpoint.compare(record["fingerprints"], prints, self.config.allow, str(last))
        self.journey = Journey(**record["journey"])
        if self.journey.best is not None and not self.best:
            raise UserError(
                f"a validation chose the weights of step {self.journey.best_step}; this run has none",
                where=str(last),
                remedy="resume with the validation that the run began with, or start in another folder",
            )
        checkpoint.restore(last, self._state())
        if self._newest_is_best:
            live = self._swap_in_ema()
            self._keep_as_best()
            self._put_back(live)
        return self.journey.step

    @property
    def _newest_is_best(self) -> bool:
        return self.journey.best is not None and self.journey.best_step == self.journey.step

    def _keep_as_best(self) -> None:
        for name, tensor in checkpoint.split_constant(self.module)[0].items():
            self.best[name].copy_(tensor.detach())

    def _state(self) -> checkpoint.State:
        """All that goes on; the best weights only where they are not the newest."""
        parts = {
            "model": checkpoint.split_constant(self.module)[0],
            "optim": checkpoint.optimizer_state(self.optimizer),
            "ema": self.ema,
            "best": {} if self._newest_is_best else self.best,
        }
        return {f"{part}.{k}": v for part, tensors in parts.items() for k, v in tensors.items()}

    def _train(self, first: int, folder: Path, prints: Mapping[str, Any]) -> Literal["done", "early"]:
        config, ranks, j = self.config, self.ranks, self.journey
        every = config.validate_every or self.per_epoch
        save_every, saved_at, saved = config.save_every or self.per_epoch, time.monotonic(), first
        going = optim.worth_going_on(j.history, config.patience, self.sign)
        parts = self.feed.batches(config, (first, self.total if going else first), ranks.rank, ranks.world)
        for step in range(first, self.total if going else first):
            self.module.train()
            self._step(step, parts)
            j.step = step + 1
            if self.validate is not None and (j.step % every == 0 or j.step == self.total):
                self._judge(self.validate)
                going = optim.worth_going_on(j.history, config.patience, self.sign)
            due = j.step % save_every == 0 and (config.save_every or time.monotonic() - saved_at > 30)
            if ranks.same(float(bool(due))) or j.step == self.total or not going:
                self._save(folder, prints)
                saved_at, saved = time.monotonic(), j.step
            if not going:
                break
        if saved != j.step:
            self._save(folder, prints)
        return "done" if going else "early"

    def _step(self, step: int, parts: Any) -> None:
        config, ranks, j = self.config, self.ranks, self.journey
        began, waited = time.monotonic(), 0.0
        lr = config.lr * optim.lr_factor(config, step, self.total, j.history, self.sign)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        done: list[tuple[Batch, Step]] = []
        epoch = step // self.per_epoch
        passes = 1 if self.cached else config.accumulate
        lone = ranks.world == 1 and passes == 1
        for micro in range(passes):
            clock = time.monotonic()
            batch = self._next(parts, (step, epoch))
            waited += time.monotonic() - clock
            batch = batch.to(ranks.device)
            with self.compute.batch(batch):
                out = self._forward(step, epoch, micro, batch)
                (out.loss if lone else out.loss * out.weight).backward()
            done.append((batch, Step(out.loss.detach(), {k: v.detach() for k, v in out.terms.items()}, out.weight)))
        names = sorted({k for _, s in done for k in s.terms})
        sums = [sum(s.weight for _, s in done), sum(float(s.loss) * s.weight for _, s in done)]
        sums += [sum(float(s.terms.get(k, torch.zeros(()))) * s.weight for _, s in done) for k in names]
        sums += [float(sum(len(b) for b, _ in done))]
        if ranks.world > 1:
            sums = ranks.total(sums)
        weight, loss = sums[0], sums[1] / sums[0] if sums[0] else 0.0
        self._scale(1.0 if lone else ranks.world / weight if weight else 0.0)
        norm = float(grad_norm(self.params))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._not_finite(step, done, loss, norm)
        else:
            if config.clip is not None and norm > config.clip:
                self._scale(config.clip / norm)
            self.optimizer.step()
            self._after(step)
        self.optimizer.zero_grad()
        j.losses = [*j.losses, loss][-100:]
        j.seconds = time.monotonic() - self.clock
        self.compute.step(time.monotonic() - began, waited)
        if self.progress is not None and ((step + 1) % config.log_every == 0 or step + 1 == self.total):
            took = time.monotonic() - began
            row = {"epoch": epoch, "loss": loss, "lr": lr, "grad_norm": norm, "seconds": round(j.seconds, 3)}
            row |= {k: v / weight for k, v in zip(names, sums[2:], strict=False)} if weight else {}
            self.progress.step(step + 1, row | {"samples_per_s": sums[-1] / took, "data_wait": waited / took})

    def _next(self, parts: Any, at: tuple[int, int]) -> Batch:
        """What the next pass learns from: one part, or all parts of the step."""
        found: list[Batch] = []
        for _ in range(self.config.accumulate if self.cached else 1):
            part, batch = next(parts)
            assert (part.step, part.epoch) == at
            found.append(batch)
        return collate(found) if self.cached else found[0]

    def _forward(self, step: int, epoch: int, micro: int, batch: Batch) -> Step:
        config, ranks = self.config, self.ranks
        # Dropout and the like draw from the global generator: it gets an address too.
        torch.manual_seed(seed_of(config.seed, step, micro * ranks.world + ranks.rank, "global"))
        at(config.seed, step, "coins")  # draws of a sample are its own, whoever has it
        half = config.precision == "bf16"
        encoder = self.module.get_submodule("encoder") if self.cached else None
        with (
            hold(self.wrapped, self.cached or micro == config.accumulate - 1),
            in_parts(encoder, config.accumulate) if encoder is not None else nullcontext(),
            torch.autocast(ranks.device.type, torch.bfloat16, enabled=half),
        ):
            return self.wrapped(batch, generator(config.seed, epoch, "step", step))

    @torch.no_grad()
    def _scale(self, factor: float) -> None:
        for p in self.params:
            if factor != 1.0 and p.grad is not None:
                p.grad.mul_(factor)

    @torch.no_grad()
    def _after(self, step: int) -> None:
        after = getattr(self.module, "after_step", None)
        if after is not None:
            after(step, self.total)
        if self.ema:
            decay, live = float(self.config.ema or 0.0), dict(self.module.named_parameters())
            for name, mean in self.ema.items():
                mean.lerp_(live[name].detach(), 1 - decay)

    def _not_finite(self, step: int, done: list[tuple[Batch, Step]], loss: float, norm: float) -> None:
        what = explain(self.module, done, self.config, (step, step // self.per_epoch))
        head = f"step {step}: loss {loss:g}, gradient norm {norm:g}"
        if self.config.nonfinite == "stop":
            raise UserError(
                f"{head} is not finite",
                where="\n    ".join(what),
                remedy="look at these samples; lower lr or set clip; or set loop.nonfinite to skip (skips are counted)",
            )
        self.journey.skipped += 1
        if self.progress is not None:
            self.progress.note(step + 1, {"skipped": self.journey.skipped, "why": head, "samples": " | ".join(what)})

    @torch.no_grad()
    def _judge(self, validate: Validation) -> None:
        j, module = self.journey, self.module
        live = self._swap_in_ema()
        module.eval()
        scores = {k: float(v) for k, v in validate.run(module).items()}
        if validate.after is not None:
            validate.after(j.step)
        module.train()
        if validate.metric is not None:
            if validate.metric not in scores:
                raise UserError(f"the validation gave {sorted(scores)}, not the watched '{validate.metric}'")
            value = self.ranks.same(scores[validate.metric])
            j.history.append(value)
            if not math.isnan(value) and validate.better(value, j.best):
                j.best, j.best_step = value, j.step
                self._keep_as_best()
        self._put_back(live)
        if self.progress is not None:
            self.progress.note(j.step, {**scores, "best": j.best})

    def _swap_in_ema(self) -> dict[str, Tensor]:
        live: dict[str, Tensor] = {}
        params = dict(self.module.named_parameters())
        for name, mean in self.ema.items():
            live[name] = params[name].detach().clone()
            params[name].data.copy_(mean)
        return live

    def _put_back(self, live: Mapping[str, Tensor]) -> None:
        params = dict(self.module.named_parameters())
        for name, value in live.items():
            params[name].data.copy_(value)

    @torch.no_grad()
    def _settle(self) -> None:
        """Leave the weights worth keeping in the module."""
        if self.journey.best is not None and self.best:
            state = self.module.state_dict()
            for name, value in self.best.items():
                state[name].copy_(value)
        elif self.ema:
            self._swap_in_ema()
        self.module.eval()

    def _save(self, folder: Path, prints: Mapping[str, Any]) -> None:
        j = self.journey
        j.energy, j.compute = self.meter.total().record(), self.compute.sums
        record = {"journey": vars(j), "fingerprints": prints, "config": plain(self.config)}
        checkpoint.publish(folder, j.step, self._state(), record, self.config.keep)
