"""Self-supervised objectives, one per file, over shared masks, targets, predictors and losses."""
