"""The wheels with which XLA compiles for NVIDIA cards on a machine without one, and a process with them."""

import hashlib
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import platformdirs
from filelock import FileLock

from nanogpt.errors import InputError

ROOT = Path(__file__).parents[2]
# jax[cuda13] without the libraries that a program needs only when it runs. 1.6 GB on the disk.
WHEELS = [
    f"jax-cuda13-plugin=={version('jaxlib')}",
    f"jax-cuda13-pjrt=={version('jaxlib')}",
    "nvidia-cudnn-cu13==9.28.1.4",
    "nvidia-cuda-nvcc==13.5.37",
    "nvidia-nvvm==13.5.37",
]
VARIABLES = {
    "JAX_PLATFORMS": "cpu",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",  # else the plugin asks for the libraries that are left out
    "JAX_ENABLE_COMPILATION_CACHE": "0",  # a program from the disk would tell nothing about compilation
    "XLA_FLAGS": "--xla_gpu_autotune_level=0",  # there is no card to time kernels on
}


def wheels() -> Path:
    """The folder of the installed wheels, in the user's cache: pip fills it once.

    It is no virtual environment, so that jax and everything else are those of this Python.
    Raises InputError where pip can't have the wheels.
    """
    key = hashlib.sha256(repr((WHEELS, sys.version_info[:2])).encode()).hexdigest()[:12]
    folder = Path(platformdirs.user_cache_dir("nanogpt")) / f"cuda-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
                command = [*pip, "--target", f"{scratch}/wheels", *WHEELS]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
                    raise InputError(f"the wheels that compile for CUDA can't be installed: {reason}")
                Path(scratch, "wheels").rename(folder)
    return folder


def run_python(*arguments: str, xla_flags: str = "") -> None:
    """Run a Python process that can compile for CUDA.

    Raises InputError where the wheels can't be had, and RuntimeError with the end of the process's standard
    error if it fails.
    """
    paths = [str(ROOT), str(wheels()), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | VARIABLES | {"PYTHONPATH": os.pathsep.join(paths)}
    environment["XLA_FLAGS"] += f" {xla_flags}"
    # XLA logs that it finds no card, which is true.
    done = subprocess.run([sys.executable, *arguments], env=environment, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"compilation for CUDA failed:\n{done.stderr[-3000:]}")
