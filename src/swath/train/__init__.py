"""One loop for pretraining and tuning, on PyTorch's own engine: exact resume, any number of workers and ranks."""

from swath.train.config import LoopConfig, Validation
from swath.train.feed import Feed
from swath.train.loop import FitReport, fit

__all__ = ["Feed", "FitReport", "LoopConfig", "Validation", "fit"]
