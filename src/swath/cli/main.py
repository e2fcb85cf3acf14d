"""The door: finds the verbs (one file each), and turns errors into one readable block and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from pathlib import Path

import typer

from swath.core.errors import SwathError, UnknownName, readable_warnings

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_VERBS = {"__init__", "__main__", "main", "output", "families", "members"}


def verbs() -> list[str]:
    """Names of the verbs, from the file names."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in NOT_VERBS)


def build() -> typer.Typer:
    """The application: a file that has `app` is a group of verbs, one that has `command` a single verb."""
    app = typer.Typer(
        name="swath",
        help="See the Earth, learn from it, fit a model to a job, judge it honestly, use it.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def door(debug: bool = typer.Option(False, "--debug", help="Show tracebacks.")) -> None:
        if debug:
            os.environ["SWATH_DEBUG"] = "1"

    assert door
    for verb in verbs():
        module = import_module(f"swath.cli.{verb}")
        name = verb.replace("_", "-")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(module.command)
    return app


def main(argv: list[str] | None = None) -> None:
    """Run the command line; exit code 2 for a user's mistake, 1 for ours, 130 for Ctrl-C."""
    args = sys.argv[1:] if argv is None else argv
    first = next((a for a in args if not a.startswith("-")), None)
    debug = os.environ.get("SWATH_DEBUG")
    try:
        if first is not None and first.replace("-", "_") not in verbs():
            raise UnknownName("verb", first, [v.replace("_", "-") for v in verbs()], where="swath")
        with readable_warnings():
            build()(args=args)
    except SwathError as error:
        if os.environ.get("SWATH_DEBUG"):
            raise
        sys.stderr.write("error: " + "\n".join(error.lines()) + "\n")
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        sys.stderr.write("stopped; what was finished is kept\n")
        raise SystemExit(130) from None
    except Exception as error:
        if os.environ.get("SWATH_DEBUG"):
            raise
        remedy = "this is a defect of Swath; --debug shows where"
        if isinstance(error, OSError) and error.errno in FULL:
            remedy = "make room and give the same command again; nothing is left half-written"
        sys.stderr.write(f"error: {type(error).__name__}: {error}\n  remedy: {remedy}\n")
        raise SystemExit(1) from None
    finally:
        if debug is None:
            os.environ.pop("SWATH_DEBUG", None)  # what --debug said holds for this call
