"""One loop for pretraining and tuning, on PyTorch's own engine: exact resume, any number of workers and ranks."""

from swath.train.config import LoopConfig, Validation
from swath.train.feed import Feed
from swath.train.loop import FitReport, Resume, fit

__all__ = ["Feed", "FitReport", "LoopConfig", "Resume", "Validation", "fit"]
