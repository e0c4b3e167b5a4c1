"""Measurements that anyone can repeat: `python -m benchmarks --help`, and `benchmarks.gpu` for one GPU."""
