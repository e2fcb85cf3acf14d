"""One loop for pretraining and tuning, on PyTorch's own engine: exact resume, any number of workers and ranks."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swath.train.config import LoopConfig, Validation
    from swath.train.feed import Feed
    from swath.train.loop import FitReport, Resume, fit

__all__ = ["Feed", "FitReport", "LoopConfig", "Resume", "Validation", "fit"]
_HOME = {"LoopConfig": "config", "Validation": "config", "Feed": "feed", "FitReport": "loop", "Resume": "loop",
         "fit": "loop"}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load on first use: what a loop is told is known without torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'swath.train' has no attribute '{name}'")
    return getattr(import_module(f"swath.train.{_HOME[name]}"), name)
