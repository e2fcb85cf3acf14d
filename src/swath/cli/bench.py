"""`swath bench ...`: run, import, rank, audit. Each file of `cli/bench_verbs/` with a `command` is one verb."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import typer

app = typer.Typer(help="Judge: runs, records, rankings with intervals, audits.", no_args_is_help=True)

for _file in sorted((Path(__file__).parent / "bench_verbs").glob("*.py")):
    if _file.stem != "__init__":
        _name = _file.stem.rstrip("_").replace("_", "-")
        app.command(_name)(import_module(f"swath.cli.bench_verbs.{_file.stem}").command)
