"""The proof that the twins are one model: the only place, with benchmarks/, that imports both."""
