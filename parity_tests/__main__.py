"""The doctor: is this device fit for both twins? `python -m parity_tests [--device cpu|cuda|mps]`."""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import pytest


def main() -> int:
    """Print the machine and the versions, run the suite (its table comes at the end), and give a verdict."""
    os.environ.setdefault("XLA_FLAGS", "")  # programs are compiled as train.py compiles them
    names = ("jax", "flax", "optax", "torch", "numpy")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    print(f"{platform.platform()}, Python {platform.python_version()}, {versions}", flush=True)
    # The last -m counts, so a user's own wins. Workers would share one card and its memory: there are none.
    suite = [str(Path(__file__).parent), "-q", "-n", "0", "-m", "not slow and not thorough"]
    code = pytest.main([*suite, *sys.argv[1:]])
    print("verdict: the twins agree here" if code == 0 else "verdict: the twins DIFFER here, see above")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
