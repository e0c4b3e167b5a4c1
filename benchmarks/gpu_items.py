"""The items of `python -m benchmarks.gpu`, in the order of their importance."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.attention import attention
from benchmarks.framework_dropout import use_framework_dropout
from benchmarks.shape import Shape
from nanogpt.backend import MAX_STEPS_PER_CALL
from nanogpt.choice import load_backend
from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.sampling import SamplingPolicy, sampling_uniforms
from nanogpt.state import TrainingState
from nanogpt.training.batches import step_inputs
from nanogpt.training.hardware import model_flops_utilization
from nanogpt.training.metrics import read_metrics

ROOT = Path(__file__).parents[1]
REFERENCE = ModelConfig(vocab_size=65, dropout=0.2, attention_dropout=0.2)
GPT2 = ModelConfig(50304, 1024, 12, 12, 768, dropout=0.0, bias=True, activation="gelu", tie_weights=True)
Figures = dict[str, Any]


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def machine() -> Figures:
    """Versions of the libraries, and the card and driver by `nvidia-smi`."""
    import jax
    import torch

    smi = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return {
        "card": subprocess.run(smi, capture_output=True, text=True).stdout.strip() if has_gpu() else None,
        "jax": jax.__version__,
        "jax devices": str(jax.devices()),
        "torch": torch.__version__,
        "cuDNN": torch.backends.cudnn.version(),
        "python": sys.version.split()[0],
    }


def parity() -> Figures:
    """Exit code, verdict and table of the doctor on this device; without a GPU, of its fast tests."""
    flags = ["--device=cuda", "--thorough"] if has_gpu() else []
    command = [sys.executable, "-m", "parity_tests", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    table = done.stdout[done.stdout.find("largest error of") :].splitlines()
    return {"exit code": done.returncode, "summary": done.stdout.splitlines()[-1], "table": table}


def training(
    model: ModelConfig,
    batch_size: int,
    name: str,
    dtype: str,
    *,
    compile: bool = False,
    steps_per_call: int = MAX_STEPS_PER_CALL,
    framework_dropout: bool = False,
) -> Figures:
    """Whole training steps with their transfers to the device: the median of three, after a warm-up."""
    calls = 3
    if not has_gpu():
        model, batch_size, steps_per_call, calls = toy(model), 2, min(steps_per_call, 2), 1
    if framework_dropout:
        use_framework_dropout(name)
    shape = Shape(batch_size, model.block_size)
    state = TrainingState.initial(model, 0)
    begun = time.perf_counter()
    backend = load_backend(name)(
        model,
        TrainingConfig(optimizer="adamw", batch_size=batch_size),
        state,
        dtype=dtype,
        compile=compile,
    )
    inputs = step_inputs(shape.batch, range(steps_per_call), TrainingConfig())
    backend.train(*inputs)()
    first = time.perf_counter() - begun
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        losses = [backend.train(*inputs) for _ in range(calls)]
        losses[-1]()
        seconds.append((time.perf_counter() - begun) / (calls * steps_per_call))
    tokens_per_second = shape.tokens / float(np.median(seconds))
    mfu = model_flops_utilization(model, tokens_per_second, backend.device_name, dtype)
    return {
        "ms a step": 1e3 * float(np.median(seconds)),
        "tokens/s": round(tokens_per_second),
        "MFU": mfu,
        "first call, s": first,
        "loss": float(losses[-1]()[-1]),
    }


def toy(model: ModelConfig) -> ModelConfig:
    """A model of the same kind that is small enough for any CPU."""
    return replace(model, block_size=32, n_layer=2, n_head=2, n_embd=16, vocab_size=65)


def reference_run(name: str, dtype: str) -> Figures:
    """A whole `train.py` with the default recipe, from its start to its last checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--backend={name}", f"--dtype={dtype}", f"--out_dir={folder}/run", "--quiet"]
        if not has_gpu():
            flags += ["--max_iters=4", "--eval_interval=4", "--batch_size=2", "--block_size=32"]
            flags += ["--n_layer=1", "--data=python"]
        begun = time.perf_counter()
        subprocess.run([sys.executable, "train.py", *flags], cwd=ROOT, check=True)
        seconds = time.perf_counter() - begun
        last = read_metrics(Path(folder) / "run/metrics.jsonl")[-1].as_dict()
    return {"seconds": seconds} | {key: last[key] for key in ("step", "train_loss", "val_loss")}


def generation(name: str, batch_size: int) -> Figures:
    """Tokens per second of the reference model, within the window."""
    model = REFERENCE if has_gpu() else toy(REFERENCE)
    backend = load_backend(name)(model, None, TrainingState.initial(model, 0))
    count = model.block_size - 1
    seconds = []
    for seed in range(4):
        uniforms_BN = sampling_uniforms(seed, range(batch_size), count)
        begun = time.perf_counter()
        for _ in backend.generate(np.zeros((batch_size, 1), np.int32), uniforms_BN, SamplingPolicy(0.8)):
            pass
        seconds.append(time.perf_counter() - begun)
    return {"tokens/s": round(batch_size * count / float(np.median(seconds[1:])))}


def items() -> dict[str, Callable[[], Figures]]:
    """Every item by name, the most important first."""
    found: dict[str, Callable[[], Figures]] = {"machine": machine}
    shapes = {"reference": (64, 256, 4, 32), "GPT-2 124M": (16, 1024, 12, 64)}
    for name in ("jax", "torch"):
        for model, (B, T, H, D) in shapes.items():
            wanted = ("cuda", B, T, H, D) if has_gpu() else ("cpu", 1, 32, H, D)
            found[f"attention of the {model} shape, {name}, ms"] = partial(attention, name, *wanted)
    found["parity"] = parity
    for name in ("jax", "torch"):
        for dtype in ("bfloat16", "tf32", "float32"):
            found[f"reference step, {name}, {dtype}"] = partial(training, REFERENCE, 64, name, dtype)
    reference = partial(training, REFERENCE, 64, "jax", "bfloat16")
    no_dropout = partial(
        training, replace(REFERENCE, dropout=0.0, attention_dropout=0.0), 64, "jax", "bfloat16"
    )
    found["reference step, jax, bfloat16, one step a call"] = partial(reference, steps_per_call=1)
    found["reference step, jax, bfloat16, its own dropout"] = partial(reference, framework_dropout=True)
    found["reference step, jax, bfloat16, no dropout"] = no_dropout
    for name in ("jax", "torch"):
        gpt2 = partial(training, GPT2, name=name, dtype="bfloat16", steps_per_call=4)
        for batch_size in (16, 32):
            found[f"GPT-2 124M, {name}, bfloat16, batch {batch_size}"] = partial(gpt2, batch_size=batch_size)
    found["reference run, jax, bfloat16"] = partial(reference_run, "jax", "bfloat16")
    found["reference run, torch, bfloat16"] = partial(reference_run, "torch", "bfloat16")
    found["reference run, jax, tf32"] = partial(reference_run, "jax", "tf32")
    found["reference run, jax, float32"] = partial(reference_run, "jax", "float32")
    compiled = partial(training, REFERENCE, 64, "torch", "bfloat16", compile=True)
    found["reference step, torch, bfloat16, compiled"] = compiled
    found["GPT-2 124M, torch, bfloat16, batch 16, compiled"] = partial(
        training, GPT2, 16, "torch", "bfloat16", compile=True, steps_per_call=4
    )
    for name in ("jax", "torch"):
        for batch_size in (1, 64):
            found[f"generation, {name}, batch {batch_size}"] = partial(generation, name, batch_size)
    return found
