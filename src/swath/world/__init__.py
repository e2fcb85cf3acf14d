"""The simulated Earth: one state, every sensor rendered from it."""
