"""Verbs of `swath data`: one file each, with a function `command`; heavy imports stay inside it."""
