"""Shared by all tests: JAX compiles fast instead of well, and keeps its programs for one session."""

import os
import tempfile

# LLVM's optimizations would take most of the time of many tests; `nanogpt doctor` has them.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

worker = os.environ.get("PYTEST_XDIST_WORKER")
if not worker:  # a worker takes over the environment of the process that started it
    _compiled = tempfile.TemporaryDirectory(prefix="nanogpt-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
elif hasattr(os, "sched_setaffinity"):
    # A worker keeps to one core, from which the frameworks tell how many threads to start.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
