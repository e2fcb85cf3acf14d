"""Targets: what a hidden token is to be predicted as. Pure functions of a batch and the encoder's token geometry."""

from swath.objectives.targets.pixels import Patches, patches, standard, standardise

__all__ = ["Patches", "patches", "standard", "standardise"]
