"""Runs as Python functions, one file per published recipe."""
