"""Uncertainty: how sure a tuned model is, and how right it is to be so. Each part works on plain arrays."""
