"""Progress: JSON lines always, a live line on standard error for people, other loggers when asked for."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from swath.core.errors import UserError
from swath.train.config import LoopConfig


class Progress:
    """The record of a run. A resumed run first drops the lines written after its checkpoint."""

    def __init__(self, out: Path, config: LoopConfig, total: int, first: int) -> None:
        self.path, self.total, self.config = out / "metrics.jsonl", total, config
        _cut(self.path, first)
        self.began = time.monotonic()
        self.first, self.last, self.bar, self.task = first, first, None, None
        self.writers = [_writer(name, out) for name in config.loggers]
        if config.progress and sys.stderr.isatty():
            self._open_bar(first)

    def _open_bar(self, first: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        text = TextColumn("{task.description}")
        self.bar = Bar(
            text, BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(file=sys.stderr)
        )
        self.task = self.bar.add_task("start", total=self.total, completed=first)
        self.bar.start()

    def step(self, step: int, values: dict[str, Any]) -> None:
        """What a step measured."""
        row = {"step": step, **values, "memory_gb": round(psutil.Process().memory_info().rss / 2**30, 3)}
        self._write(row)
        text = (
            f"loss {values['loss']:.4f}  {values['samples_per_s']:.1f}/s  wait {values['data_wait']:.0%}"
            f"  {row['memory_gb']:.1f} GB"
        )
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=step, description=text)
        elif self.config.progress:
            left = (time.monotonic() - self.began) / max(1, step - self.first) * (self.total - step)
            sys.stderr.write(f"step {step}/{self.total}  {text}  {left:.0f} s left\n")

    def note(self, step: int, values: dict[str, Any]) -> None:
        """Something that is not a step: scores of a validation, a skipped batch. Classes' own scores go to the file."""
        self._write({"step": step, **values})
        if self.config.progress:
            shown = {k: v for k, v in values.items() if "/" not in k}  # not those of each class
            text = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())
            if self.bar is not None:
                self.bar.console.print(f"step {step}  {text}")
            else:
                sys.stderr.write(f"step {step}  {text}\n")

    def _write(self, row: dict[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        for writer in self.writers:
            writer({k: v for k, v in row.items() if isinstance(v, int | float)})

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


def _cut(path: Path, first: int) -> None:
    if not path.exists():
        return
    keep: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= first:
                keep.append(line)
        except (ValueError, KeyError):
            continue
    tmp = path.with_suffix(".tmp")
    tmp.write_text("".join(f"{line}\n" for line in keep if first), encoding="utf-8")
    os.replace(tmp, path)


def _writer(name: str, out: Path) -> Any:
    """A function that takes one row of numbers, for a logger that is installed."""
    try:
        match name:
            case "tensorboard":
                from torch.utils.tensorboard import SummaryWriter

                board = SummaryWriter(str(out / "tensorboard"))
                return lambda row: [board.add_scalar(k, v, row["step"]) for k, v in row.items() if k != "step"]
            case "wandb":
                import wandb  # type: ignore[import-not-found]

                run = wandb.init(project="swath", dir=str(out), resume="allow")
                return lambda row: run.log(row, step=row["step"])
            case _:
                import mlflow  # type: ignore[import-not-found]

                return lambda row: mlflow.log_metrics(row, step=row["step"])
    except ImportError as why:
        raise UserError(
            f"the logger '{name}' is not installed ({why})", where="loop.loggers", remedy=f"pip install {name}"
        ) from why
