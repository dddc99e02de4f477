"""The model zoo: what prunus can cut, judged by value, beside Torch-Pruning. ``python -m benchmarks.zoo --help``."""
