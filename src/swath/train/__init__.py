"""One loop for pretraining and tuning, on PyTorch's own engine."""
