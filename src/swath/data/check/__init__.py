"""`swath check`: look at data before any training, and name every defect with its file, band and value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swath.core.family import Family

if TYPE_CHECKING:
    from swath.data.check.finding import Finding, Report
    from swath.data.check.run import check
    from swath.data.check.survey import Check, Survey

CHECKS: Family[Any] = Family("check", "swath.data.check.rules")

__all__ = ["CHECKS", "Check", "Finding", "Report", "Survey", "check"]
_HOME = {"Finding": "finding", "Report": "finding", "check": "run", "Check": "survey", "Survey": "survey"}


def __getattr__(name: str) -> Any:
    """Load on first use: worker processes import `check.facts` and need nothing else."""
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'swath.data.check' has no attribute '{name}'")
    return getattr(import_module(f"swath.data.check.{_HOME[name]}"), name)
