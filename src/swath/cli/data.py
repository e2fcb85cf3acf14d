"""`swath data ...`: look at data sets. Each file of `cli/data_verbs/` with a `command` is one verb of this group."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import typer

app = typer.Typer(help="Data sets: what there is, what a file holds.", no_args_is_help=True)

for _file in sorted((Path(__file__).parent / "data_verbs").glob("*.py")):
    if _file.stem != "__init__":
        _name = _file.stem.replace("_", "-")
        app.command(_name)(import_module(f"swath.cli.data_verbs.{_file.stem}").command)
