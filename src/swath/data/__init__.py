"""Where pixels come from: cards, sources, samplers, streams, splits, checks."""
