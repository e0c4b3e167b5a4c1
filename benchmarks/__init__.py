"""Measurements that anyone can repeat: python -m benchmarks.training --help."""
