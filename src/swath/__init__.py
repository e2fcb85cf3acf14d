"""Swath: see the Earth, learn from it, fit a model to a job, judge it honestly, use it."""

__version__ = "0.1.0"
__all__ = ["__version__"]
