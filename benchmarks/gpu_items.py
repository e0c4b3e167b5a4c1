"""The items of `python -m benchmarks.gpu`, in waves: the most important first.

An item is prepared, which may take long and disturb others, and then measured: a function that returns a
function. The items of one wave fit into the memory of one card together.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.attention import attention
from benchmarks.framework_dropout import use_framework_dropout
from benchmarks.shape import Shape
from nanogpt.backend import MAX_STEPS_PER_CALL, Backend
from nanogpt.choice import load_backend
from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.presets import PRESETS
from nanogpt.sampling import SamplingPolicy, sampling_uniforms
from nanogpt.state import TrainingState
from nanogpt.training.batches import StepInputs, step_inputs
from nanogpt.training.hardware import model_flops_utilization
from nanogpt.training.metrics import read_metrics

ROOT = Path(__file__).parents[1]
NANOGPT = "NANOGPT_CLONE"  # environment variable: a clone of karpathy/nanoGPT
DEFAULT, REFERENCE = PRESETS["shakespeare"], PRESETS["reference"]
GPT2 = replace(PRESETS["gpt2"].model, vocab_size=50304)  # as nanoGPT pads it
PROFILED_STEPS = 4
Figures = dict[str, Any]
Measure = Callable[[], Figures]
Item = Callable[[], Measure]


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def machine() -> Measure:
    """Versions, the card, and its two ceilings: a large copy and a large bfloat16 matmul."""
    import jax
    import torch

    smi = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.sm", "--format=csv,noheader"]
    device, size = ("cuda", 8192) if has_gpu() else ("cpu", 64)
    matrix = torch.randn(size, size, device=device).to(torch.bfloat16)
    source = torch.ones(size * size * 32, device=device)
    target = torch.empty_like(source)

    def seconds(act: Callable[[], Any]) -> float:
        act()
        _synchronize()
        begun = time.perf_counter()
        for _ in range(10):
            act()
        _synchronize()
        return (time.perf_counter() - begun) / 10

    def measure() -> Figures:
        return {
            "card": subprocess.run(smi, capture_output=True, text=True).stdout.strip() if has_gpu() else None,
            "jax": jax.__version__,
            "jax devices": str(jax.devices()),
            "torch": torch.__version__,
            "cuDNN": torch.backends.cudnn.version(),
            "python": sys.version.split()[0],
            "copy, TB/s": 8e-12 * len(source) / seconds(lambda: target.copy_(source)),
            "bfloat16 matmul, TFLOP/s": 2e-12 * size**3 / seconds(lambda: matrix @ matrix),
        }

    return measure


def _synchronize() -> None:
    import torch

    if has_gpu():
        torch.cuda.synchronize()


def attention_kinds(name: str, B: int, T: int, H: int, D: int) -> Measure:
    """Milliseconds of attention, by its definition and by the fused kernel."""
    sizes = ("cuda", B, T, H, D) if has_gpu() else ("cpu", 1, 32, H, D)
    return lambda: attention(name, *sizes)


def training(
    model: ModelConfig,
    batch_size: int,
    name: str,
    dtype: str,
    *,
    optimizer: Any = "muon",
    compile: bool = False,
    steps_per_call: int = MAX_STEPS_PER_CALL,
    framework_dropout: bool = False,
) -> Measure:
    """Whole training steps with their transfers to the device: the median of three, after a warm-up."""
    calls = 3
    if not has_gpu():
        model, batch_size, steps_per_call, calls = toy(model), 2, min(steps_per_call, 2), 1
    if framework_dropout:
        use_framework_dropout(name)
    shape = Shape(batch_size, model.block_size)
    recipe = TrainingConfig(optimizer=optimizer, batch_size=batch_size)
    backend = load_backend(name)(model, recipe, TrainingState.initial(model, 0), dtype=dtype, compile=compile)
    inputs = step_inputs(shape.batch, range(steps_per_call), recipe)
    backend.train(*inputs)()

    def measure() -> Figures:
        seconds = []
        for _ in range(3):
            begun = time.perf_counter()
            losses = [backend.train(*inputs) for _ in range(calls)]
            losses[-1]()
            seconds.append((time.perf_counter() - begun) / (calls * steps_per_call))
        figures = speed(model, shape.tokens, float(np.median(seconds)), backend.device_name, dtype)
        figures |= {"loss": float(losses[-1]()[-1]), "memory, GB": memory(name)}
        few = [array[:PROFILED_STEPS] for array in inputs]
        figures |= profile(name, lambda: backend.train(*few)(), min(PROFILED_STEPS, steps_per_call))
        return figures | {"same bits twice": is_repeatable(backend, inputs)}

    return measure


def is_repeatable(backend: Backend, inputs: StepInputs) -> bool:
    """True if the same steps from the same state give the same weights, to the last bit."""
    begun, found = backend.state(), []
    for _ in range(2):
        backend.load(begun)
        backend.train(*inputs)()
        found.append(backend.state().weights)
    return all(np.array_equal(found[0][name], found[1][name]) for name in found[0])


def speed(model: ModelConfig, tokens: int, seconds: float, device_name: str, dtype: str) -> Figures:
    mfu = model_flops_utilization(model, tokens / seconds, device_name, dtype)
    return {"ms a step": 1e3 * seconds, "tokens/s": round(tokens / seconds), "MFU": mfu}


def toy(model: ModelConfig) -> ModelConfig:
    """A model of the same kind that is small enough for any CPU."""
    return replace(model, block_size=32, n_layer=2, n_head=2, n_embd=16, vocab_size=65)


def memory(name: str) -> float | None:
    """Most gigabytes of the device's memory that the framework held at once in this process."""
    if not has_gpu():
        return None
    if name == "jax":
        import jax

        return jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 1e9
    import torch

    return torch.cuda.max_memory_allocated() / 1e9


def profile(name: str, act: Callable[[], Any], steps: int) -> Figures:
    """Kernels of a step, the milliseconds in which they keep the device busy, and the longest by name."""
    if not has_gpu():
        return {}
    try:
        events = {"jax": jax_events, "torch": torch_events}[name](act)
    except Exception as error:  # a profiler that does not work must not cost the figures of an item
        return {"profile": f"failed: {error!r}"}
    by_name: dict[str, float] = defaultdict(float)
    for kernel, milliseconds in events:
        by_name[kernel[:90]] += milliseconds / steps
    longest = sorted(by_name, key=by_name.__getitem__, reverse=True)
    return {
        "kernels": len(events) / steps,
        "busy ms": sum(by_name.values()),
        "longest, ms": {kernel: round(by_name[kernel], 4) for kernel in longest[:25]},
    }


def jax_events(act: Callable[[], Any]) -> list[tuple[str, float]]:
    """Name and milliseconds of everything that ran on the device, by XLA's profiler."""
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            act()
        (file,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(file))
        return [
            (event.name, event.duration_ns / 1e6)
            for plane in data.planes
            if plane.name.startswith("/device:GPU")
            for line in plane.lines
            if line.name.startswith("Stream")
            for event in line.events
        ]


def torch_events(act: Callable[[], Any]) -> list[tuple[str, float]]:
    """Name and milliseconds of everything that ran on the device, by CUPTI."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    with profiler(activities=[ProfilerActivity.CUDA]) as found:
        act()
    return [
        (event.name, event.device_time_total / 1e3)
        for event in found.events()
        if event.device_type == DeviceType.CUDA
    ]


def nanogpt_training(model: ModelConfig, batch_size: int, compiled: bool) -> Measure:
    """Steps of karpathy/nanoGPT's train.py: autocast to bfloat16, clipped gradients, fused AdamW."""
    import torch

    device, calls = ("cuda", 12) if has_gpu() else ("cpu", 1)
    if not has_gpu():
        model, batch_size = toy(model), 2
    module, optimizer = peers.nanogpt(model, Path(os.environ[NANOGPT]), device)
    forward = torch.compile(module) if compiled else module
    shape = Shape(batch_size, model.block_size)
    tokens_BT1 = torch.from_numpy(shape.batch(0)).long().to(device)
    inputs, targets = (t.contiguous() for t in (tokens_BT1[:, :-1], tokens_BT1[:, 1:]))

    def step() -> Any:
        with torch.autocast(device, torch.bfloat16):
            _, loss = forward(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    step().item()

    def measure() -> Figures:
        seconds = []
        for _ in range(3):
            begun = time.perf_counter()
            losses = [step() for _ in range(calls)]
            losses[-1].item()
            seconds.append((time.perf_counter() - begun) / calls)
        name = torch.cuda.get_device_name() if has_gpu() else "cpu"
        figures = speed(model, shape.tokens, float(np.median(seconds)), name, "bfloat16")
        return figures | {"memory, GB": memory("torch")} | profile("torch", lambda: step().item(), 1)

    return measure


def whole_run(name: str, dtype: str) -> Measure:
    """A whole `train.py` with the default recipe, from its start to its last checkpoint."""

    def measure() -> Figures:
        with tempfile.TemporaryDirectory() as folder:
            flags = [f"--backend={name}", f"--dtype={dtype}", f"--out_dir={folder}/run", "--quiet"]
            if not has_gpu():
                flags += ["--max_iters=4", "--eval_interval=4", "--batch_size=2", "--block_size=32"]
                flags += ["--n_layer=1", "--data=python"]
            begun = time.perf_counter()
            subprocess.run([sys.executable, "train.py", *flags], cwd=ROOT, check=True, stdout=sys.stderr)
            seconds = time.perf_counter() - begun
            last = read_metrics(Path(folder) / "run/metrics.jsonl")[-1].as_dict()
        return {"seconds": seconds} | {key: last[key] for key in ("step", "train_loss", "val_loss")}

    return measure


def generation(name: str, batch_size: int) -> Measure:
    """Tokens per second of the default model, within the window."""
    model = DEFAULT.model if has_gpu() else toy(DEFAULT.model)
    backend: Backend = load_backend(name)(model, None, TrainingState.initial(model, 0))
    count = model.block_size - 1

    def generate(seed: int) -> float:
        uniforms_BN = sampling_uniforms(seed, range(batch_size), count)
        begun = time.perf_counter()
        for _ in backend.generate(np.zeros((batch_size, 1), np.int32), uniforms_BN, SamplingPolicy(0.8)):
            pass
        return time.perf_counter() - begun

    generate(0)

    def measure() -> Figures:
        return {"tokens/s": round(batch_size * count / float(np.median([generate(s) for s in (1, 2, 3)])))}

    return measure


def waves() -> list[dict[str, Item]]:
    """Every item by name."""
    shapes = {"reference": (64, 256, 4, 32), "GPT-2": (16, 1024, 12, 64)}
    default = partial(training, DEFAULT.model, DEFAULT.training.batch_size)
    reference = partial(training, REFERENCE.model, 64, optimizer="adamw")
    gpt2 = partial(training, GPT2, dtype="bfloat16", optimizer="adamw", steps_per_call=4)
    small: dict[str, Item] = {"machine": machine}
    for name in ("jax", "torch"):
        few = MAX_STEPS_PER_CALL if name == "jax" else 16
        for dtype in ("bfloat16", "tf32", "float32"):
            small[f"default step, {name}, {dtype}"] = partial(default, name, dtype, steps_per_call=few)
    small["default step, jax, bfloat16, one step a call"] = partial(
        default, "jax", "bfloat16", steps_per_call=1
    )
    small["default step, jax, bfloat16, its own dropout"] = partial(
        default, "jax", "bfloat16", framework_dropout=True
    )
    small["default step, torch, bfloat16, compiled"] = partial(
        default, "torch", "bfloat16", compile=True, steps_per_call=16
    )
    for name in ("jax", "torch"):
        small[f"reference step at batch 64, {name}, bfloat16"] = partial(
            reference, name, "bfloat16", steps_per_call=16
        )
        for batch_size in (1, 64):
            small[f"generation, {name}, batch {batch_size}"] = partial(generation, name, batch_size)
        for model, sizes in shapes.items():
            small[f"attention of the {model} shape, {name}, ms"] = partial(attention_kinds, name, *sizes)
    large: dict[str, Item] = {
        "GPT-2 124M, jax, batch 32": partial(gpt2, 32, "jax"),
        "GPT-2 124M, torch, batch 32, compiled": partial(gpt2, 32, "torch", compile=True),
    }
    larger: dict[str, Item] = {
        "GPT-2 124M, jax, batch 16": partial(gpt2, 16, "jax"),
        "GPT-2 124M, torch, batch 16": partial(gpt2, 16, "torch"),
    }
    if NANOGPT in os.environ:
        small["default step, nanoGPT, compiled"] = partial(nanogpt_training, DEFAULT.model, 32, True)
        larger["GPT-2 124M, nanoGPT, batch 16, compiled"] = partial(nanogpt_training, GPT2, 16, True)
    whole: dict[str, Item] = {"default run, jax, bfloat16": partial(whole_run, "jax", "bfloat16")}
    return [small, large, larger, whole]
