"""Measurements that anyone can repeat: see `python -m benchmarks --help`, or for a GPU `benchmarks.gpu`."""
