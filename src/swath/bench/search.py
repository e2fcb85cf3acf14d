"""Hyper-parameters by Optuna (TPE, fixed seed) within a stated number of trials; the choice is stored and reused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from swath.bench.plan import Cell, Search
from swath.core.errors import SwathError


def best(cell: Cell, search: Search, folder: Path) -> dict[str, Any]:
    """Learning rate and batch size with the best validation score over the trials, all with seed 0."""
    seedless = dataclasses.replace(
        cell, run=dataclasses.replace(cell.run, loop=dataclasses.replace(cell.run.loop, seed=0))
    )
    file = folder / f"{seedless.key}-{search.trials}.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))["chosen"]
    import optuna

    from swath.adapt.tune import tune

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    log: list[dict[str, Any]] = []

    def attempt(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", *search.lr, log=True)
        size = int(trial.suggest_categorical("batch_size", list(search.batch_size)))
        loop = dataclasses.replace(seedless.run.loop, lr=lr, batch_size=size)
        out = Path(seedless.run.out).with_name(f"{seedless.run.name}-trial{trial.number}")
        try:
            outcome = tune(dataclasses.replace(seedless.run, loop=loop, out=str(out)))
        except SwathError as error:
            log.append({"lr": lr, "batch_size": size, "error": str(error)})
            raise optuna.TrialPruned from error
        finally:
            shutil.rmtree(out, ignore_errors=True)
        value = float(outcome.record["fit"]["best"])
        log.append({"lr": lr, "batch_size": size, "val": value})
        return value if outcome.record["direction"] == "max" else -value

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(attempt, n_trials=search.trials)
    if not any("val" in row for row in log):
        raise SwathError("every trial of the search failed", where=cell.run.name, remedy=str(log[-1].get("error", "")))
    folder.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps({"chosen": study.best_params, "trials": log}), encoding="utf-8")
    os.replace(part, file)
    return study.best_params
