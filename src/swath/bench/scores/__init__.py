"""Scores of published protocols that no metrics library holds: pure functions, one file per kind."""
