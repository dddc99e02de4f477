"""What pruning costs in accuracy at the same cost, beside Torch-Pruning. ``python -m benchmarks.accuracy --help``."""
